//! The second path for reports: broadcast frames on the service wire.
//!
//! Gossip may have a network of its own. If that is cut while the hosts still share the wire that their
//! clients are on, each would think the others gone, and take their clients. So every report also goes out
//! on the service wire, and whoever hears it there has heard it.
//!
//! A frame is `broadcast | own MAC | 0x88b5 | length (2, big endian) | authentication (16) | content`; the
//! ethertype is IEEE 802's first for local experiments. The content is a report. One that does not fit goes in pieces:
//! then the length has its highest bit set (too long for any frame, for who does not know of pieces), and the content is
//! `life (8) | number of the report (8) | piece (1) | pieces (1) | bytes`, numbers little-endian.
//! The authentication is keyed BLAKE3, with a key derived for this purpose: over the report; of a piece, with another
//! key, over the sender's MAC and the content. There is no handshake on this path: a report is only news if its
//! stamp is later than the last one heard, which is also what a replay meets, here already. While two
//! secrets are accepted, every report goes out under each, for whoever does not accept the other: the second one that is
//! heard is no news.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use onemac_core::report::Stamp;
use tokio::sync::mpsc;

use super::{REPORT_MAX, Word};
use crate::kernel::packet::PacketSocket;
use crate::secret::Key;

/// IEEE Std 802, 9.2.3: "Local Experimental Ethertype 1".
const ETHERTYPE: u16 = 0x88b5;
const HEADER: usize = 14 + 2 + 16;
/// The largest frame that is heard, and the largest that is sent: IPv6 needs no more of a device (RFC 8200, 5), and
/// where an ordinary device is smaller than Ethernet (a tunnel, a cloud) its MTU is between the two.
const FRAME_MAX: usize = 1514;
const SEND_MAX: usize = 14 + 1280;
/// The mark of a piece, in its length.
const PIECE: u16 = 0x8000;
const PIECE_HEADER: usize = 8 + 8 + 1 + 1;
const PIECE_MAX: usize = SEND_MAX - HEADER - PIECE_HEADER;
/// How many pieces the largest report takes.
const PIECES: usize = REPORT_MAX.div_ceil(PIECE_MAX);
/// How many heard reports may wait for the loop; more are dropped, and the next heartbeat repeats them.
const QUEUE: usize = 256;
/// Room for the pieces of all hosts of the largest cluster at once.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How many frames are read in one turn, and the rest before the next if more are waiting: a flood must not take all of
/// a processor.
const TURN: usize = 256;
const REST: Duration = Duration::from_millis(1);
/// How many senders are remembered: far more than a definition has hosts. Only who knows the secret adds one.
const SENDERS: usize = 1024;

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
        socket.set_receive_buffer(RECEIVE_BUFFER);
        let (heard, reports) = mpsc::channel(QUEUE);
        let (ear, listener) = (Arc::clone(&socket), Listener::new(sealer.clone()));
        thread::Builder::new().name("beacon".into()).spawn(move || listen(&ear, listener, &heard))?;
        Ok((Beacon { socket, sealer }, reports))
    }

    /// Whether it is the path on this device with this address, and hears all that comes there.
    pub fn is_on(&self, index: u32, mac: [u8; 6]) -> bool {
        (self.socket.index(), self.sealer.mac) == (index, mac) && !self.socket.went_down()
    }

    /// Sends an encoded report under each accepted secret. All of it has left under one of them, or why not.
    pub fn send(&self, report: &[u8]) -> io::Result<()> {
        let send = |key: &FrameKey| {
            let frames = self.sealer.seal(key, report);
            match frames.is_empty() {
                true => Err(io::ErrorKind::InvalidInput.into()),
                false => frames.iter().try_for_each(|frame| self.socket.send(frame)),
            }
        };
        let sent = self.sealer.keys().iter().map(send).reduce(io::Result::or);
        sent.unwrap_or_else(|| Err(io::ErrorKind::InvalidInput.into()))
    }

    /// These are the keys from now on.
    pub fn set_keys(&self, keys: &[Key]) {
        self.sealer.set_keys(keys);
    }
}

fn listen(socket: &PacketSocket, mut listener: Listener, heard: &mpsc::Sender<Word>) {
    let mut frame = vec![0; FRAME_MAX];
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
                if let Some(word) = listener.hear(&frame[..len]) {
                    let _ = heard.try_send(word);
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

/// The receiving side, without its socket.
struct Listener {
    sealer: FrameSealer,
    /// The newest report that was heard, by host.
    newest: HashMap<String, Stamp>,
    /// The newest report of which a piece was heard, by the sender's MAC.
    partial: HashMap<[u8; 6], Partial>,
}

/// A report of which pieces are missing, or none.
struct Partial {
    stamp: Stamp,
    pieces: Vec<Option<Vec<u8>>>,
}

impl Listener {
    fn new(sealer: FrameSealer) -> Self {
        Listener { sealer, newest: HashMap::new(), partial: HashMap::new() }
    }

    /// What is new in a frame.
    fn hear(&mut self, frame: &[u8]) -> Option<Word> {
        match self.sealer.open(frame)? {
            Content::Report(report) => self.news(report),
            Content::Piece { sender, stamp, piece, pieces, bytes } => {
                let report = self.complete(sender, stamp, (piece, pieces), bytes)?;
                self.news(&report)
            }
        }
    }

    fn news(&mut self, report: &[u8]) -> Option<Word> {
        let (host, stamp) = super::whose(report)?;
        if self.newest.get(host).is_some_and(|&newest| newest >= stamp) {
            return None;
        }
        let word = super::decode(report)?;
        if self.newest.len() >= SENDERS && !self.newest.contains_key(host) {
            self.newest.clear();
        }
        self.newest.insert(host.to_owned(), stamp);
        Some(word)
    }

    /// The report, if this was its last missing piece. A piece of an earlier report than the last is none.
    fn complete(
        &mut self,
        sender: [u8; 6],
        stamp: Stamp,
        (piece, pieces): (usize, usize),
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        let fresh = || Partial { stamp, pieces: vec![None; pieces] };
        if self.partial.len() >= SENDERS && !self.partial.contains_key(&sender) {
            self.partial.clear();
        }
        let partial = self.partial.entry(sender).or_insert_with(fresh);
        if stamp > partial.stamp {
            *partial = fresh();
        }
        if stamp < partial.stamp || pieces != partial.pieces.len() {
            return None;
        }
        *partial.pieces.get_mut(piece)? = Some(bytes.to_vec());
        if partial.pieces.iter().any(Option::is_none) {
            return None;
        }
        // Nothing is kept of it but its stamp.
        Some(std::mem::take(&mut partial.pieces).into_iter().flatten().flatten().collect())
    }
}

/// What frames are authenticated with, derived from one secret.
#[derive(Clone)]
struct FrameKey {
    report: [u8; 32],
    piece: [u8; 32],
}

impl FrameKey {
    fn new(key: &Key) -> Self {
        FrameKey {
            report: blake3::derive_key("onemac 2026-11 reports on the service wire", &key.gossip),
            piece: blake3::derive_key("onemac 2026-11 pieces of reports on the service wire", &key.gossip),
        }
    }

    fn of_report(&self, report: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.report, report)
    }

    fn of_piece(&self, sender: &[u8; 6], content: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.piece).update(sender).update(content).finalize()
    }
}

#[derive(Clone)]
struct FrameSealer {
    /// Shared with the thread that listens.
    keys: Arc<RwLock<Vec<FrameKey>>>,
    mac: [u8; 6],
}

/// What an authentic frame holds.
#[derive(Debug, PartialEq, Eq)]
enum Content<'a> {
    Report(&'a [u8]),
    Piece { sender: [u8; 6], stamp: Stamp, piece: usize, pieces: usize, bytes: &'a [u8] },
}

impl FrameSealer {
    fn new(keys: &[Key], mac: [u8; 6]) -> Self {
        let sealer = FrameSealer { keys: Arc::default(), mac };
        sealer.set_keys(keys);
        sealer
    }

    fn set_keys(&self, keys: &[Key]) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.iter().map(FrameKey::new).collect();
    }

    fn keys(&self) -> Vec<FrameKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The frames of a report; none for what is not one.
    fn seal(&self, key: &FrameKey, report: &[u8]) -> Vec<Vec<u8>> {
        if HEADER + report.len() <= SEND_MAX {
            return vec![self.frame(0, &key.of_report(report), report)];
        }
        let Some((_, stamp)) = super::whose(report).filter(|_| report.len() <= REPORT_MAX) else {
            return vec![];
        };
        let pieces = report.len().div_ceil(PIECE_MAX) as u8;
        let piece = |(number, bytes): (u8, &[u8])| {
            let mut content = Vec::with_capacity(PIECE_HEADER + bytes.len());
            content.extend_from_slice(&stamp.incarnation.to_le_bytes());
            content.extend_from_slice(&stamp.seq.to_le_bytes());
            content.extend_from_slice(&[number, pieces]);
            content.extend_from_slice(bytes);
            self.frame(PIECE, &key.of_piece(&self.mac, &content), &content)
        };
        (0..pieces).zip(report.chunks(PIECE_MAX)).map(piece).collect()
    }

    fn frame(&self, mark: u16, authentication: &blake3::Hash, content: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + content.len());
        frame.extend_from_slice(&[0xff; 6]);
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        frame.extend_from_slice(&(mark | content.len() as u16).to_be_bytes());
        frame.extend_from_slice(&authentication.as_bytes()[..16]);
        frame.extend_from_slice(content);
        frame
    }

    /// What is in a frame, if it is one of ours. Short frames come padded.
    fn open<'a>(&self, frame: &'a [u8]) -> Option<Content<'a>> {
        if frame.get(12..14)? != ETHERTYPE.to_be_bytes() {
            return None;
        }
        let sender: [u8; 6] = *frame.get(6..)?.first_chunk()?;
        let mark = u16::from_be_bytes(*frame.get(14..)?.first_chunk()?);
        let content = frame.get(HEADER..HEADER + usize::from(mark & !PIECE))?;
        let is_piece = mark & PIECE != 0;
        let found = blake3::hash(frame.get(16..HEADER)?);
        let made_with = |key: &FrameKey| {
            let expected = if is_piece { key.of_piece(&sender, content) } else { key.of_report(content) };
            // As hashes, whose comparison takes the same time wherever they differ.
            blake3::hash(&expected.as_bytes()[..16]) == found
        };
        if !self.keys.read().unwrap_or_else(PoisonError::into_inner).iter().any(made_with) {
            return None;
        }
        if !is_piece {
            return Some(Content::Report(content));
        }
        let (header, bytes) = content.split_first_chunk::<PIECE_HEADER>()?;
        let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let stamp = Stamp { incarnation: number(0)?, seq: number(8)? };
        let (piece, pieces) = (usize::from(header[16]), usize::from(header[17]));
        (piece < pieces && pieces <= PIECES).then_some(Content::Piece { sender, stamp, piece, pieces, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretId;

    fn key(n: u8) -> Key {
        Key { id: SecretId([n; 4]), gossip: [n; 32] }
    }

    /// Under the first key.
    fn seal(sealer: &FrameSealer, report: &[u8]) -> Vec<Vec<u8>> {
        sealer.seal(&sealer.keys()[0], report)
    }

    #[test]
    fn while_the_secret_changes_frames_of_both_are_opened() {
        let [old, both, new] =
            [&[key(1)][..], &[key(2), key(1)], &[key(2)]].map(|k| FrameSealer::new(k, [0; 6]));
        let listener = old.clone();
        for sealer in [&old, &new] {
            let frame = seal(sealer, b"report").remove(0);
            assert_eq!(both.open(&frame), Some(Content::Report(b"report")));
        }
        let frames: Vec<_> = both.keys().iter().flat_map(|key| both.seal(key, b"report")).collect();
        assert_eq!(frames.iter().filter(|frame| listener.open(frame).is_some()).count(), 1);
        old.set_keys(&[key(2), key(1)]);
        assert_eq!(frames.iter().filter(|frame| listener.open(frame).is_some()).count(), 2, "it is shared");
    }

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn sealer() -> FrameSealer {
        FrameSealer::new(&[key(1)], MAC)
    }

    /// What another version says: only who speaks and which report it is can be read.
    fn report(seq: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![99, 2];
        bytes.extend_from_slice(&7u64.to_le_bytes());
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes.extend_from_slice(b"\x02h1");
        bytes.extend((0..len - bytes.len()).map(|i| i as u8));
        bytes
    }

    fn heard(listener: &mut Listener, frames: &[Vec<u8>]) -> Vec<u64> {
        let words = frames.iter().filter_map(|frame| listener.hear(frame));
        words
            .map(|word| match word {
                Word::Other { host, stamp, .. } if host == "h1" => stamp.seq,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn only_our_frames_are_opened_padded_or_not() {
        let ours = sealer();
        let mut frame = seal(&ours, b"report").remove(0);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        assert_eq!(ours.open(&frame), Some(Content::Report(b"report")));
        assert_eq!(FrameSealer::new(&[key(2)], [0; 6]).open(&frame), None, "another cluster");
        for cut in 0..frame.len() {
            assert_eq!(ours.open(&frame[..cut]), None);
        }
        frame.resize(60, 0);
        assert_eq!(ours.open(&frame), Some(Content::Report(b"report")));
        frame[HEADER] ^= 1;
        assert_eq!(ours.open(&frame), None, "changed");
    }

    #[test]
    fn the_largest_report_arrives_in_pieces_in_any_order() {
        let frames = seal(&sealer(), &report(1, REPORT_MAX));
        assert_eq!(frames.len(), PIECES);
        assert!(frames.iter().all(|frame| frame.len() <= SEND_MAX));
        let mut listener = Listener::new(sealer());
        let backwards: Vec<_> = frames.iter().rev().cloned().collect();
        assert_eq!(heard(&mut listener, &backwards), [1]);
        assert!(seal(&sealer(), &report(1, REPORT_MAX + 1)).is_empty(), "too large for a report");
        // Who does not know of pieces takes them for longer than any frame.
        let length = u16::from_be_bytes([frames[0][14], frames[0][15]]);
        assert!(usize::from(length) > FRAME_MAX);
    }

    #[test]
    fn every_changed_bit_of_a_piece_is_noticed() {
        let frame = seal(&sealer(), &report(1, 3000)).remove(0);
        // The destination is not ours to judge.
        for bit in 6 * 8..frame.len() * 8 {
            let mut forged = frame.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer().open(&forged), None, "bit {bit}");
        }
    }

    #[test]
    fn pieces_of_an_earlier_report_displace_nothing_and_replays_are_no_news() {
        let [first, second, third] = [1, 2, 3].map(|seq| seal(&sealer(), &report(seq, 3000)));
        let mut listener = Listener::new(sealer());
        assert_eq!(heard(&mut listener, &first), [1]);
        assert_eq!(heard(&mut listener, &first), [0; 0], "all of it again");
        assert_eq!(heard(&mut listener, &third[..2]), [0; 0]);
        assert_eq!(heard(&mut listener, &second), [0; 0], "an earlier one in between");
        assert_eq!(heard(&mut listener, &third[2..]), [3]);
        let small = seal(&sealer(), &report(4, 100));
        assert_eq!(heard(&mut listener, &[small.clone(), small].concat()), [4]);
        assert_eq!(heard(&mut listener, &third), [0; 0]);
    }

    #[test]
    fn a_lost_piece_costs_one_report_only() {
        let [first, second] = [1, 2].map(|seq| seal(&sealer(), &report(seq, 3000)));
        let mut listener = Listener::new(sealer());
        assert_eq!(heard(&mut listener, &first[1..]), [0; 0]);
        assert_eq!(heard(&mut listener, &second), [2]);
    }
}
