//! Words as broadcast frames on the service wire: the way by which everybody hears a heartbeat that is sent once.
//!
//! It is also a second path: if the gossip network is cut while the hosts still share the wire that their clients are
//! on, each would think the others gone, and take their clients.
//!
//! A frame is `broadcast | own MAC | 0x88b5 | length (2, big endian) | authentication (16) | content`; the
//! ethertype is IEEE 802's first for local experiments. The content is a word ([`super::words`]). The authentication is
//! keyed BLAKE3 over it, with a key derived for this purpose. While two secrets are accepted, every word goes out under
//! each, for whoever does not accept the other. That a frame is authentic does not say when it was made: replays are
//! refused where words are read. A second look is for what was heard before, so that it does not wake the loop.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use onemac_core::report::Stamp;
use tokio::sync::mpsc;

use super::words;

use crate::kernel::packet::PacketSocket;
use crate::secret::Key;

/// IEEE Std 802, 9.2.3: "Local Experimental Ethertype 1".
const ETHERTYPE: u16 = 0x88b5;
const HEADER: usize = 14 + 2 + 16;
/// The largest frame that is heard: Ethernet's. What is sent is smaller ([`super::CONTENT_MAX`]).
const FRAME_MAX: usize = 1514;
/// How many heard words may wait for the loop; more are dropped, and the next heartbeat makes up for them. Room for the
/// pieces of the largest body.
const QUEUE: usize = 2048;
/// Room for the pieces of the largest body, and for those of many hosts at once.
const BUFFER: usize = 8 << 20;
/// How many frames are read in one turn, and the rest before the next if more are waiting: a flood must not take all of
/// a processor.
const TURN: usize = 256;
const REST: Duration = Duration::from_millis(1);

/// How many senders are remembered: more than a definition has hosts. Only who knows the secret adds one.
const SENDERS: usize = 1024;

/// The sending side.
pub struct Beacon {
    socket: Arc<PacketSocket>,
    sealer: FrameSealer,
}

impl Beacon {
    /// Opens the path on a device, and a thread that listens on it until the queue's reader is gone.
    pub fn open(index: u32, mac: [u8; 6], keys: &[Key]) -> io::Result<(Self, mpsc::Receiver<Vec<u8>>)> {
        let sealer = FrameSealer::new(keys, mac);
        let socket = Arc::new(PacketSocket::open(index, ETHERTYPE)?);
        socket.set_buffers(BUFFER);
        let (heard, words) = mpsc::channel(QUEUE);
        let (ear, opener) = (Arc::clone(&socket), sealer.clone());
        thread::Builder::new().name("beacon".into()).spawn(move || listen(&ear, &opener, &heard))?;
        Ok((Beacon { socket, sealer }, words))
    }

    /// Whether it is the path on this device with this address, and hears all that comes there.
    pub fn is_on(&self, index: u32, mac: [u8; 6]) -> bool {
        (self.socket.index(), self.sealer.mac) == (index, mac) && !self.socket.went_down()
    }

    /// Sends a word under each accepted secret. It has left under one of them, or why not.
    pub fn send(&self, word: &[u8]) -> io::Result<()> {
        let frames = self.sealer.seal(word);
        let sent = frames.iter().map(|frame| self.socket.send(frame)).reduce(io::Result::or);
        sent.unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()))
    }

    /// These are the keys from now on.
    pub fn set_keys(&self, keys: &[Key]) {
        self.sealer.set_keys(keys);
    }
}

fn listen(socket: &PacketSocket, sealer: &FrameSealer, heard: &mpsc::Sender<Vec<u8>>) {
    let mut frame = vec![0; FRAME_MAX];
    let mut newest = Newest::default();
    let mut turn = 0;
    while !heard.is_closed() {
        let received = match socket.receive_now(&mut frame) {
            Ok(None) => {
                turn = 0;
                socket.receive(&mut frame, Duration::from_secs(1))
            }
            received => received,
        };
        match received {
            Ok(Some(len)) => {
                if let Some(word) = sealer.open(&frame[..len]).filter(|word| newest.is_behind(word)) {
                    let _ = heard.try_send(word.to_vec());
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("the second path for reports, on the service wire, has ended: {error}");
                return;
            }
        }
        turn += 1;
        if turn == TURN {
            turn = 0;
            thread::sleep(REST);
        }
    }
}

/// The newest word that was heard of each host.
#[derive(Default)]
struct Newest(HashMap<String, Stamp>);

impl Newest {
    /// Whether this one is later; a piece belongs to the word before it.
    fn is_behind(&mut self, word: &[u8]) -> bool {
        let Some((host, stamp, is_piece)) = words::whose(word) else { return false };
        match self.0.get_mut(host) {
            Some(newest) if *newest < stamp => *newest = stamp,
            Some(newest) => return *newest == stamp && is_piece,
            None => {
                if self.0.len() >= SENDERS {
                    self.0.clear();
                }
                self.0.insert(host.to_owned(), stamp);
            }
        }
        true
    }
}

#[derive(Clone)]
struct FrameSealer {
    /// What frames are authenticated with, derived from each secret; shared with the thread that listens.
    keys: Arc<RwLock<Vec<[u8; 32]>>>,
    mac: [u8; 6],
}

impl FrameSealer {
    fn new(keys: &[Key], mac: [u8; 6]) -> Self {
        let sealer = FrameSealer { keys: Arc::default(), mac };
        sealer.set_keys(keys);
        sealer
    }

    fn set_keys(&self, keys: &[Key]) {
        let derived =
            |key: &Key| blake3::derive_key("onemac 2026-11 reports on the service wire", &key.gossip);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.iter().map(derived).collect();
    }

    /// A frame under each secret.
    fn seal(&self, word: &[u8]) -> Vec<Vec<u8>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|key| self.frame(&blake3::keyed_hash(key, word), word)).collect()
    }

    fn frame(&self, authentication: &blake3::Hash, content: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + content.len());
        frame.extend_from_slice(&[0xff; 6]);
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        frame.extend_from_slice(&(content.len() as u16).to_be_bytes());
        frame.extend_from_slice(&authentication.as_bytes()[..16]);
        frame.extend_from_slice(content);
        frame
    }

    /// What is in a frame, if it is one of ours. Short frames come padded.
    fn open<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        if frame.get(12..14)? != ETHERTYPE.to_be_bytes() {
            return None;
        }
        let length = u16::from_be_bytes(*frame.get(14..)?.first_chunk()?);
        let content = frame.get(HEADER..HEADER + usize::from(length))?;
        let found = blake3::hash(frame.get(16..HEADER)?);
        // As hashes, whose comparison takes the same time wherever they differ.
        let made_with =
            |key: &[u8; 32]| blake3::hash(&blake3::keyed_hash(key, content).as_bytes()[..16]) == found;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().any(made_with).then_some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::{CONTENT_MAX, Header, VERSION};
    use crate::secret::SecretId;
    use onemac_core::report::Part;

    fn key(n: u8) -> Key {
        Key { id: SecretId([n; 4]), gossip: [n; 32] }
    }

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn sealer() -> FrameSealer {
        FrameSealer::new(&[key(1)], MAC)
    }

    #[test]
    fn while_the_secret_changes_frames_of_both_are_opened() {
        let [old, both, new] =
            [&[key(1)][..], &[key(2), key(1)], &[key(2)]].map(|k| FrameSealer::new(k, MAC));
        let listener = old.clone();
        for sealer in [&old, &new] {
            assert_eq!(both.open(&sealer.seal(b"word")[0]), Some(&b"word"[..]));
        }
        let frames = both.seal(b"word");
        assert_eq!(frames.iter().filter(|frame| listener.open(frame).is_some()).count(), 1);
        old.set_keys(&[key(2), key(1)]);
        assert_eq!(frames.iter().filter(|frame| listener.open(frame).is_some()).count(), 2, "it is shared");
    }

    #[test]
    fn only_our_frames_are_opened_padded_or_not() {
        let ours = sealer();
        let mut frame = ours.seal(b"word").remove(0);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        assert_eq!(ours.open(&frame), Some(&b"word"[..]));
        assert_eq!(FrameSealer::new(&[key(2)], MAC).open(&frame), None, "another cluster");
        for cut in 0..frame.len() {
            assert_eq!(ours.open(&frame[..cut]), None);
        }
        frame.resize(60, 0);
        assert_eq!(ours.open(&frame), Some(&b"word"[..]));
        assert!(ours.seal(&[0; CONTENT_MAX])[0].len() <= 14 + 1280);
    }

    #[test]
    fn what_was_heard_before_wakes_nobody() {
        let word = |seq: u64, kind: u8| {
            let stamp = Stamp { incarnation: 7, seq };
            let mut word = Header { version: VERSION, part: Part::None, stamp, host: "h1" }.write();
            word.push(kind);
            word
        };
        let mut newest = Newest::default();
        let heard = [(1, 0), (1, 0), (1, 2), (1, 2), (3, 1), (2, 1), (2, 2), (3, 2), (1, 0), (4, 0)];
        let news = heard.map(|(seq, kind)| newest.is_behind(&word(seq, kind)));
        assert_eq!(news, [true, false, true, true, true, false, false, true, false, true]);
        assert!(!newest.is_behind(b"word"));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let frame = sealer().seal(b"word").remove(0);
        // Whither, and by which card, is not ours to judge.
        for bit in 12 * 8..frame.len() * 8 {
            let mut forged = frame.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer().open(&forged), None, "bit {bit}");
        }
    }
}
