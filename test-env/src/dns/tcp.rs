//! TCP clients: a few at a time, each a connection of its own from its own address.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::log::{Answer, ClientLog, Log, QueryLog};
use super::message::{Question, Reader};
use crate::netns::Netns;

/// Connections at one time. Knot's listen queue holds ten; a full one costs the next client a second.
const AT_ONCE: usize = 8;

/// After this nobody starts to ask any more; who has not asked stays unserved.
const ROUND: Duration = Duration::from_secs(30);

/// Asks once from every address; where that fails, `tries` times at most.
pub(super) fn round(
    netns: &Netns,
    clients: &[IpAddr],
    server: impl Fn(IpAddr) -> SocketAddr + Sync,
    patience: Duration,
    tries: usize,
) -> Result<Log> {
    let question = Question::new()?;
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let logs = Mutex::new(Vec::with_capacity(clients.len()));
    let work = || -> Result<()> {
        netns.enter()?;
        let mut reader = Reader::default();
        while let Some(client) = clients.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Where nobody answers, the patience of hundreds of clients would take an hour.
            let tries = if started.elapsed() < ROUND { tries } else { 0 };
            let log = ask_client(*client, server(*client), &question, &mut reader, patience, tries);
            logs.lock().unwrap_or_else(PoisonError::into_inner).push(log);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a TCP client panicked"))?)
    })?;
    let mut clients = logs.into_inner().unwrap_or_else(PoisonError::into_inner);
    clients.sort_by_key(|log: &ClientLog| log.client);
    Ok(Log { clients })
}

fn ask_client(
    client: IpAddr,
    server: SocketAddr,
    question: &Question,
    reader: &mut Reader,
    patience: Duration,
    tries: usize,
) -> ClientLog {
    let mut log = ClientLog { client, queries: Vec::new(), errors: Vec::new() };
    for _ in 0..tries {
        // Truncation is meant; there are never so many tries.
        let id = log.queries.len() as u16;
        let mut query = QueryLog { sent: Instant::now(), answers: Vec::new() };
        match exchange(client, server, &question.numbered(id), patience) {
            Ok(messages) => {
                for message in messages {
                    match reader.read(&message) {
                        Ok((answered, who)) if answered == id => {
                            query.answers.push(Answer { at: Instant::now(), who })
                        }
                        Ok((answered, who)) => {
                            log.errors.push(format!("{who} answered {answered} instead of {id}"))
                        }
                        Err(error) => log.errors.push(format!("unreadable answer: {error:#}")),
                    }
                }
            }
            Err(error) => log.errors.push(format!("{error:#}")),
        }
        let served = !query.answers.is_empty();
        log.queries.push(query);
        if served {
            break;
        }
    }
    log
}

/// Sends one message and reads messages until the server closes.
fn exchange(client: IpAddr, server: SocketAddr, message: &[u8], patience: Duration) -> Result<Vec<Vec<u8>>> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.connect_timeout(&server.into(), patience).context("could not connect")?;
    socket.set_read_timeout(Some(patience))?;
    let mut stream: std::net::TcpStream = socket.into();
    let mut framed = u16::try_from(message.len())?.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).context("could not send")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            anyhow::bail!("no answer within {patience:?}")
        }
        Err(error) => return Err(error).context("the connection broke"),
    }
    split(&received)
}

/// Cuts a stream into its messages, each led by its length in two bytes.
fn split(mut stream: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut messages = Vec::new();
    while let [high, low, rest @ ..] = stream {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        ensure!(rest.len() >= length, "the connection ended within a message");
        messages.push(rest[..length].to_vec());
        stream = &rest[length..];
    }
    ensure!(stream.is_empty(), "the connection ended within a length");
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_stream_is_cut_into_its_messages() {
        assert_eq!(split(&[]).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(split(&[0, 1, 7, 0, 2, 8, 9]).unwrap(), vec![vec![7], vec![8, 9]]);
        assert!(split(&[0, 3, 1, 2]).is_err());
        assert!(split(&[0]).is_err());
    }
}
