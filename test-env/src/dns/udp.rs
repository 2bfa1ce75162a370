//! Many UDP clients on one thread: a socket for each address, all in one epoll set.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::log::{Answer, ClientLog, Log, QueryLog};
use super::message::{Question, Reader};

/// The sockets and what they noted. Must be made inside the clients' namespace.
#[derive(Debug)]
pub(super) struct Fleet {
    sockets: Vec<UdpSocket>,
    servers: Vec<SocketAddr>,
    epoll: Epoll,
    question: Question,
    reader: Reader,
    log: Log,
}

impl Fleet {
    /// Opens a socket at every client address. The sockets are not connected, so that an answer from a
    /// wrong address is seen and not dropped by the kernel.
    pub fn open(clients: &[IpAddr], server: impl Fn(IpAddr) -> SocketAddr) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut sockets = Vec::with_capacity(clients.len());
        for (index, client) in clients.iter().enumerate() {
            let socket =
                UdpSocket::bind((*client, 0)).with_context(|| format!("could not be client {client}"))?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            sockets.push(socket);
        }
        let logs = clients
            .iter()
            .map(|client| ClientLog { client: *client, queries: Vec::new(), errors: Vec::new() })
            .collect();
        Ok(Self {
            sockets,
            servers: clients.iter().map(|client| server(*client)).collect(),
            epoll,
            question: Question::new()?,
            reader: Reader::default(),
            log: Log { clients: logs },
        })
    }

    /// Sends the next query of a client. Its number in the log is its number on the wire.
    pub fn ask(&mut self, client: usize) {
        let log = &mut self.log.clients[client];
        // Truncation is meant: numbers start again after 65,536 queries of one client.
        let message = self.question.numbered(log.queries.len() as u16);
        log.queries.push(QueryLog { sent: Instant::now(), answers: Vec::new() });
        if let Err(error) = self.sockets[client].send_to(&message, self.servers[client]) {
            log.errors.push(format!("could not send: {error}"));
        }
    }

    /// Takes answers until the time is over.
    pub fn listen_until(&mut self, end: Instant) -> Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up: a wait of zero would spin through the last millisecond.
            let wait = EpollTimeout::try_from(left + Duration::from_micros(999))?;
            let ready = match self.epoll.wait(&mut events, wait) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error).context("epoll"),
            };
            for event in &events[..ready] {
                self.receive(usize::try_from(event.data())?);
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// Takes answers until the notes fulfil a condition or the time is over.
    pub fn listen_until_served(&mut self, end: Instant, served: impl Fn(&Log) -> bool) -> Result<()> {
        while !served(&self.log) && Instant::now() < end {
            self.listen_until(Instant::now() + Duration::from_millis(2))?;
        }
        Ok(())
    }

    /// The notes so far.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Ends and returns the notes.
    pub fn into_log(self) -> Log {
        self.log
    }

    fn receive(&mut self, client: usize) {
        let mut buffer = [0; 4096];
        let log = &mut self.log.clients[client];
        loop {
            match self.sockets[client].recv_from(&mut buffer) {
                Ok((length, from)) if from == self.servers[client] => {
                    match self.reader.read(&buffer[..length]) {
                        Ok((id, who)) => {
                            let answer = Answer { at: Instant::now(), who };
                            match newest_with(log.queries.len(), id) {
                                Some(index) => log.queries[index].answers.push(answer),
                                None => log
                                    .errors
                                    .push(format!("{} answered a query never asked: {id}", answer.who)),
                            }
                        }
                        Err(error) => log.errors.push(format!("unreadable answer: {error:#}")),
                    }
                }
                Ok((_, from)) => {
                    log.errors.push(format!("an answer from {from} instead of {}", self.servers[client]))
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // An ICMP error; the socket goes on.
                    log.errors.push(error.to_string());
                    return;
                }
            }
        }
    }
}

/// The last of `count` queries that went out under a 16-bit number.
fn newest_with(count: usize, id: u16) -> Option<usize> {
    let last = count.checked_sub(1)?;
    let back = (last as u16).wrapping_sub(id);
    last.checked_sub(usize::from(back))
}

#[cfg(test)]
mod tests {
    use super::newest_with;

    #[test]
    fn numbers_find_their_query_also_after_they_have_started_again() {
        assert_eq!(newest_with(0, 0), None);
        assert_eq!(newest_with(3, 2), Some(2));
        assert_eq!(newest_with(3, 0), Some(0));
        assert_eq!(newest_with(3, 5), None);
        assert_eq!(newest_with(65_538, 1), Some(65_537));
        assert_eq!(newest_with(65_538, 65_535), Some(65_535));
    }
}
