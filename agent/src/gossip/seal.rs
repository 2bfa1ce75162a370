//! Authentication of datagrams, and the refusal of replays. Pure: bytes in, bytes out.
//!
//! A datagram is `kind (1) | sender's nonce (8) | receiver's nonce (8) | counter (8) | MAC (16) | body`,
//! numbers little-endian. A nonce names one run of one agent. The MAC is the first half of BLAKE3, keyed,
//! over the sender's and the receiver's address, the header before it, and the body.
//!
//! - Only who knows the key makes a MAC; only for these two addresses; so nothing can be reflected or
//!   sent on to a third host.
//! - Only who has heard this run of the receiver knows its nonce; so nothing recorded earlier is accepted.
//! - Within a run a counter grows, and a window of the last 64 refuses what was seen.
//! - A nonce that a sender has given up is not taken up again, so an old run of it can not be replayed
//!   to a receiver that goes on running.
//!
//! Not covered: secrecy (the state of the cluster is readable on the wire), and the change of the secret
//! in a running cluster.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// Bytes before the body.
pub const HEADER: usize = 41;
const SIGNED: usize = 25;

/// How many given-up nonces of a sender are remembered. One is spent on every restart of its agent.
const RETIRED_MAX: usize = 4096;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but the nonces: a greeting or its answer.
    Hello,
    /// A datagram of chitchat.
    Gossip,
    /// A report.
    Report,
    /// What an operator wants, or what came of it.
    Letter,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Kind::Hello, Kind::Gossip, Kind::Report, Kind::Letter].into_iter().find(|&k| k as u8 == byte)
    }
}

/// What came of a received datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Genuine and new.
    Body(Kind, &'a [u8]),
    /// Genuine, but from before this run or before a handshake: answer with a greeting.
    Greet,
    /// Genuine and seen before, or from a run that is over.
    Replay,
    /// Not made with our key for these addresses.
    Forged,
}

/// One end of all conversations of an agent.
pub struct Sealer {
    key: [u8; 32],
    me: SocketAddr,
    nonce: u64,
    peers: HashMap<SocketAddr, Peer>,
}

#[derive(Default)]
struct Peer {
    /// The run of the peer that we talk to; 0: not known yet.
    nonce: u64,
    retired: VecDeque<u64>,
    sent: u64,
    newest: u64,
    /// Bit `i`: counter `newest - i` has been seen.
    seen: u64,
}

impl Sealer {
    /// An end at address `me`. `nonce` must differ from that of every other run; not 0.
    pub fn new(key: [u8; 32], me: SocketAddr, nonce: u64) -> Self {
        Sealer { key, me, nonce, peers: HashMap::new() }
    }

    /// Whether the peer's nonce is known, so that it will accept more than greetings.
    pub fn knows(&self, peer: SocketAddr) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.nonce != 0)
    }

    /// A datagram for `to`.
    pub fn seal(&mut self, to: SocketAddr, kind: Kind, body: &[u8]) -> Vec<u8> {
        let theirs = self.peers.entry(to).or_default().nonce;
        self.write(to, kind, theirs, body)
    }

    fn write(&mut self, to: SocketAddr, kind: Kind, theirs: u64, body: &[u8]) -> Vec<u8> {
        let peer = self.peers.entry(to).or_default();
        peer.sent += 1;
        let mut datagram = Vec::with_capacity(HEADER + body.len());
        datagram.push(kind as u8);
        for number in [self.nonce, theirs, peer.sent] {
            datagram.extend_from_slice(&number.to_le_bytes());
        }
        let mac = mac(&self.key, self.me, to, &datagram, body);
        datagram.extend_from_slice(&mac);
        datagram.extend_from_slice(body);
        datagram
    }

    /// A greeting in answer to `datagram`, which [`Sealer::open`] found worth one: it names the run that
    /// the datagram came from, without believing that this run still lasts.
    pub fn seal_greeting(&mut self, to: SocketAddr, datagram: &[u8]) -> Vec<u8> {
        let theirs = datagram.get(1..9).map_or(0, number);
        self.write(to, Kind::Hello, theirs, &[])
    }

    /// What `datagram`, received from `from`, is worth.
    pub fn open<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Opened<'a> {
        if datagram.len() < HEADER {
            return Opened::Forged;
        }
        let (header, body) = datagram.split_at(HEADER);
        let expected = mac(&self.key, from, self.me, &header[..SIGNED], body);
        // Both sides as hashes: their comparison takes the same time wherever they differ.
        let equal = blake3::hash(&expected) == blake3::hash(&header[SIGNED..]);
        let Some(kind) = Kind::from_byte(header[0]).filter(|_| equal) else { return Opened::Forged };
        let [theirs, ours, counter] = [1, 9, 17].map(|at| number(&header[at..]));
        if ours != self.nonce {
            return Opened::Greet;
        }
        let peer = self.peers.entry(from).or_default();
        if peer.retired.contains(&theirs) {
            return Opened::Replay;
        }
        if peer.nonce != theirs {
            peer.begin(theirs);
        }
        match peer.accept(counter) {
            true => Opened::Body(kind, body),
            false => Opened::Replay,
        }
    }
}

impl Peer {
    /// A new run of the peer.
    fn begin(&mut self, nonce: u64) {
        if self.nonce != 0 {
            self.retired.push_back(self.nonce);
            if self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
        }
        (self.nonce, self.newest, self.seen) = (nonce, 0, 0);
    }

    fn accept(&mut self, counter: u64) -> bool {
        if counter > self.newest {
            let ahead = counter - self.newest;
            self.seen = if ahead < 64 { self.seen << ahead } else { 0 } | 1;
            self.newest = counter;
            return true;
        }
        let behind = self.newest - counter;
        let new = behind < 64 && self.seen & (1 << behind) == 0;
        if new {
            self.seen |= 1 << behind;
        }
        new
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes[..8].iter().rev().fold(0, |n, &b| (n << 8) | u64::from(b))
}

fn mac(key: &[u8; 32], from: SocketAddr, to: SocketAddr, header: &[u8], body: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for address in [from, to] {
        // As IPv6 in any case, so that the length is fixed.
        let ip = match address.ip() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            std::net::IpAddr::V6(v6) => v6,
        };
        hasher.update(&ip.octets()).update(&address.port().to_le_bytes());
    }
    hasher.update(header).update(body);
    let mut mac = [0; 16];
    mac.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 7946))
    }

    fn pair() -> (Sealer, Sealer) {
        let mut a = Sealer::new([7; 32], address(1), 11);
        let mut b = Sealer::new([7; 32], address(2), 22);
        greet(&mut a, &mut b);
        (a, b)
    }

    /// A greets B; B knows only that somebody with the key wants to talk; its answer tells A its nonce.
    fn greet(a: &mut Sealer, b: &mut Sealer) {
        let (at_a, at_b) = (a.me, b.me);
        let hello = a.seal(at_b, Kind::Hello, b"");
        assert_eq!(b.open(at_a, &hello), Opened::Greet);
        let answer = b.seal_greeting(at_a, &hello);
        assert_eq!(a.open(at_b, &answer), Opened::Body(Kind::Hello, b""));
        assert!(a.knows(at_b));
        let proof = a.seal(at_b, Kind::Hello, b"");
        assert_eq!(b.open(at_a, &proof), Opened::Body(Kind::Hello, b""));
        assert!(b.knows(at_a));
    }

    #[test]
    fn a_conversation() {
        let (mut a, mut b) = pair();
        let one = a.seal(b.me, Kind::Report, b"one");
        assert_eq!(b.open(a.me, &one), Opened::Body(Kind::Report, b"one"));
        let two = b.seal(a.me, Kind::Gossip, b"two");
        assert_eq!(a.open(b.me, &two), Opened::Body(Kind::Gossip, b"two"));
    }

    #[test]
    fn fifty_replays_of_fifty_are_refused_and_late_ones_are_not() {
        let (mut a, mut b) = pair();
        let sent: Vec<_> = (0..50u8).map(|i| a.seal(b.me, Kind::Report, &[i])).collect();
        for (i, datagram) in sent.iter().enumerate().rev() {
            assert_eq!(
                b.open(a.me, datagram),
                Opened::Body(Kind::Report, &[i as u8]),
                "late is not replayed"
            );
        }
        for datagram in &sent {
            assert_eq!(b.open(a.me, datagram), Opened::Replay);
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_refused() {
        let (mut a, mut b) = pair();
        let old = a.seal(b.me, Kind::Report, b"old");
        for _ in 0..64 {
            let new = a.seal(b.me, Kind::Report, b"new");
            assert!(matches!(b.open(a.me, &new), Opened::Body(..)));
        }
        assert_eq!(b.open(a.me, &old), Opened::Replay);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let (mut a, mut b) = pair();
        let datagram = a.seal(b.me, Kind::Report, b"body");
        for bit in 0..datagram.len() * 8 {
            let mut forged = datagram.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(b.open(a.me, &forged), Opened::Forged, "bit {bit}");
        }
        assert_eq!(b.open(a.me, &datagram[..HEADER - 1]), Opened::Forged);
    }

    #[test]
    fn another_key_and_other_addresses_are_forgeries() {
        let (mut a, mut b) = pair();
        let mut stranger = Sealer::new([8; 32], address(1), 11);
        let datagram = stranger.seal(b.me, Kind::Hello, b"");
        assert_eq!(b.open(a.me, &datagram), Opened::Forged);
        let datagram = a.seal(b.me, Kind::Report, b"for b");
        assert_eq!(b.open(address(3), &datagram), Opened::Forged, "from another address");
        let mut c = Sealer::new([7; 32], address(3), 22);
        assert_eq!(c.open(a.me, &datagram), Opened::Forged, "sent on to another host");
        assert_eq!(a.open(a.me, &datagram), Opened::Forged, "reflected");
    }

    #[test]
    fn a_restarted_receiver_greets_and_an_old_run_of_the_sender_stays_dead() {
        let (mut a, mut b) = pair();
        let old = a.seal(b.me, Kind::Report, b"old run");
        let mut a2 = Sealer::new([7; 32], a.me, 12);
        greet(&mut a2, &mut b);
        let new = a2.seal(b.me, Kind::Report, b"new run");
        assert_eq!(b.open(a.me, &new), Opened::Body(Kind::Report, b"new run"));
        assert_eq!(b.open(a.me, &old), Opened::Replay);
        let mut b2 = Sealer::new([7; 32], b.me, 23);
        assert_eq!(b2.open(a.me, &new), Opened::Greet, "recorded before this run");
    }
}
