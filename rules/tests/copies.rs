//! What comes both by itself and relayed is taken once, by its fingerprint. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use common::{fate::*, frame::*, *};
use onemac_rules::{Standing, ruleset};

/// Of one packet that comes both ways one is taken, whichever is first. Two equal packets that come the same
/// way are two packets.
#[test]
fn copies_are_taken_once() {
    in_namespace(|| {
        let mut host = Host::new(Standing::Taking, true);
        // The number of the packet and its checksum are the same in all of these.
        let datagram4 = |payload: &[u8]| (ETH_IP, ip4(CLIENT4, VIP4, UDP, 0, &udp(5000, 53, payload)));
        let datagram6 = |payload: &[u8]| (ETH_IP6, ip6(CLIENT6, VIP6, UDP, &udp(5000, 53, payload)));
        let open4 = (ETH_IP, tcp4(CLIENT4, (6000, 80), SYN, &[]));
        let open6 = (ETH_IP6, tcp6(CLIENT6, (6000, 80), SYN, &[]));
        let [short, long] = [&[1, 2, 3, 4, 5, 6][..], &[7; 30]];
        for (kind, packet) in
            [datagram4(short), datagram6(short), datagram4(long), datagram6(long), open4, open6]
        {
            let (by_itself, relayed) = (flooded(kind, &packet), direct(kind, &packet));
            assert_eq!(host.taken(&[&by_itself, &relayed]), 1, "{packet:02x?}");
            forget();
            assert_eq!(host.taken(&[&relayed, &by_itself]), 1, "{packet:02x?}");
            forget();
            assert_eq!(host.taken(&[&by_itself, &relayed, &by_itself, &relayed]), 2, "{packet:02x?}");
            forget();
        }
        // Equal but for the last byte that is looked at.
        for (one, other) in [
            (datagram4(short), datagram4(&[1, 2, 3, 4, 5, 7])),
            (datagram6(short), datagram6(&[1, 2, 3, 4, 5, 7])),
            (datagram4(&[0; 16]), datagram4(&[&[0; 15][..], &[1]].concat())),
            (datagram6(&[0; 16]), datagram6(&[&[0; 15][..], &[1]].concat())),
        ] {
            let frames = [flooded(one.0, &one.1), direct(other.0, &other.1)];
            assert_eq!(host.taken(&[&frames[0], &frames[1]]), 2, "{:02x?}", other.1);
            forget();
        }
        // Too short to tell.
        for (kind, packet) in [datagram4(&[1; 5]), datagram6(&[1; 5])] {
            assert_eq!(host.taken(&[&flooded(kind, &packet), &direct(kind, &packet)]), 2);
        }
    });
}

/// What was relayed before the slice is taken is remembered: it may still come by itself.
#[test]
fn copies_are_known_from_before_the_slice_was_taken() {
    in_namespace(|| {
        let mut host = Host::new(Standing::Incoming, true);
        let packet = ip4(CLIENT4, VIP4, UDP, 0, &udp(5000, 53, &[7; 20]));
        // To be remembered for longer than it would be, however busy the machine is.
        let text = ruleset(&host.wanted).to_nft();
        let longer = text.replace("timeout 100ms", "timeout 1h");
        assert_ne!(text, longer);
        nft_load(&longer, &[]).unwrap();
        assert_eq!(host.fate(&direct(ETH_IP, &packet)), In);
        let taking = serving(&host.wanted, [all(Standing::Taking, true)]);
        host.netfilter.change(&host.wanted, &taking).unwrap();
        assert_eq!(host.fate(&flooded(ETH_IP, &packet)), Dropped);
    });
}

#[test]
fn with_no_room_for_more_copies_packets_are_taken() {
    in_namespace(|| {
        let mut host = Host::new(Standing::Taking, true);
        let full: Vec<String> = (1..=65_536).map(|n| format!("{n:#x} timeout 1h")).collect();
        for set in ["came_flooded", "came_relayed"] {
            nft_load(&format!("add element netdev onemac {set} {{ {} }}\n", full.join(", ")), &[]).unwrap();
        }
        for (kind, ethertype, packet) in packets() {
            if ["datagram", "echo", "opening"].contains(&kind) {
                assert_eq!(host.fate(&flooded(ethertype, &packet)), In, "{kind}");
                assert_eq!(host.fate(&direct(ethertype, &packet)), In, "{kind}");
            }
        }
    });
}
