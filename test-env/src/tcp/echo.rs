//! The server of one host: a greeting of one byte, the host's number, and then every byte back.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{SockRef, Type};

use super::PORT;
use crate::netns::Netns;
use crate::numbered::{BEFORE_AGENTS, be_urgent};
use crate::server::open;

/// After this without anything to do the thread looks whether it is to end.
const LOOK_MS: u8 = 50;
/// All connections of a crowd may come at once.
const BACKLOG: i32 = 4096;

/// A running server: one thread, whatever the number of connections. Dropping the handle ends it and them soon.
#[derive(Debug)]
pub struct EchoServer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    open: AtomicUsize,
    /// 0 nothing, 1 end all connections in order, 2 with a reset.
    cut: AtomicU8,
}

impl EchoServer {
    /// Listens on the shared addresses in the namespace of host `number`, whether it has them yet or not.
    ///
    /// # Errors
    /// When a socket can not be opened.
    pub fn start(netns: &Netns, number: u8, vips: &[IpAddr]) -> Result<Self> {
        let mut listeners = Vec::new();
        for vip in vips {
            let address = SocketAddr::new(*vip, PORT);
            let listener = netns
                .within(|| open(address, Type::STREAM))
                .with_context(|| format!("no echo server on {address}"))?;
            listener.listen(BACKLOG)?;
            listener.set_nonblocking(true)?;
            listeners.push(TcpListener::from(listener));
        }
        let shared = Arc::new(Shared::default());
        let serving = Serving {
            number,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listeners,
            connections: HashMap::new(),
            shared: Arc::clone(&shared),
        };
        for listener in &serving.listeners {
            serving.epoll.add(listener, readable(listener))?;
        }
        thread::Builder::new().name(format!("echo-{number}")).spawn(move || serving.serve())?;
        Ok(Self { shared })
    }

    /// Open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Ends all connections soon, in order or with a reset, as a bad server would: to see a crowd notice.
    pub fn cut(&self, reset: bool) {
        self.shared.cut.store(1 + u8::from(reset), Ordering::Relaxed);
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

struct Serving {
    number: u8,
    epoll: Epoll,
    listeners: Vec<TcpListener>,
    /// By their file descriptors, which are also what the kernel names them by.
    connections: HashMap<u64, TcpStream>,
    shared: Arc<Shared>,
}

fn name_of(socket: &impl AsRawFd) -> u64 {
    // Open descriptors are not negative.
    u64::from(socket.as_raw_fd().cast_unsigned())
}

fn readable(socket: &impl AsRawFd) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, name_of(socket))
}

impl Serving {
    fn serve(mut self) {
        be_urgent(BEFORE_AGENTS);
        let mut events = vec![EpollEvent::empty(); 512];
        while !self.shared.stop.load(Ordering::Relaxed) {
            // A signal's interruption is a look without anything to do.
            let count = self.epoll.wait(&mut events, LOOK_MS).unwrap_or(0);
            for event in &events[..count] {
                let name = event.data();
                match self.listeners.iter().position(|listener| name_of(listener) == name) {
                    Some(listener) => self.accept(listener),
                    None => self.answer(name),
                }
            }
            self.cut();
            self.shared.open.store(self.connections.len(), Ordering::Relaxed);
        }
    }

    fn accept(&mut self, listener: usize) {
        // Until there is none left; what broke before it was accepted is told by its client.
        while let Ok((stream, _)) = self.listeners[listener].accept() {
            // Without any of these the connection is closed, and its client tells of it.
            let ready = stream.set_nonblocking(true).is_ok()
                && stream.set_nodelay(true).is_ok()
                && (&stream).write(&[self.number]).is_ok()
                && self.epoll.add(&stream, readable(&stream)).is_ok();
            if ready {
                self.connections.insert(name_of(&stream), stream);
            }
        }
    }

    fn answer(&mut self, name: u64) {
        let Some(mut stream) = self.connections.get(&name) else { return };
        let mut buffer = [0; 512];
        let lives = match stream.read(&mut buffer) {
            Ok(0) => false,
            // Fewer bytes than the smallest send buffer ever travel, so a short write is a broken connection.
            Ok(count) => matches!(stream.write(&buffer[..count]), Ok(written) if written == count),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if !lives {
            self.connections.remove(&name);
        }
    }

    fn cut(&mut self) {
        let how = self.shared.cut.swap(0, Ordering::Relaxed);
        if how == 0 {
            return;
        }
        for (_, stream) in self.connections.drain() {
            if how == 2 {
                // Closing with a linger time of zero sends a reset; a socket that refuses is closed in order.
                let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
            }
        }
    }
}
