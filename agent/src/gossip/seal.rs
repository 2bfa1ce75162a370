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
//! While the secret changes there are two keys. A peer is spoken to with the first key that it accepts: a greeting
//! names the secrets that its sender accepts. Nonces, counters and windows are of the peer, whatever the key, so
//! nothing is accepted a second time under another key.
//!
//! Not covered: secrecy (the state of the cluster is readable on the wire).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use crate::secret::{Key, SecretId};

/// Bytes before the body.
pub const HEADER: usize = 41;
const SIGNED: usize = 25;

/// How many given-up nonces of a sender are remembered. One is spent on every restart of its agent.
const RETIRED_MAX: usize = 4096;

/// After so many datagrams to a peer it is told again which secrets are accepted here: about once a second.
const TELL: u32 = 16;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A greeting or its answer: the nonces, and the names of the secrets that its sender accepts.
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
    /// The first is spoken to every peer that accepts it.
    keys: Vec<Key>,
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
    /// The secret that it spoke last.
    spoke: Option<SecretId>,
    /// The secrets that it accepts, the one that it wants to speak first; empty if it has not said.
    accepts: Vec<SecretId>,
    /// Datagrams to it since it was told what is accepted here.
    untold: u32,
}

/// What is known of a peer's secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speaks {
    /// The one that it spoke last.
    pub last: Option<SecretId>,
    /// Those that it accepts, the one that it wants to speak first; empty if it has not said.
    pub accepts: Vec<SecretId>,
}

impl Sealer {
    /// An end at address `me` with one key or two. `nonce` must differ from that of every other run; not 0.
    pub fn new(keys: Vec<Key>, me: SocketAddr, nonce: u64) -> Self {
        Sealer { keys, me, nonce, peers: HashMap::new() }
    }

    /// These are the keys from now on. All else goes on: who was heard, which counters were seen.
    pub fn set_keys(&mut self, keys: Vec<Key>) {
        self.keys = keys;
        self.peers.values_mut().for_each(|peer| peer.untold = TELL);
    }

    /// What is known of a peer's secrets.
    pub fn speaks(&self, peer: SocketAddr) -> Speaks {
        let known = self.peers.get(&peer);
        known.map(|p| Speaks { last: p.spoke, accepts: p.accepts.clone() }).unwrap_or_default()
    }

    /// Whether it is time to greet a peer once more, so that it knows what is accepted here.
    pub fn owes_greeting(&self, peer: SocketAddr) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.untold >= TELL)
    }

    /// Whether the peer's nonce is known, so that it will accept more than greetings.
    pub fn knows(&self, peer: SocketAddr) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.nonce != 0)
    }

    /// A datagram for `to`.
    pub fn seal(&mut self, to: SocketAddr, kind: Kind, body: &[u8]) -> Vec<u8> {
        let peer = self.peers.entry(to).or_default();
        let theirs = peer.nonce;
        let key = peer.choose(&self.keys);
        peer.untold += 1;
        if kind != Kind::Hello {
            return self.write(to, kind, theirs, key, body);
        }
        peer.untold = 0;
        let accepted: Vec<u8> = self.keys.iter().flat_map(|key| key.id.0).collect();
        self.write(to, kind, theirs, key, &accepted)
    }

    fn write(&mut self, to: SocketAddr, kind: Kind, theirs: u64, key: usize, body: &[u8]) -> Vec<u8> {
        let peer = self.peers.entry(to).or_default();
        peer.sent += 1;
        let mut datagram = Vec::with_capacity(HEADER + body.len());
        datagram.push(kind as u8);
        for number in [self.nonce, theirs, peer.sent] {
            datagram.extend_from_slice(&number.to_le_bytes());
        }
        let key = self.keys.get(key).map_or(&[0; 32], |key| &key.gossip);
        let mac = mac(key, self.me, to, &datagram, body);
        datagram.extend_from_slice(&mac);
        datagram.extend_from_slice(body);
        datagram
    }

    /// A greeting in answer to `datagram`, which [`Sealer::open`] found worth one: it names the run that
    /// the datagram came from, without believing that this run still lasts. It is never larger than the datagram.
    pub fn seal_greeting(&mut self, to: SocketAddr, datagram: &[u8]) -> Vec<u8> {
        let theirs = datagram.get(1..9).map_or(0, number);
        let key = self.key_of(to, datagram).unwrap_or(0);
        self.write(to, Kind::Hello, theirs, key, &[])
    }

    /// The key that a datagram from `from` was made with, if it is one of ours.
    fn key_of(&self, from: SocketAddr, datagram: &[u8]) -> Option<usize> {
        let (header, body) = datagram.split_at_checked(HEADER)?;
        let made_with = |key: &Key| {
            let expected = mac(&key.gossip, from, self.me, &header[..SIGNED], body);
            // Both sides as hashes: their comparison takes the same time wherever they differ.
            blake3::hash(&expected) == blake3::hash(&header[SIGNED..])
        };
        self.keys.iter().position(made_with)
    }

    /// What `datagram`, received from `from`, is worth.
    pub fn open<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Opened<'a> {
        let Some(key) = self.key_of(from, datagram) else { return Opened::Forged };
        let (header, body) = datagram.split_at(HEADER);
        let Some(kind) = Kind::from_byte(header[0]) else { return Opened::Forged };
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
        if !peer.accept(counter) {
            return Opened::Replay;
        }
        // One that was overtaken says what was.
        if counter == peer.newest {
            peer.spoke = Some(self.keys[key].id);
            if kind == Kind::Hello && !body.is_empty() {
                peer.accepts =
                    body.chunks_exact(4).map(|id| SecretId([id[0], id[1], id[2], id[3]])).collect();
            }
        }
        Opened::Body(kind, body)
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
        // Its secrets may be others now.
        (self.spoke, self.accepts) = (None, Vec::new());
    }

    /// Which key to speak: the first that the peer accepts. Of whom nothing is known is spoken to with each in turn.
    fn choose(&self, keys: &[Key]) -> usize {
        let accepted = |key: &Key| match self.accepts.is_empty() {
            true => Some(key.id) == self.spoke,
            false => self.accepts.contains(&key.id),
        };
        let turn = || self.sent as usize % keys.len().max(1);
        keys.iter().position(accepted).unwrap_or_else(turn)
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

    fn key(n: u8) -> Key {
        Key { id: SecretId([n; 4]), gossip: [n; 32] }
    }

    fn keys(names: &[u8]) -> Vec<Key> {
        names.iter().map(|&n| key(n)).collect()
    }

    /// A's next report arrives at B; the name of the secret that it spoke.
    fn report(a: &mut Sealer, b: &mut Sealer) -> u8 {
        let datagram = a.seal(b.me, Kind::Report, b"report");
        assert_eq!(b.open(a.me, &datagram), Opened::Body(Kind::Report, b"report"));
        assert_eq!(b.open(a.me, &datagram), Opened::Replay);
        b.speaks(a.me).last.unwrap().0[0]
    }

    /// A greets B once more, as it does every second.
    fn tell(a: &mut Sealer, b: &mut Sealer) {
        let hello = a.seal(b.me, Kind::Hello, b"");
        assert!(matches!(b.open(a.me, &hello), Opened::Body(Kind::Hello, _)));
    }

    fn pair() -> (Sealer, Sealer) {
        let mut a = Sealer::new(keys(&[7]), address(1), 11);
        let mut b = Sealer::new(keys(&[7]), address(2), 22);
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
        assert!(matches!(b.open(at_a, &proof), Opened::Body(Kind::Hello, _)));
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
        let mut stranger = Sealer::new(keys(&[8]), address(1), 11);
        let datagram = stranger.seal(b.me, Kind::Hello, b"");
        assert_eq!(b.open(a.me, &datagram), Opened::Forged);
        let datagram = a.seal(b.me, Kind::Report, b"for b");
        assert_eq!(b.open(address(3), &datagram), Opened::Forged, "from another address");
        let mut c = Sealer::new(keys(&[7]), address(3), 22);
        assert_eq!(c.open(a.me, &datagram), Opened::Forged, "sent on to another host");
        assert_eq!(a.open(a.me, &datagram), Opened::Forged, "reflected");
    }

    #[test]
    fn a_restarted_receiver_greets_and_an_old_run_of_the_sender_stays_dead() {
        let (mut a, mut b) = pair();
        let old = a.seal(b.me, Kind::Report, b"old run");
        let mut a2 = Sealer::new(keys(&[7]), a.me, 12);
        greet(&mut a2, &mut b);
        let new = a2.seal(b.me, Kind::Report, b"new run");
        assert_eq!(b.open(a.me, &new), Opened::Body(Kind::Report, b"new run"));
        assert_eq!(b.open(a.me, &old), Opened::Replay);
        let mut b2 = Sealer::new(keys(&[7]), b.me, 23);
        assert_eq!(b2.open(a.me, &new), Opened::Greet, "recorded before this run");
    }

    #[test]
    fn the_secret_changes_one_host_after_the_other() {
        let (mut a, mut b) = pair();
        assert_eq!(report(&mut a, &mut b), 7);
        // A prefers the new one, and speaks the old one until B accepts the new one.
        a.set_keys(keys(&[8, 7]));
        assert!(a.owes_greeting(b.me));
        tell(&mut a, &mut b);
        assert!(!a.owes_greeting(b.me));
        assert_eq!(b.speaks(a.me).accepts, [key(8).id, key(7).id]);
        assert_eq!((report(&mut a, &mut b), report(&mut b, &mut a)), (7, 7));
        b.set_keys(keys(&[8, 7]));
        assert_eq!(report(&mut b, &mut a), 8, "A has said that it accepts it");
        tell(&mut b, &mut a);
        assert_eq!((report(&mut a, &mut b), report(&mut b, &mut a)), (8, 8));
        let recorded = a.seal(b.me, Kind::Report, b"recorded");
        b.set_keys(keys(&[8]));
        assert_eq!((report(&mut a, &mut b), report(&mut b, &mut a)), (8, 8));
        a.set_keys(keys(&[8]));
        tell(&mut a, &mut b);
        assert_eq!((report(&mut a, &mut b), report(&mut b, &mut a)), (8, 8));
        // On the way all the time, it is late and no more; once.
        assert_eq!(b.open(a.me, &recorded), Opened::Body(Kind::Report, b"recorded"));
        assert_eq!(b.open(a.me, &recorded), Opened::Replay);
    }

    #[test]
    fn nothing_is_accepted_twice_or_by_another_key_when_the_secret_changes() {
        let (mut a, mut b) = pair();
        let old = a.seal(b.me, Kind::Report, b"old");
        assert!(matches!(b.open(a.me, &old), Opened::Body(..)));
        for set in [&[7, 8][..], &[8, 7], &[8, 7]] {
            a.set_keys(keys(set));
            b.set_keys(keys(set));
            tell(&mut b, &mut a);
            assert_eq!(b.open(a.me, &old), Opened::Replay, "the window is the same");
        }
        let new = a.seal(b.me, Kind::Report, b"new");
        assert!(matches!(b.open(a.me, &new), Opened::Body(..)));
        assert_eq!(b.speaks(a.me).last, Some(key(8).id));
        b.set_keys(keys(&[8]));
        assert_eq!(b.open(a.me, &old), Opened::Forged);
        assert_eq!(b.open(a.me, &new), Opened::Replay);
    }

    #[test]
    fn who_starts_with_any_of_two_secrets_is_met() {
        for (ours, theirs, met) in [
            (&[8, 7][..], &[7][..], 7),
            (&[8, 7], &[8], 8),
            (&[7, 8], &[8, 7], 7),
            (&[7], &[8, 7], 7),
            (&[8], &[8, 7], 8),
        ] {
            let (_, mut b) = pair();
            b.set_keys(keys(theirs));
            let mut a = Sealer::new(keys(ours), address(1), 12);
            let at_b = b.me;
            // One of two greetings is understood.
            let answers: Vec<_> = (0..2)
                .filter_map(|_| {
                    let hello = a.seal(at_b, Kind::Hello, b"");
                    let opened = b.open(a.me, &hello);
                    (opened == Opened::Greet).then(|| b.seal_greeting(a.me, &hello))
                })
                .collect();
            assert!(!answers.is_empty(), "{ours:?} {theirs:?}");
            for answer in &answers {
                assert_eq!(answer.len(), HEADER, "a greeting is answered by no more");
                assert!(matches!(a.open(at_b, answer), Opened::Body(..)));
            }
            tell(&mut a, &mut b);
            tell(&mut b, &mut a);
            assert_eq!(report(&mut a, &mut b), met, "{ours:?} {theirs:?}");
        }
    }
}
