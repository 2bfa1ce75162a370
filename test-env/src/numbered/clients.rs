//! The clients: one thread that sends for all addresses, one for each family that takes the answers.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};

use super::responder::QUEUE_BYTES;
use super::tally::{Answer, Tally};
use super::{BEFORE_AGENTS, Message, PORT, be_urgent};
use crate::netns::Netns;
use crate::topology::{addr, client_v4, client_v6};

/// How long to go on listening for second answers after the last query.
const LINGER: Duration = Duration::from_millis(500);
/// After this without an answer a receiving thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Queries due are sent together so often. Their copies for all hosts must pass the 1,000 packets of one
/// processor's backlog (net.core.netdev_max_backlog), so not much more rarely.
const STEP: Duration = Duration::from_micros(500);
/// What a sender that was kept waiting makes up for; the rest of the missed queries is not sent.
const CATCH_UP: Duration = Duration::from_millis(2);

/// How many clients, and how often each sends.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// IPv4 clients.
    pub v4: u16,
    /// IPv6 clients.
    pub v6: u16,
    /// Between two queries of a client.
    pub every: Duration,
}

/// Clients that send all the time.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    sender: JoinHandle<Vec<Vec<u64>>>,
    receivers: Vec<JoinHandle<Vec<Answer>>>,
}

#[derive(Debug)]
struct Shared {
    clients: Vec<IpAddr>,
    started: Instant,
    /// Wall clock, which is the kernel's for the times of datagrams, when [`Self::started`] was.
    started_unix: Duration,
    /// When each client had its last answer, microseconds from the start.
    last_us: Vec<AtomicU64>,
    /// The number of the host that gave it.
    last_host: Vec<AtomicU8>,
    stop_sending: AtomicBool,
    stop_listening: AtomicBool,
}

impl Clients {
    /// Starts to send to the shared addresses from the clients' namespace.
    ///
    /// # Errors
    /// When the sockets can not be opened.
    pub fn start(netns: &Netns, load: Load) -> Result<Self> {
        let mut clients = client_v4(load.v4);
        clients.extend(client_v6(load.v6));
        let (v4, v6) = netns.within(|| Ok((open("0.0.0.0:0")?, open("[::]:0")?)))?;
        let last_us = clients.iter().map(|_| AtomicU64::new(0)).collect();
        let last_host = clients.iter().map(|_| AtomicU8::new(0)).collect();
        let shared = Arc::new(Shared {
            clients,
            started: Instant::now(),
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH)?,
            last_us,
            last_host,
            stop_sending: AtomicBool::new(false),
            stop_listening: AtomicBool::new(false),
        });
        let receivers = [&v4, &v6]
            .map(|socket| {
                let (socket, shared) = (socket.try_clone(), Arc::clone(&shared));
                socket.map(|socket| thread::spawn(move || receive(&socket, &shared)))
            })
            .into_iter()
            .collect::<std::io::Result<_>>()?;
        let sender = thread::spawn({
            let shared = Arc::clone(&shared);
            move || send(&v4, &v6, load.every, &shared)
        });
        Ok(Self { shared, sender, receivers })
    }

    /// Whether every client has had an answer since then.
    #[must_use]
    pub fn all_answered_since(&self, moment: Instant) -> bool {
        let since = micros(moment.saturating_duration_since(self.shared.started));
        self.shared.last_us.iter().all(|last| last.load(Ordering::Relaxed) > since)
    }

    /// How many clients have had their last answer from the host of this number. Asking costs nothing that
    /// would disturb what is measured.
    #[must_use]
    pub fn served_by(&self, host: u8) -> usize {
        self.shared.last_host.iter().filter(|last| last.load(Ordering::Relaxed) == host).count()
    }

    /// Ends the sending, waits for late answers and returns what was noted.
    ///
    /// # Errors
    /// When a thread has panicked.
    pub fn stop(self) -> Result<Tally> {
        let panicked = |_| anyhow!("a thread of the numbered clients panicked");
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        let sent = self.sender.join().map_err(panicked)?;
        thread::sleep(LINGER);
        self.shared.stop_listening.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for receiver in self.receivers {
            answers.extend(receiver.join().map_err(panicked)?);
        }
        let start = (self.shared.started, self.shared.started_unix);
        Ok(Tally::new(self.shared.clients.clone(), start, sent, answers))
    }
}

fn open(address: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("no clients' socket at {address}"))?;
    setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &QUEUE_BYTES)?;
    setsockopt(&socket.as_fd(), sockopt::ReceiveTimestampns, &true)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Sends each client's next number when it is due; the clients' turns are spread evenly over `every`.
/// Returns when each client sent each of its numbers, in microseconds from the start.
fn send(v4: &UdpSocket, v6: &UdpSocket, every: Duration, shared: &Shared) -> Vec<Vec<u64>> {
    be_urgent(BEFORE_AGENTS);
    let count = shared.clients.len();
    let mut sent = vec![Vec::new(); count];
    let pause = every / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let mut due = Instant::now();
    let mut client = 0;
    while !shared.stop_sending.load(Ordering::Relaxed) {
        let now = Instant::now();
        due = due.max(now.checked_sub(CATCH_UP).unwrap_or(due));
        while due <= now {
            // There are never more clients than addresses, of which a u16 counts.
            // Numbers of one client never reach a u32 in any run of a lab.
            let message = Message { client: client as u16, number: sent[client].len() as u32, host: 0 };
            sent[client].push(micros(shared.started.elapsed()));
            // What the kernel does not take is a number without an answer.
            let _ = ask(v4, v6, shared.clients[client], &message.bytes());
            client = (client + 1) % count;
            due += pause;
        }
        thread::sleep(STEP.max(due.saturating_duration_since(Instant::now())));
    }
    sent
}

/// Sends from the client's address by the one socket of its family.
fn ask(v4: &UdpSocket, v6: &UdpSocket, client: IpAddr, bytes: &[u8]) -> nix::Result<usize> {
    let data = [IoSlice::new(bytes)];
    match client {
        IpAddr::V4(client) => {
            let source = in_addr { s_addr: u32::from_ne_bytes(client.octets()) };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: source };
            let to = SockaddrIn::from(SocketAddrV4::new(addr::VIP4, PORT));
            let source = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(v4.as_raw_fd(), &data, &source, MsgFlags::empty(), Some(&to))
        }
        IpAddr::V6(client) => {
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: client.octets() }, ipi6_ifindex: 0 };
            let to = SockaddrIn6::from(SocketAddrV6::new(addr::VIP6, PORT, 0, 0));
            let source = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(v6.as_raw_fd(), &data, &source, MsgFlags::empty(), Some(&to))
        }
    }
}

/// Takes answers of one family until told to stop.
fn receive(socket: &UdpSocket, shared: &Shared) -> Vec<Answer> {
    be_urgent(BEFORE_AGENTS);
    let mut answers = Vec::new();
    while !shared.stop_listening.load(Ordering::Relaxed) {
        // Nothing within a look, or what is no answer: the numbers tell what is missing.
        let Ok(Some(answer)) = take(socket, shared) else { continue };
        let client = usize::from(answer.client);
        if let (Some(at), Some(host)) = (shared.last_us.get(client), shared.last_host.get(client)) {
            at.store(answer.at_us, Ordering::Relaxed);
            host.store(answer.host, Ordering::Relaxed);
        }
        answers.push(answer);
    }
    answers
}

fn take(socket: &UdpSocket, shared: &Shared) -> std::result::Result<Option<Answer>, Errno> {
    let mut buffer = [0; 64];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let (length, from, at) = {
        let mut data = [IoSliceMut::new(&mut buffer)];
        let got =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut control), MsgFlags::empty())?;
        let at = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
            _ => None,
        });
        (got.bytes, got.address.as_ref().and_then(plain), at)
    };
    let (Some(message), Some(at)) = (Message::read(&buffer[..length]), at) else { return Ok(None) };
    let from_vip =
        from.is_some_and(|from| from.port() == PORT && (from.ip() == addr::VIP4 || from.ip() == addr::VIP6));
    let at_us = micros(at.saturating_sub(shared.started_unix));
    Ok(Some(Answer { client: message.client, number: message.number, host: message.host, at_us, from_vip }))
}

fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}
