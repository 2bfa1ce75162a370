//! The second path for reports: broadcast frames on the service wire.
//!
//! Gossip may have a network of its own. If that is cut while the hosts still share the wire that their
//! clients are on, each would think the others gone, and take their clients. So every report also goes out
//! on the service wire, and whoever hears it there has heard it.
//!
//! A frame is `broadcast | own MAC | 0x88b5 | length (2, big endian) | authentication (16) | report`; the
//! ethertype is IEEE 802's first for local experiments. The authentication is keyed BLAKE3 over the report,
//! with a key derived for this purpose. There is no handshake on this path: a report is only news if its
//! stamp is later than the last one heard, which is also what a replay meets. While two secrets are accepted, every
//! report goes out under each, for whoever does not accept the other: the second one that is heard is no news.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::Word;
use tokio::sync::mpsc;

use crate::kernel::packet::PacketSocket;
use crate::secret::Key;

/// IEEE Std 802, 9.2.3: "Local Experimental Ethertype 1".
const ETHERTYPE: u16 = 0x88b5;
const HEADER: usize = 14 + 2 + 16;
/// A report that does not fit into one frame is not sent this way.
const FRAME_MAX: usize = 1514;
/// How many heard reports may wait for the loop; more are dropped, and the next heartbeat repeats them.
const QUEUE: usize = 256;

/// The sending side.
pub struct Beacon {
    socket: Arc<PacketSocket>,
    sealer: FrameSealer,
}

impl Beacon {
    /// Opens the path on a device, and a thread that listens on it until the queue's reader is gone.
    pub fn open(index: u32, mac: [u8; 6], keys: &[Key]) -> io::Result<(Self, mpsc::Receiver<Word>)> {
        let sealer = FrameSealer::new(keys, mac);
        let socket = Arc::new(PacketSocket::open(index, ETHERTYPE)?);
        let (heard, reports) = mpsc::channel(QUEUE);
        let (ear, listener) = (Arc::clone(&socket), sealer.clone());
        thread::Builder::new().name("beacon".into()).spawn(move || listen(&ear, &listener, &heard))?;
        Ok((Beacon { socket, sealer }, reports))
    }

    /// Sends an encoded report; whether it left.
    pub fn send(&self, report: &[u8]) -> bool {
        let mut left = false;
        for key in self.sealer.keys() {
            left |= self.sealer.seal(&key, report).is_some_and(|frame| self.socket.send(&frame).is_ok());
        }
        left
    }

    /// These are the keys from now on.
    pub fn set_keys(&self, keys: &[Key]) {
        self.sealer.set_keys(keys);
    }
}

fn listen(socket: &PacketSocket, sealer: &FrameSealer, heard: &mpsc::Sender<Word>) {
    let mut frame = vec![0; FRAME_MAX];
    while !heard.is_closed() {
        match socket.receive(&mut frame, Duration::from_secs(1)) {
            Ok(Some(len)) => {
                if let Some(word) = sealer.open(&frame[..len]).and_then(super::decode) {
                    let _ = heard.try_send(word);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("the second path for reports, on the service wire, has ended: {error}");
                return;
            }
        }
    }
}

#[derive(Clone)]
struct FrameSealer {
    /// Shared with the thread that listens.
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
        let derive =
            |key: &Key| blake3::derive_key("onemac 2026-11 reports on the service wire", &key.gossip);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.iter().map(derive).collect();
    }

    fn keys(&self) -> Vec<[u8; 32]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn seal(&self, key: &[u8; 32], report: &[u8]) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(HEADER + report.len());
        frame.extend_from_slice(&[0xff; 6]);
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        frame.extend_from_slice(&u16::try_from(report.len()).ok()?.to_be_bytes());
        frame.extend_from_slice(&blake3::keyed_hash(key, report).as_bytes()[..16]);
        frame.extend_from_slice(report);
        (frame.len() <= FRAME_MAX).then_some(frame)
    }

    /// The report in a frame, if it is one of ours. Short frames come padded.
    fn open<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        if frame.get(12..14)? != ETHERTYPE.to_be_bytes() {
            return None;
        }
        let len = usize::from(u16::from_be_bytes([*frame.get(14)?, *frame.get(15)?]));
        let report = frame.get(HEADER..HEADER + len)?;
        let found = blake3::hash(frame.get(16..HEADER)?);
        // As hashes, whose comparison takes the same time wherever they differ.
        let made_with =
            |key: &[u8; 32]| blake3::hash(&blake3::keyed_hash(key, report).as_bytes()[..16]) == found;
        self.keys().iter().any(made_with).then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretId;

    fn key(n: u8) -> Key {
        Key { id: SecretId([n; 4]), gossip: [n; 32] }
    }

    #[test]
    fn while_the_secret_changes_frames_of_both_are_opened() {
        let [old, both, new] =
            [&[key(1)][..], &[key(2), key(1)], &[key(2)]].map(|k| FrameSealer::new(k, [0; 6]));
        let listener = old.clone();
        for sealer in [&old, &new] {
            let frame = sealer.seal(&sealer.keys()[0], b"report").unwrap();
            assert_eq!(both.open(&frame), Some(&b"report"[..]));
        }
        let frames: Vec<_> = both.keys().iter().map(|key| both.seal(key, b"report").unwrap()).collect();
        assert_eq!(frames.iter().filter(|frame| listener.open(frame).is_some()).count(), 1);
        old.set_keys(&[key(2), key(1)]);
        assert_eq!(frames.iter().filter(|frame| listener.open(frame).is_some()).count(), 2, "it is shared");
    }

    #[test]
    fn only_our_frames_are_opened_padded_or_not() {
        let ours = FrameSealer::new(&[key(1)], [2, 0, 0, 0, 0, 1]);
        let mut frame = ours.seal(&ours.keys()[0], b"report").unwrap();
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        assert_eq!(ours.open(&frame), Some(&b"report"[..]));
        assert_eq!(FrameSealer::new(&[key(2)], [0; 6]).open(&frame), None, "another cluster");
        for cut in 0..frame.len() {
            assert_eq!(ours.open(&frame[..cut]), None);
        }
        frame.resize(60, 0);
        assert_eq!(ours.open(&frame), Some(&b"report"[..]));
        frame[HEADER] ^= 1;
        assert_eq!(ours.open(&frame), None, "changed");
        assert_eq!(ours.seal(&ours.keys()[0], &[0; FRAME_MAX]), None, "too large for a frame");
    }
}
