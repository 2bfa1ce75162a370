//! A body that is too large for one frame goes in pieces: `index (2) | count (2) | bytes`, little-endian.
//!
//! They are the same whenever the body is sent, so what arrived of it once is not needed again.

use onemac_core::report::Stamp;

use super::BODY_MAX;
use super::body::{Digest, digest};

const HEADER: usize = 4;
/// No piece but the last holds less: so the largest body is at most so many.
const PIECE_MIN: usize = 1000;
const COUNT_MAX: usize = BODY_MAX.div_ceil(PIECE_MIN);

/// The pieces of a body, none larger than this.
pub fn split(body: &[u8], room: usize) -> Vec<Vec<u8>> {
    let chunks = body.chunks(room.saturating_sub(HEADER).max(PIECE_MIN));
    let count = chunks.len() as u16;
    let piece = |(index, bytes): (u16, &[u8])| [&index.to_le_bytes(), &count.to_le_bytes(), bytes].concat();
    (0..count).zip(chunks).map(piece).collect()
}

/// A body of which pieces are missing.
#[derive(Debug)]
pub struct Partial {
    digest: Digest,
    /// The newest word that brought a piece.
    stamp: Stamp,
    pieces: Vec<Option<Vec<u8>>>,
}

impl Partial {
    /// Takes a piece in; the body, if it was the last one. At most one body of a host is put together at a time: the
    /// one that was sent last.
    pub fn take(slot: &mut Option<Partial>, digest: Digest, stamp: Stamp, piece: &[u8]) -> Option<Vec<u8>> {
        let (header, bytes) = piece.split_first_chunk::<HEADER>()?;
        let number = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (index, count) = (number(0), number(2));
        if index >= count || count > COUNT_MAX {
            return None;
        }
        let known =
            slot.as_ref().is_some_and(|partial| (partial.digest, partial.pieces.len()) == (digest, count));
        if !known {
            if slot.as_ref().is_some_and(|partial| partial.stamp >= stamp) {
                return None;
            }
            *slot = Some(Partial { digest, stamp, pieces: vec![None; count] });
        }
        let partial = slot.as_mut()?;
        partial.stamp = partial.stamp.max(stamp);
        *partial.pieces.get_mut(index)? = Some(bytes.to_vec());
        if partial.pieces.iter().any(Option::is_none) {
            return None;
        }
        let body: Vec<u8> = slot.take()?.pieces.into_iter().flatten().flatten().collect();
        (body.len() <= BODY_MAX && self::digest(&body) == digest).then_some(body)
    }
}
