//! How hosts hear of each other: docs/wire.md.
//!
//! The core gives whole reports and takes whole reports. [`words`] says each in as little as those who hear it need,
//! and puts together what is heard: a `body` when it changed or is asked for, in `pieces` where it is large, and
//! what changes every time. [`beacon`] carries words as frames on the service wire; [`wire`] owns the UDP socket on the
//! host's gossip address, where [`seal`] authenticates every datagram and refuses replays. chitchat is anti-entropy for
//! bodies ([`spread`]). A [`letter`] is what an operator wants of another host.

pub mod beacon;
mod body;
pub mod letter;
mod pieces;
pub mod seal;
pub mod spread;
pub mod wire;
pub mod words;

use std::sync::Arc;

use onemac_core::node::Input;
use onemac_core::report::{Part, Report, Stamp};

/// The largest body: more than the largest definition's largest report, which says of each of 64 services and 255
/// hosts, by long names, what is relayed to that one.
pub const BODY_MAX: usize = 5 << 18;

/// The largest content of a frame or a datagram: an MTU of 1280, which IPv6 asks of every link (RFC 8200, 5), less the
/// headers of IPv6 and UDP, and ours.
pub const CONTENT_MAX: usize = 1280 - 40 - 8 - seal::HEADER;

/// The version of what hosts say to one another. It changes whenever [`Report`] or anything in it does, or what it
/// means, or how it travels; hosts of two versions never serve side by side.
pub const VERSION: u8 = 3;

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A report.
    Report(Arc<Report>),
    /// A report in another version: no more is known than this.
    Other {
        /// Who speaks.
        host: String,
        /// Which report it is.
        stamp: Stamp,
        /// What part it takes.
        part: Part,
        /// The version.
        version: u8,
    },
}

impl Word {
    /// For the core.
    pub fn into_input(self) -> Input {
        match self {
            Word::Report(report) => Input::Heard(report),
            Word::Other { host, stamp, part, version } => {
                Input::OtherVersion { host, stamp, part, newer: version > VERSION }
            }
        }
    }
}

/// Bytes before the name, in all versions: the version, the part that the host takes (0 none, 1 is about to serve,
/// 2 serves; [`Part`]), its life and the number of the report (8 bytes each, little-endian), the length of its name.
const HEADER: usize = 19;

/// What every version can read of every word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The version of the protocol.
    pub version: u8,
    /// What part the host takes.
    pub part: Part,
    /// Which of its reports it is.
    pub stamp: Stamp,
    /// Who speaks.
    pub host: &'a str,
}

impl<'a> Header<'a> {
    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let part = match self.part {
            Part::None => 0,
            Part::Candidate => 1,
            Part::Serves => 2,
        };
        let mut bytes = vec![self.version, part];
        bytes.extend_from_slice(&self.stamp.incarnation.to_le_bytes());
        bytes.extend_from_slice(&self.stamp.seq.to_le_bytes());
        // No definition has a name of more than 63 characters.
        let name = &self.host.as_bytes()[..self.host.len().min(255)];
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name);
        bytes
    }

    /// From bytes, and what follows it.
    pub fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let (host, rest) = rest.split_at_checked(header[HEADER - 1].into())?;
        let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let stamp = Stamp { incarnation: number(2)?, seq: number(10)? };
        let part = match header[1] {
            0 => Part::None,
            1 => Part::Candidate,
            // What is not known is safest taken for this.
            _ => Part::Serves,
        };
        let header = Header { version: header[0], part, stamp, host: std::str::from_utf8(host).ok()? };
        stamp.is_possible().then_some((header, rest))
    }
}
