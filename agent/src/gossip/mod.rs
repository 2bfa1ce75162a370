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

use onemac_core::report::Report;

/// The largest report, encoded: well below the 64 KiB at which a chitchat value stops being replicated.
pub const REPORT_MAX: usize = 16 * 1024;

/// A report as bytes (postcard).
pub fn encode(report: &Report) -> Option<Vec<u8>> {
    postcard::to_stdvec(report).ok().filter(|bytes| bytes.len() <= REPORT_MAX)
}

/// The report in these bytes; `None` if they are none, or of another version of the program.
pub fn decode(bytes: &[u8]) -> Option<Report> {
    let (report, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemac_core::report::{Claims, HostState, Stamp};
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
            listening_ms: 60_000,
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
        assert_eq!(decode(&bytes), Some(largest()));
    }

    #[test]
    fn rubbish_is_no_report() {
        let bytes = encode(&largest()).unwrap();
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&[bytes, vec![0]].concat()), None);
        assert_eq!(decode(&[255; 64]), None);
    }
}
