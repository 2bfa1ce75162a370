//! Rounds in which every client asks, and the watch in which all ask all the time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::log::Log;
use super::tcp;
use super::udp::Fleet;
use crate::netns::Netns;
use crate::topology::{addr, client_v4, client_v6};

/// How long one query is waited for before the client asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to go on listening for second answers after the first ones are in.
const LINGER: Duration = Duration::from_millis(400);
/// Between two clients' queries of one round. The switch floods each to every port, and all of it must
/// pass the 1,000 packets of one processor's backlog (net.core.netdev_max_backlog), which is the machine's
/// and not the lab's.
const PAUSE: Duration = Duration::from_micros(100);
/// Queries a client sends at most in one round.
const TRIES: usize = 4;

/// Many clients of the shared addresses.
#[derive(Clone, Debug)]
pub struct Prober {
    netns: Netns,
    clients: Vec<IpAddr>,
}

impl Prober {
    /// Clients at the first `v4` and `v6` addresses of the client ranges, in namespace `netns`.
    #[must_use]
    pub fn new(netns: &Netns, v4: u16, v6: u16) -> Self {
        let mut clients = client_v4(v4);
        clients.extend(client_v6(v6));
        Self::at(netns, clients)
    }

    /// Clients at these addresses, which `netns` must own.
    #[must_use]
    pub fn at(netns: &Netns, clients: Vec<IpAddr>) -> Self {
        Self { netns: netns.clone(), clients }
    }

    /// The clients' addresses.
    #[must_use]
    pub fn clients(&self) -> &[IpAddr] {
        &self.clients
    }

    /// Every client asks by UDP. Who gets no answer asks again, four times in all; second answers are
    /// waited for.
    ///
    /// # Errors
    /// When the clients can not be set up. Unanswered queries are no error but in the log.
    pub fn udp(&self) -> Result<Log> {
        self.netns.within(|| {
            let mut fleet = self.fleet()?;
            self.open_the_way()?;
            for attempt in 0..TRIES {
                for client in 0..self.clients.len() {
                    let log = &fleet.log().clients[client];
                    if log.server().is_none() && log.queries.len() <= attempt {
                        fleet.ask(client);
                        fleet.listen_until(Instant::now() + PAUSE)?;
                    }
                }
                fleet.listen_until_served(Instant::now() + PATIENCE, |log| log.unserved().is_empty())?;
            }
            fleet.listen_until(Instant::now() + LINGER)?;
            Ok(fleet.into_log())
        })
    }

    /// Lets the first client of each family ask until it is served, so that everybody on the way knows the
    /// next hop's MAC address. After an outage a router may take a second or more to ask for it again, and
    /// what it holds back meanwhile it then floods at once, more than a processor's backlog takes.
    fn open_the_way(&self) -> Result<()> {
        let first = |wanted: fn(&IpAddr) -> bool| self.clients.iter().copied().find(wanted);
        let openers: Vec<IpAddr> =
            [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)].into_iter().flatten().collect();
        let mut fleet = Fleet::open(&openers, server_for)?;
        let end = Instant::now() + PATIENCE * 4;
        while Instant::now() < end && !fleet.log().unserved().is_empty() {
            for opener in 0..openers.len() {
                if fleet.log().clients[opener].server().is_none() {
                    fleet.ask(opener);
                }
            }
            fleet.listen_until_served(Instant::now() + PATIENCE / 10, |log| log.unserved().is_empty())?;
        }
        Ok(())
    }

    /// Every client asks by TCP, over a connection of its own.
    ///
    /// # Errors
    /// As [`Self::udp`].
    pub fn tcp(&self) -> Result<Log> {
        tcp::round(&self.netns, &self.clients, server_for, PATIENCE * 2, TRIES)
    }

    /// Every client asks by UDP again and again, until [`Watch::stop`]. The queries of all clients are
    /// spread evenly over each span `every`; no client waits for an answer before it asks again.
    ///
    /// # Errors
    /// When the clients can not be set up.
    pub fn watch(&self, every: Duration) -> Result<Watch> {
        let mut fleet = self.netns.within(|| self.fleet())?;
        let stop = Arc::new(AtomicBool::new(false));
        let count = self.clients.len();
        let thread = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || -> Result<Log> {
                let pause = every / u32::try_from(count)?;
                let mut next = Instant::now();
                let mut client = 0;
                while !stop.load(Ordering::Relaxed) {
                    // A thread that was kept waiting does not send all it missed in one burst.
                    next = next.max(Instant::now().checked_sub(every / 4).unwrap_or(next));
                    while next <= Instant::now() {
                        fleet.ask(client);
                        client = (client + 1) % count;
                        next += pause;
                    }
                    fleet.listen_until(next)?;
                }
                fleet.listen_until(Instant::now() + LINGER)?;
                Ok(fleet.into_log())
            })
        };
        Ok(Watch { stop, thread, started: Instant::now() })
    }

    fn fleet(&self) -> Result<Fleet> {
        raise_file_limit(self.clients.len() as u64 + 256)?;
        Fleet::open(&self.clients, server_for)
    }
}

/// Clients that ask all the time.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Log>>,
    started: Instant,
}

impl Watch {
    /// Since when they ask.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Ends the asking, waits for late answers and returns the log. The last queries, those of the final
    /// half second, may be without answer for want of time; the linger covers them.
    ///
    /// # Errors
    /// When the clients' thread failed.
    pub fn stop(self) -> Result<Log> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the clients' thread panicked"))?
    }
}

fn server_for(client: IpAddr) -> SocketAddr {
    match client {
        IpAddr::V4(_) => SocketAddr::new(addr::VIP4.into(), 53),
        IpAddr::V6(_) => SocketAddr::new(addr::VIP6.into(), 53),
    }
}

/// Makes room for so many more open files than are usual.
fn raise_file_limit(needed: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = needed.saturating_add(4096).max(soft);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))?;
    }
    Ok(())
}
