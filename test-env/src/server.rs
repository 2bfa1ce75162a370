//! A small server on a host that says whose it is, for what a nameserver can not show: whole large
//! datagrams, long transfers, connections that last.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// A server in a host's namespace, on UDP and TCP. Dropping the handle ends it; connections that are
/// open live on until their client is done.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Listens on `port` of each address, whether the host has it yet or not.
    ///
    /// By UDP it answers `NAME LENGTH` where LENGTH is that of the datagram. By TCP it first sends `NAME`
    /// and a line end; then for each line with a number it sends so many bytes.
    ///
    /// # Errors
    /// When a socket can not be opened.
    pub fn start(netns: &Netns, name: &str, addresses: &[IpAddr], port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for address in addresses {
            let address = SocketAddr::new(*address, port);
            let (datagrams, listener) = netns
                .within(|| Ok((open(address, Type::DGRAM)?, open(address, Type::STREAM)?)))
                .with_context(|| format!("no server on {address}"))?;
            listener.listen(128)?;
            let (name, stop) = (name.to_owned(), Arc::clone(&stop));
            thread::spawn({
                let (name, stop) = (name.clone(), Arc::clone(&stop));
                move || serve_datagrams(&datagrams.into(), &name, &stop)
            });
            thread::spawn(move || serve_connections(&listener, &name, &stop));
        }
        Ok(Self { stop })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn open(address: SocketAddr, kind: Type) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    // The time after which a waiting thread looks whether it is to end; accept(2) keeps to it too.
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn serve_datagrams(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // A client that is gone is no matter of the server's.
            let _ = socket.send_to(format!("{name} {length}").as_bytes(), from);
        }
    }
}

fn serve_connections(listener: &Socket, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok((connection, _)) = listener.accept() {
            let name = name.to_owned();
            // Broken connections are what some tests are about; the client's side tells of them.
            thread::spawn(move || serve_connection(connection.into(), &name));
        }
    }
}

fn serve_connection(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_nodelay(true)?;
    writeln!(stream, "{name}")?;
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        stream.write_all(&vec![b'x'; line?.trim().parse()?])?;
    }
    Ok(())
}

/// Sends one datagram of `length` bytes from `client` to a [`Server`] and returns the answer: who, and
/// how long it found the datagram.
///
/// # Errors
/// When no answer comes within `patience`, or a second one comes.
pub fn ask_udp(
    netns: &Netns,
    client: IpAddr,
    server: SocketAddr,
    length: usize,
    patience: Duration,
) -> Result<(String, usize)> {
    netns.within(|| {
        let socket = UdpSocket::bind((client, 0))?;
        socket.set_read_timeout(Some(patience))?;
        socket.send_to(&vec![b'q'; length], server).with_context(|| format!("{length} bytes to {server}"))?;
        let mut buffer = [0; 256];
        let (size, _) = socket.recv_from(&mut buffer).with_context(|| format!("{client} got no answer"))?;
        let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        if let Ok((size, _)) = socket.recv_from(&mut buffer) {
            bail!("{client} got a second answer: {text} and {}", String::from_utf8_lossy(&buffer[..size]));
        }
        let (who, seen) = text.split_once(' ').context("a strange answer")?;
        Ok((who.to_owned(), seen.parse()?))
    })
}

/// Connects from `client` to a [`Server`], has it send `bytes` bytes, and returns who it was.
///
/// # Errors
/// When the connection breaks, or stays silent longer than `patience`.
pub fn fetch_tcp(
    netns: &Netns,
    client: IpAddr,
    server: SocketAddr,
    bytes: usize,
    patience: Duration,
) -> Result<String> {
    netns.within(|| {
        let mut reader = BufReader::new(connect_from(client, server, patience)?);
        let mut who = String::new();
        reader.read_line(&mut who).context("the server did not say its name")?;
        writeln!(reader.get_mut(), "{bytes}")?;
        let mut data = vec![0; bytes];
        reader.read_exact(&mut data).with_context(|| format!("the transfer from {} broke", who.trim()))?;
        Ok(who.trim().to_owned())
    })
}

/// A connection from a chosen address, in the namespace of the calling thread.
pub(crate) fn connect_from(client: IpAddr, server: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    let any = client == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || client == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if !any {
        socket.bind(&SocketAddr::new(client, 0).into())?;
    }
    socket
        .connect_timeout(&server.into(), patience)
        .with_context(|| format!("{client} could not connect to {server}"))?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Ok(socket.into())
}
