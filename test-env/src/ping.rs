//! Echo requests from many addresses, and how often each is answered.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;
use crate::process::Process;

/// Replies by asking address.
pub type PingTally = BTreeMap<IpAddr, usize>;

/// Sends one echo request from every address to `target` and counts the replies of each. Returns when
/// every asker has one, or after `patience`, and then listens on for second replies.
///
/// # Errors
/// When a socket can not be opened at an address. Silence is no error but a count of 0.
pub fn ping_all(netns: &Netns, askers: &[IpAddr], target: IpAddr, patience: Duration) -> Result<PingTally> {
    const LINGER: Duration = Duration::from_millis(400);
    netns.within(|| {
        let mut sockets = Vec::with_capacity(askers.len());
        for asker in askers {
            sockets.push((*asker, open(*asker, target)?));
        }
        let mut tally: PingTally = askers.iter().map(|asker| (*asker, 0)).collect();
        let mut end = Instant::now() + patience;
        let mut complete = false;
        while Instant::now() < end {
            let mut heard = false;
            for (asker, socket) in &sockets {
                let mut buffer = [MaybeUninit::uninit(); 256];
                while socket.recv(&mut buffer).is_ok() {
                    *tally.entry(*asker).or_default() += 1;
                    heard = true;
                }
            }
            if !complete && tally.values().all(|replies| *replies > 0) {
                complete = true;
                end = Instant::now() + LINGER;
            }
            if !heard {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(tally)
    })
}

/// A `ping` that goes on until it is stopped.
#[derive(Debug)]
pub struct Pinger {
    process: Process,
    log: PathBuf,
    what: String,
}

impl Pinger {
    /// Starts to ping `target` from a namespace, twenty times a second, logging to a new file in `dir`.
    ///
    /// # Errors
    /// When `ping` can not be started.
    pub fn start(netns: &Netns, target: IpAddr, dir: &Path) -> Result<Self> {
        let what = format!("{} pinging {target}", netns.name());
        let log = dir.join(format!("{what}.log").replace([' ', ':'], "-"));
        let mut command = netns.command("ping");
        command.args(["-n", "-i", "0.05", &target.to_string()]);
        Ok(Self { process: Process::start(command, "ping", &log, false)?, log, what })
    }

    /// Stops it, and fails if a request but the very last was not answered, or one was answered twice.
    ///
    /// # Errors
    /// With the numbers of these requests.
    pub fn ensure_undisturbed(mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait_exit(Duration::from_secs(10))?;
        let text = std::fs::read_to_string(&self.log)?;
        let sent: u64 = text
            .lines()
            .find_map(|line| line.split_once(" packets transmitted")?.0.trim().parse().ok())
            .with_context(|| {
                format!("{}: ping printed no summary:\n{}", self.what, self.process.log_tail(5))
            })?;
        let mut answered: BTreeMap<u64, usize> = (1..sent).map(|request| (request, 0)).collect();
        for line in text.lines().filter(|line| line.contains(" bytes from ")) {
            let number = line.split("icmp_seq=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            *answered.entry(number.with_context(|| format!("a strange line: {line}"))?).or_default() += 1;
        }
        let wrong: Vec<_> = answered.into_iter().filter(|(_, replies)| *replies != 1).collect();
        ensure!(
            wrong.is_empty(),
            "{}: of {sent} requests these were not answered once: {wrong:?}",
            self.what
        );
        ensure!(sent > 1, "{}: hardly a request was sent", self.what);
        Ok(())
    }
}

/// A "ping socket" (icmp(7), ping_group_range) at an address, with one request sent. The kernel fills in
/// checksum and identifier, and hands over replies only.
fn open(asker: IpAddr, target: IpAddr) -> Result<Socket> {
    let (domain, protocol, echo_request) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).context("could not open a ping socket")?;
    if target.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::new(asker, 0).into()).with_context(|| format!("could not ping from {asker}"))?;
    socket.set_nonblocking(true)?;
    let message = [echo_request, 0, 0, 0, 0, 0, 0, 1, b'o', b'n', b'e', b'm', b'a', b'c'];
    socket
        .send_to(&message, &SocketAddr::new(target, 0).into())
        .with_context(|| format!("ping from {asker}"))?;
    Ok(socket)
}
