//! The smallest datagrams there are, in planned moves: what tells one from another is next to nothing, and each is
//! answered once all the same.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc;
use onemac_test_env::{Lab, Plan, Server, addr, client_v4, client_v6};

const PORT: u16 = 5300;
/// Every client sends so often, unless it still waits.
const EVERY: Duration = Duration::from_millis(10);
/// After so long without an answer a datagram is lost.
const LOST: Duration = Duration::from_secs(5);
/// For second answers, after the last datagram.
const LINGER: Duration = Duration::from_millis(500);

/// A client that sends the same bytes from the same port, again and again, each when the one before is answered.
struct Client {
    socket: UdpSocket,
    to: SocketAddr,
    payload: Vec<u8>,
    /// When the last one was sent that is not answered.
    waits: Option<Instant>,
    due: Instant,
    sent: usize,
    answers: usize,
    lost: usize,
}

/// Clients with payloads of 0 to 16 and of 64 bytes, IPv4 and IPv6, without fragments and identification; of IPv4
/// every other without a checksum. Those of the others are left to the (virtual) network card.
fn clients(each: u16) -> Result<Vec<Client>> {
    let sizes = (0..=16).chain([64]).cycle();
    let addresses = client_v4(each).into_iter().chain(client_v6(each));
    addresses.zip(sizes).enumerate().map(|(n, (from, size))| Client::open(from, size, n % 2 == 0)).collect()
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) -> Result<()> {
    // SAFETY: the socket is open, and the option is a number that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    ensure!(result == 0, "option {option}: {}", std::io::Error::last_os_error());
    Ok(())
}

impl Client {
    fn open(from: IpAddr, size: usize, without_checksum: bool) -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
        socket.set_nonblocking(true)?;
        if from.is_ipv4() {
            // With "do not fragment" a socket that is not connected counts no identification.
            set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
            set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, without_checksum.into())?;
        }
        let vip = if from.is_ipv4() { addr::VIP4.into() } else { addr::VIP6.into() };
        let (to, due) = (SocketAddr::new(vip, PORT), Instant::now());
        Ok(Self { socket, to, payload: vec![7; size], waits: None, due, sent: 0, answers: 0, lost: 0 })
    }

    fn turn(&mut self, sending: bool) {
        let mut buffer = [0; 64];
        while self.socket.recv_from(&mut buffer).is_ok() {
            self.answers += 1;
            self.waits = None;
        }
        let now = Instant::now();
        if self.waits.is_some_and(|since| now - since > LOST) {
            self.lost += 1;
            self.waits = None;
        }
        if sending && self.waits.is_none() && self.due <= now {
            self.due = now + EVERY;
            // What the kernel does not take is not sent.
            if self.socket.send_to(&self.payload, self.to).is_ok() {
                self.sent += 1;
                self.waits = Some(now);
            }
        }
    }
}

/// The clients at work, in a thread of their own.
struct Flood {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<Client>>,
}

impl Flood {
    fn start(mut clients: Vec<Client>) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, tells) = (Arc::clone(&stop), Arc::clone(&answers));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                clients.iter_mut().for_each(|client| client.turn(true));
                tells.store(clients.iter().map(|client| client.answers).sum(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
            let mut end = Instant::now() + LINGER;
            while Instant::now() < end {
                clients.iter_mut().for_each(|client| client.turn(false));
                if clients.iter().any(|client| client.waits.is_some()) {
                    end = Instant::now() + LINGER;
                }
                thread::sleep(Duration::from_millis(1));
            }
            clients
        });
        Self { stop, answers, thread }
    }

    fn stop(self) -> Result<Vec<Client>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the flood panicked"))
    }
}

#[test]
fn datagrams_of_every_size_are_answered_once_in_planned_moves() -> Result<()> {
    let mut plan = Plan::hosts(2);
    // No lease lapses on a busy machine: this is about moves.
    plan.definition.lease = Some("10s".to_owned());
    let lab = Lab::start(&plan)?;
    let _servers: Vec<Server> = lab.hosts().iter().map(|h| h.start_server(PORT)).collect::<Result<_>>()?;
    let flood = Flood::start(lab.clients().within(|| clients(75))?);
    let goes_on = || {
        let so_far = flood.answers.load(Ordering::Relaxed);
        lab.wait_until("every client to be answered many times", Duration::from_secs(60), || {
            Ok(flood.answers.load(Ordering::Relaxed) > so_far + 2_000)
        })
    };
    goes_on()?;
    for round in 0..6 {
        let host = lab.host(1 + round / 2 % 2);
        let ended = host.onemac(&[if round % 2 == 0 { "drain" } else { "resume" }])?;
        ensure!(ended.code == 0, "{}", ended.stderr);
        lab.wait_settled()?;
        goes_on()?;
    }
    let clients = flood.stop()?;
    let (mut sent, mut wrong) = (0, Vec::new());
    for client in &clients {
        sent += client.sent;
        let Client { sent, answers, lost, payload, .. } = client;
        if (*answers, *lost) != (*sent, 0) {
            let who = client.socket.local_addr().context("no address")?.ip();
            wrong
                .push(format!("{who}, {} bytes: {sent} sent, {answers} answers, {lost} lost", payload.len()));
        }
    }
    ensure!(wrong.is_empty(), "{sent} sent; of {} clients:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{sent} datagrams, each answered once");
    Ok(())
}
