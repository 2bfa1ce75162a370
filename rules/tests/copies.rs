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
            (datagram4(&[0]), datagram4(&[1])),
            (datagram6(&[0]), datagram6(&[1])),
            (datagram4(&[0; 5]), datagram4(&[0, 0, 0, 0, 1])),
            (datagram6(&[0; 5]), datagram6(&[0, 0, 0, 0, 1])),
            (datagram4(&[]), datagram4(&[0])),
            (datagram6(&[]), datagram6(&[0])),
            (datagram4(&[0; 16]), datagram4(&[&[0; 15][..], &[1]].concat())),
            (datagram6(&[0; 16]), datagram6(&[&[0; 15][..], &[1]].concat())),
        ] {
            let frames = [flooded(one.0, &one.1), direct(other.0, &other.1)];
            assert_eq!(host.taken(&[&frames[0], &frames[1]]), 2, "{:02x?}", other.1);
            forget();
        }
    });
}

/// Filled up to the smallest frame that Ethernet has, as network cards do it.
fn padded(mut frame: Vec<u8>, with: u8) -> Vec<u8> {
    frame.resize(frame.len().max(60), with);
    frame
}

/// However little a packet carries, and of whatever protocol it is. One of its copies may have met a network card
/// that filled the frame up, and the other not: what stands behind the packet is no part of it.
#[test]
fn copies_of_every_size_and_protocol_are_taken_once() {
    in_namespace(|| {
        let mut host = Host::new(Standing::Taking, true);
        let (ip4, ip6) =
            (|p, b: &[u8]| ip4(CLIENT4, VIP4, p, 0x4000, b), |p, b: &[u8]| ip6(CLIENT6, VIP6, p, b));
        let mut packets = Vec::new();
        for size in (0..=16).chain([24, 25, 64]) {
            let mut datagram = udp(5000, 53, &vec![7; size]);
            packets.extend([(ETH_IP, ip4(UDP, &datagram)), (ETH_IP6, ip6(UDP, &datagram))]);
            // Without a checksum.
            datagram[6..8].fill(0);
            packets.push((ETH_IP, ip4(UDP, &datagram)));
            packets.push((ETH_IP, icmp4(CLIENT4, 8, &vec![7; size])));
            packets.push((ETH_IP6, icmp6(CLIENT6, 128, &vec![7; size])));
        }
        // GRE has headers of 4 bytes; 253 is for experiments (RFC 3692).
        for (protocol, size) in [(47, 4), (47, 8), (50, 12), (50, 16), (253, 0), (253, 1), (253, 7)] {
            packets.push((ETH_IP, ip4(protocol, &vec![0; size])));
            packets.push((ETH_IP6, ip6(protocol, &vec![0; size])));
        }
        type Way = fn(Vec<u8>, Vec<u8>) -> [Vec<u8>; 2];
        let ways: [Way; 4] = [
            |by_itself, relayed| [by_itself, relayed],
            |by_itself, relayed| [relayed, by_itself],
            |by_itself, relayed| [padded(by_itself, 0), relayed],
            |by_itself, relayed| [padded(by_itself, 0xaa), padded(relayed, 0)],
        ];
        for way in ways {
            let pair = |(kind, packet): &(u16, Vec<u8>)| way(flooded(*kind, packet), direct(*kind, packet));
            let frames: Vec<Vec<u8>> = packets.iter().flat_map(pair).collect();
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            if host.taken(&frames) != packets.len() as u64 {
                for pair in frames.chunks(2) {
                    forget();
                    assert_eq!(host.taken(pair), 1, "{:02x?}", pair[0]);
                }
                panic!("one packet is taken for a copy of another");
            }
            forget();
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

/// A client may send the same bytes again and again. What came by itself and was left to the former owner is no
/// copy that is still to come, so its relayed copy is no reason to drop the next one.
#[test]
fn the_next_packet_of_the_same_bytes_is_no_copy() {
    in_namespace(|| {
        let mut host = Host::new(Standing::Incoming, true);
        // However busy the machine is.
        let text = ruleset(&host.wanted).to_nft();
        nft_load(&text.replace("timeout 100ms", "timeout 1h").replace("timeout 1s", "timeout 1h"), &[])
            .unwrap();
        let packet = ip4(CLIENT4, VIP4, UDP, 0x4000, &udp(5000, 53, &[]));
        let (by_itself, relayed) = (flooded(ETH_IP, &packet), direct(ETH_IP, &packet));
        assert_eq!(host.fate(&by_itself), Dropped);
        assert_eq!(host.fate(&relayed), In);
        assert_eq!(host.fate(&by_itself), Dropped);
        let taking = serving(&host.wanted, [all(Standing::Taking, true)]);
        host.netfilter.change(&host.wanted, &taking).unwrap();
        assert_eq!(host.fate(&relayed), In, "of the one before");
        for _ in 0..3 {
            assert_eq!(host.fate(&by_itself), In);
            assert_eq!(host.fate(&relayed), Dropped);
        }
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
