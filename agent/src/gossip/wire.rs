//! The gossip socket: every datagram of the agents goes out and comes in here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBufForce;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::Word;
use super::letter::Letter;
use super::seal::{Kind, Opened, Sealer, Speaks};
use crate::secret::Key;

/// The largest datagram that UDP over IPv4 can carry.
pub const DATAGRAM_MAX: usize = 65_507;

/// Room for what waits for hosts that do not answer ARP: three seconds of datagrams for each of 63, some
/// 60 of 2 KiB (with the kernel's book-keeping) each.
const SEND_BUFFER: usize = 8 << 20;

/// How many incoming messages wait for a reader. More than a few rounds of the largest cluster; beyond
/// that the newest are dropped, which gossip repairs.
const QUEUE: usize = 1024;

/// Where a datagram came from, and what was in it.
pub type Datagram = (SocketAddr, Vec<u8>);

/// What comes in.
#[derive(Debug)]
pub enum Incoming {
    /// A host's own word, sent directly.
    Word(Word),
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
    peers: RwLock<HashMap<SocketAddr, String>>,
    /// For the operator.
    pub counts: Counts,
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
        let sealer = Mutex::new(Sealer::new(keys, me, nonce));
        let peers = RwLock::new(peers);
        Ok(Arc::new(Wire { me, socket, sealer, peers, counts: Counts::default() }))
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
            loop {
                match wire.socket.recv_from(&mut buffer).await {
                    Ok((len, from)) => wire.receive(from, &buffer[..len], &queue),
                    // Errors of earlier sends (ICMP) and of memory: the socket goes on.
                    Err(error) => tracing::debug!(%error, "gossip socket"),
                }
                if queue.is_closed() {
                    return;
                }
            }
        });
        incoming
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
                Opened::Greet => Some(sealer.seal_greeting(from, datagram)),
                Opened::Replay => {
                    self.counts.replayed.fetch_add(1, Ordering::Relaxed);
                    None
                }
                Opened::Forged => {
                    self.counts.forged.fetch_add(1, Ordering::Relaxed);
                    let _ = queue.try_send(Incoming::Stranger(host.clone()));
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
            Kind::Report => super::decode(body).map(Incoming::Word),
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

    fn sealer(&self) -> MutexGuard<'_, Sealer> {
        // A panic while the lock was held leaves counters that are at worst too high.
        self.sealer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
