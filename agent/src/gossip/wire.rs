//! The gossip socket: every datagram of the agents goes out and comes in here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use onemac_core::node::STRANGER_INTERVAL;
use onemac_core::time::Time;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::letter::Letter;
use super::seal::{Kind, Opened, Sealer, Speaks};
use crate::clock;
use crate::secret::Key;

/// The largest datagram that UDP over IPv4 can carry.
pub const DATAGRAM_MAX: usize = 65_507;

/// Room for what waits for hosts that do not answer ARP: three seconds of datagrams for each of 63, some
/// 60 of 2 KiB (with the kernel's book-keeping) each.
const SEND_BUFFER: usize = 8 << 20;

/// Room for some ten thousand small datagrams: what comes in a flood while the loop does something else.
const RECEIVE_BUFFER: usize = 8 << 20;

/// How many datagrams are read in one turn, and the rest before the next turn if more are waiting. A flood takes about
/// half a processor at most, and the loop has its turn in between; ordinary rounds of the largest cluster are one turn.
const TURN: usize = 512;
/// And how many bytes: to check a large datagram takes as long as to check fifty small ones.
const TURN_BYTES: usize = 1 << 20;
const REST: Duration = Duration::from_millis(1);

/// A host is greeted at most so often. Any greeting leads to a handshake with the present run of the host, whatever
/// datagram it answers, so that a flood of old ones cannot keep it from the one that it needs.
const GREETING_INTERVAL: Duration = Duration::from_millis(20);

/// How many incoming messages wait for a reader. More than a few rounds of the largest cluster; beyond
/// that the newest are dropped, which gossip repairs.
const QUEUE: usize = 1024;

/// Where a datagram came from, and what was in it.
pub type Datagram = (SocketAddr, Vec<u8>);

/// What comes in.
#[derive(Debug)]
pub enum Incoming {
    /// A word that this host has sent, its own or another's.
    Word(String, Vec<u8>),
    /// A datagram of chitchat.
    Gossip(Datagram),
    /// A datagram from this configured host failed authentication.
    Stranger(String),
    /// Another host's operator wants something of ours, or ours has an answer.
    Letter(String, Letter),
}

/// Counts for the operator.
#[derive(Debug, Default)]
pub struct Counts {
    /// Datagrams that failed authentication.
    pub forged: AtomicU64,
    /// Genuine datagrams that came a second time or from a run that is over.
    pub replayed: AtomicU64,
    /// Datagrams from addresses that no configured host has.
    pub unknown: AtomicU64,
    /// Genuine datagrams that this version can not read.
    pub unreadable: AtomicU64,
}

/// The socket and its secrets.
pub struct Wire {
    me: SocketAddr,
    socket: UdpSocket,
    sealer: Mutex<Sealer>,
    /// What somebody else may make us do, by the address that it seems to come from. Configured hosts only.
    limits: Mutex<HashMap<SocketAddr, Limits>>,
    peers: RwLock<HashMap<SocketAddr, String>>,
    /// For the operator.
    pub counts: Counts,
}

/// When a host was last greeted, and told of as a stranger.
#[derive(Default)]
struct Limits {
    greeted: Option<Time>,
    told: Option<Time>,
}

/// Whether this long has passed since; then it is now.
fn may(last: &mut Option<Time>, interval: Duration) -> bool {
    let now = clock::now();
    let may = last.is_none_or(|at| now.since(at) >= interval);
    if may {
        *last = Some(now);
    }
    may
}

impl Wire {
    /// Binds `me`. The first of one or two keys is spoken to all who accept it. `peers` are the other configured hosts by address.
    pub async fn open(
        me: SocketAddr,
        keys: Vec<Key>,
        nonce: u64,
        peers: HashMap<SocketAddr, String>,
    ) -> io::Result<Arc<Self>> {
        let socket = UdpSocket::bind(me).await?;
        // Where this is not allowed the ordinary size has to do.
        let _ = setsockopt(&socket, SndBufForce, &SEND_BUFFER);
        let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
        let sealer = Mutex::new(Sealer::new(keys, me, nonce));
        let peers = RwLock::new(peers);
        let limits = Mutex::default();
        Ok(Arc::new(Wire { me, socket, sealer, limits, peers, counts: Counts::default() }))
    }

    /// Sends `body` to `to`; before a handshake a greeting goes in its place. Whether a datagram left.
    ///
    /// Nothing is sent to this host itself: chitchat takes what an earlier agent was here for another member.
    pub fn send(&self, to: SocketAddr, kind: Kind, body: &[u8]) -> bool {
        if to == self.me {
            return false;
        }
        let (greeting, datagram) = {
            let mut sealer = self.sealer();
            match sealer.knows(to) {
                true => {
                    let greeting = sealer.owes_greeting(to).then(|| sealer.seal(to, Kind::Hello, &[]));
                    (greeting, sealer.seal(to, kind, body))
                }
                false => (None, sealer.seal(to, Kind::Hello, &[])),
            }
        };
        if let Some(greeting) = greeting {
            self.put(to, &greeting);
        }
        self.put(to, &datagram)
    }

    /// These are the keys from now on.
    pub fn set_keys(&self, keys: Vec<Key>) {
        self.sealer().set_keys(keys);
    }

    /// What is known of the other hosts' secrets.
    pub fn speaks(&self) -> HashMap<String, Speaks> {
        let sealer = self.sealer();
        self.known_peers().iter().map(|(at, host)| (host.clone(), sealer.speaks(*at))).collect()
    }

    /// Sends `body` to one host or to all; whether any datagram left.
    pub fn send_to_hosts(&self, only: Option<&str>, kind: Kind, body: &[u8]) -> bool {
        let mut left = false;
        for (&address, host) in &*self.known_peers() {
            if only.is_none_or(|wanted| wanted == host) {
                left |= self.send(address, kind, body);
            }
        }
        left
    }

    /// The other hosts by address.
    pub fn peers(&self) -> HashMap<SocketAddr, String> {
        self.known_peers().clone()
    }

    /// The same, for as long as it takes to read them.
    fn known_peers(&self) -> RwLockReadGuard<'_, HashMap<SocketAddr, String>> {
        // A panic while the lock was held leaves the old or the new ones.
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are the other hosts from now on.
    pub fn set_peers(&self, peers: HashMap<SocketAddr, String>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Starts reading. The returned queue gets everything that is genuine.
    pub fn listen(self: &Arc<Self>) -> mpsc::Receiver<Incoming> {
        let (queue, incoming) = mpsc::channel(QUEUE);
        let wire = Arc::clone(self);
        tokio::spawn(async move {
            let mut buffer = vec![0; DATAGRAM_MAX];
            while !queue.is_closed() {
                if let Err(error) = wire.socket.readable().await {
                    tracing::debug!(%error, "gossip socket");
                }
                if !wire.turn(&mut buffer, &queue) {
                    tokio::time::sleep(REST).await;
                }
            }
        });
        incoming
    }

    /// Reads what waits, but not for long; whether that was all.
    fn turn(&self, buffer: &mut [u8], queue: &mpsc::Sender<Incoming>) -> bool {
        let mut bytes = 0;
        for _ in 0..TURN {
            match self.socket.try_recv_from(buffer) {
                Ok((len, from)) => {
                    self.receive(from, &buffer[..len], queue);
                    bytes += len;
                    if bytes >= TURN_BYTES {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // Errors of earlier sends (ICMP) and of memory: the socket goes on.
                Err(error) => tracing::debug!(%error, "gossip socket"),
            }
        }
        false
    }

    fn receive(&self, from: SocketAddr, datagram: &[u8], queue: &mpsc::Sender<Incoming>) {
        let peers = self.known_peers();
        let Some(host) = peers.get(&from) else {
            self.counts.unknown.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let greeting = {
            let mut sealer = self.sealer();
            let met = sealer.knows(from);
            match sealer.open(from, datagram) {
                Opened::Body(kind, body) => {
                    self.deliver((from, host), kind, body, queue);
                    // The first genuine word of a run: show that we have heard it.
                    (!met).then(|| sealer.seal(from, Kind::Hello, &[]))
                }
                Opened::Greet => {
                    let may_greet =
                        may(&mut self.limits().entry(from).or_default().greeted, GREETING_INTERVAL);
                    may_greet.then(|| sealer.seal_greeting(from, datagram))
                }
                Opened::Replay => {
                    self.counts.replayed.fetch_add(1, Ordering::Relaxed);
                    None
                }
                Opened::Forged => {
                    self.counts.forged.fetch_add(1, Ordering::Relaxed);
                    if may(&mut self.limits().entry(from).or_default().told, STRANGER_INTERVAL) {
                        let _ = queue.try_send(Incoming::Stranger(host.clone()));
                    }
                    None
                }
            }
        };
        if let Some(greeting) = greeting {
            self.put(from, &greeting);
        }
    }

    fn deliver(
        &self,
        (from, host): (SocketAddr, &str),
        kind: Kind,
        body: &[u8],
        queue: &mpsc::Sender<Incoming>,
    ) {
        let incoming = match kind {
            Kind::Hello => return,
            Kind::Gossip => Some(Incoming::Gossip((from, body.to_vec()))),
            Kind::Report => Some(Incoming::Word(host.into(), body.to_vec())),
            Kind::Letter => Letter::decode(body).map(|letter| Incoming::Letter(host.into(), letter)),
        };
        match incoming {
            // A full queue drops: whoever can not keep up hears the next heartbeat.
            Some(incoming) => drop(queue.try_send(incoming)),
            None => drop(self.counts.unreadable.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Never waits: datagrams to hosts whose MAC address does not resolve fill the send buffer for seconds,
    /// and the loop must not stand still with them. What finds no room is lost, as on a network.
    fn put(&self, to: SocketAddr, datagram: &[u8]) -> bool {
        match self.socket.try_send_to(datagram, to) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%to, %error, "a datagram did not leave");
                false
            }
        }
    }

    fn limits(&self) -> MutexGuard<'_, HashMap<SocketAddr, Limits>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sealer(&self) -> MutexGuard<'_, Sealer> {
        // A panic while the lock was held leaves counters that are at worst too high.
        self.sealer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
