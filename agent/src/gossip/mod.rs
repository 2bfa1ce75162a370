//! How hosts hear of each other.
//!
//! One UDP socket on the host's gossip address. [`seal`] authenticates every datagram and refuses replays
//! (pure); [`wire`] owns the socket and sorts what comes in: handshakes, reports that a host sends
//! directly, and the datagrams of chitchat, which spreads the same reports by way of others ([`spread`]).
//! [`beacon`] is the second path: the same reports as frames on the service wire. A [`letter`] is what an
//! operator wants of another host.

pub mod beacon;
pub mod letter;
pub mod seal;
pub mod spread;
pub mod wire;

use std::sync::Arc;

use onemac_core::node::Input;
use onemac_core::report::{Part, Report, Stamp};

/// The largest report, encoded: well below the 64 KiB at which a chitchat value stops being replicated.
pub const REPORT_MAX: usize = 16 * 1024;

/// The version of what hosts say to one another. It changes whenever [`Report`] or anything in it does, or what it
/// means; hosts of two versions never serve side by side.
pub const VERSION: u8 = 2;

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A report.
    Report(Box<Report>),
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
    /// The host that speaks.
    pub fn host(&self) -> &str {
        match self {
            Word::Report(report) => &report.host,
            Word::Other { host, .. } => host,
        }
    }

    /// For the core.
    pub fn into_input(self) -> Input {
        match self {
            Word::Report(report) => Input::Heard(Arc::new(*report)),
            Word::Other { host, stamp, part, version } => {
                Input::OtherVersion { host, stamp, part, newer: version > VERSION }
            }
        }
    }

    /// The report, if it is one that can be read.
    pub fn report(self) -> Option<Report> {
        match self {
            Word::Report(report) => Some(*report),
            Word::Other { .. } => None,
        }
    }
}

/// Bytes before the name, in all versions: the version, the part that the host takes (0 none, 1 is about to serve,
/// 2 serves; [`Part`]), its life and the number of the report (8 bytes each, little-endian), the length of its name.
const HEADER: usize = 19;

/// A report as bytes: what every version can read, then the report (postcard).
pub fn encode(report: &Report) -> Option<Vec<u8>> {
    let part = match report.part() {
        Part::None => 0,
        Part::Candidate => 1,
        Part::Serves => 2,
    };
    let mut bytes = vec![VERSION, part];
    bytes.extend_from_slice(&report.stamp.incarnation.to_le_bytes());
    bytes.extend_from_slice(&report.stamp.seq.to_le_bytes());
    bytes.push(u8::try_from(report.host.len()).ok()?);
    bytes.extend_from_slice(report.host.as_bytes());
    let bytes = postcard::to_extend(report, bytes).ok()?;
    (bytes.len() <= REPORT_MAX).then_some(bytes)
}

/// Who speaks in these bytes, and which of its reports they are: what can be read in every version.
pub fn whose(bytes: &[u8]) -> Option<(&str, Stamp)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let host = rest.get(..header[HEADER - 1].into())?;
    let number = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    Some((std::str::from_utf8(host).ok()?, Stamp { incarnation: number(2)?, seq: number(10)? }))
}

/// What these bytes say; `None` if that is nothing.
pub fn decode(bytes: &[u8]) -> Option<Word> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let (version, length) = (header[0], header[HEADER - 1]);
    let (host, rest) = rest.split_at_checked(length.into())?;
    let host = String::from_utf8(host.to_vec()).ok()?;
    if version != VERSION {
        let part = match header[1] {
            0 => Part::None,
            1 => Part::Candidate,
            // What is not known is safest taken for this.
            _ => Part::Serves,
        };
        let (_, stamp) = whose(bytes)?;
        return Some(Word::Other { host, stamp, part, version });
    }
    let (report, rest): (Report, _) = postcard::take_from_bytes(rest).ok()?;
    (rest.is_empty() && report.host == host).then(|| Word::Report(Box::new(report)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemac_core::report::{Claims, HostState};
    use onemac_core::slices::SliceSet;
    use onemac_core::view::{DefinitionId, ViewId};
    use std::collections::BTreeMap;

    fn largest() -> Report {
        // A share that is spread as evenly as by any hash, and another one that has just moved on.
        let share = |from: u32| (0..128).map(move |i| i * 32 + (i * 7 + from) % 32).collect::<SliceSet>();
        let of_all =
            |from: u32| (0..8u32).map(|i| (format!("service-name-{i}"), share(from + i))).collect::<Claims>();
        let claims = of_all(0);
        let host = |i| format!("a-host-with-a-long-name-{i:02}");
        let stamp = Stamp { incarnation: 1_800_000_000_000, seq: 9_000_000 };
        Report {
            host: host(0),
            stamp,
            definition: DefinitionId([1; 16]),
            mac: [2; 6],
            state: HostState::Serving,
            deaf: false,
            candidate: true,
            weight: 100,
            view: Some(ViewId([2; 16])),
            drained: Default::default(),
            staged: None,
            claims,
            relayed: Default::default(),
            ready: Default::default(),
            moving: of_all(16),
            left: Default::default(),
            heard: (0..32).map(|i| (host(i), stamp)).collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn what_a_host_gossips_stays_below_eight_kib_at_32_hosts_4096_slices_and_8_services() {
        let bytes = encode(&largest()).unwrap();
        assert!(bytes.len() * 4 / 3 < 8 * 1024, "{} bytes before base64", bytes.len());
        // One host alone that serves everything is no larger.
        let all = (0..8).map(|i| (format!("service-name-{i}"), SliceSet::full(4096))).collect();
        let bytes = encode(&Report { claims: all, moving: Claims::new(), ..largest() }).unwrap();
        assert!(bytes.len() * 4 / 3 < 8 * 1024, "{} bytes before base64", bytes.len());
        let bytes = encode(&largest()).unwrap();
        assert_eq!(decode(&bytes).and_then(Word::report), Some(largest()));
    }

    #[test]
    fn rubbish_is_no_report() {
        let bytes = encode(&largest()).unwrap();
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(decode(&[255; 64]), None);
        assert_eq!(decode(&bytes[..2]), None);
        // Nobody speaks for another.
        let mut bytes = bytes;
        bytes[HEADER] = b'x';
        assert_eq!(decode(&bytes), None);
    }

    #[test]
    fn of_another_version_is_known_who_speaks_and_whether_it_takes_part() {
        for (state, part) in [
            (HostState::Joining, Part::Candidate),
            (HostState::Serving, Part::Serves),
            (HostState::Draining, Part::Serves),
            (HostState::Leaving, Part::Serves),
            (HostState::Left, Part::None),
        ] {
            let Report { host, stamp, .. } = largest();
            let mut bytes = encode(&Report { state, ..largest() }).unwrap();
            bytes[0] = VERSION + 1;
            bytes.truncate(HEADER + host.len());
            let other = Word::Other { host: host.clone(), stamp, part, version: VERSION + 1 };
            assert_eq!(decode(&bytes), Some(other.clone()));
            assert_eq!(other.into_input(), Input::OtherVersion { host, stamp, part, newer: true });
        }
    }
}
