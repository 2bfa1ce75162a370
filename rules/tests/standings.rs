//! What becomes of packets in each standing of their slice, from the wire to behind conntrack. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use common::{fate::*, frame::*, *};
use onemac_rules::{Lease, Service, Standing, Wanted, netlink::Netfilter, ruleset};

/// Sends every kind of packet and compares what becomes of it with what is expected.
fn expect(standing: Standing, tracked: bool, expected: &'static [(&str, Fate, Fate)]) {
    in_namespace(move || {
        let mut host = Host::new(standing, tracked);
        for (kind, by_itself, relayed) in expected {
            let of_kind: Vec<_> =
                packets().into_iter().chain(unlisted()).filter(|(name, ..)| name == kind).collect();
            assert_eq!(of_kind.len(), 2, "{kind}");
            for (_, ethertype, packet) in of_kind {
                for (frame, expected, how) in [
                    (flooded(ethertype, &packet), by_itself, "by itself"),
                    (direct(ethertype, &packet), relayed, "relayed"),
                ] {
                    forget();
                    if tracked {
                        let_live();
                    }
                    let fate = host.fate(&frame);
                    assert_eq!(fate, *expected, "{standing:?}, {kind} {how}, {ethertype:#x}");
                    assert!(!host.astray, "{standing:?}, {kind} {how}, {ethertype:#x}: by another device");
                }
            }
        }
        if !tracked {
            let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
            assert_eq!(count.trim(), "0", "{standing:?}: conntrack is at work");
        }
    });
}

/// Kind of packet, what becomes of it by itself, and of one that is sent to this host's own MAC address.
type Expected = &'static [(&'static str, Fate, Fate)];

#[test]
fn own_takes_everything() {
    const ALL: Expected = &[
        ("opening", In, In),
        ("opening again", In, In),
        ("known", In, In),
        ("strange", In, In),
        ("error about a known one", In, In),
        ("error about a strange one", In, In),
        ("datagram", In, In),
        ("echo", In, In),
        ("orphaned", In, In),
    ];
    expect(Standing::Own, true, ALL);
    expect(Standing::Own, false, ALL);
    // Without connections to follow there is no other.
    expect(Standing::Shared, false, ALL);
    expect(Standing::Heir, false, ALL);
}

#[test]
fn foreign_takes_nothing() {
    const NOTHING: Expected = &[
        ("opening", Dropped, Dropped),
        ("opening again", Dropped, Dropped),
        ("known", Dropped, Dropped),
        ("strange", Dropped, Dropped),
        ("error about a known one", Dropped, Dropped),
        ("error about a strange one", Dropped, Dropped),
        ("datagram", Dropped, Dropped),
        ("echo", Dropped, Dropped),
    ];
    expect(Standing::Foreign, true, NOTHING);
    expect(Standing::Foreign, false, NOTHING);
    expect(Standing::Moving, false, NOTHING);
}

#[test]
fn shared_leaves_strange_connections_in_peace() {
    expect(
        Standing::Shared,
        true,
        &[
            ("opening", In, In),
            ("opening again", In, In),
            ("known", In, In),
            ("strange", Dropped, Dropped),
            ("error about a known one", In, In),
            ("error about a strange one", In, In),
            ("datagram", In, In),
            ("echo", In, In),
            ("orphaned", Dropped, Dropped),
        ],
    );
}

#[test]
fn heir_leaves_in_peace_what_lives_elsewhere_and_nothing_else() {
    expect(
        Standing::Heir,
        true,
        &[
            ("opening", In, In),
            ("opening again", In, In),
            ("known", In, In),
            ("strange", Dropped, Dropped),
            ("error about a known one", In, In),
            ("error about a strange one", In, In),
            ("datagram", In, In),
            ("echo", In, In),
            ("orphaned", In, In),
            ("another's with such a port", In, In),
            ("datagram with such a port", In, In),
        ],
    );
}

#[test]
fn taking_takes_what_comes_by_itself_and_relayed() {
    expect(
        Standing::Taking,
        true,
        &[
            ("opening", In, In),
            ("opening again", In, In),
            ("known", In, In),
            ("strange", Dropped, Dropped),
            ("error about a known one", In, In),
            ("error about a strange one", In, In),
            ("datagram", In, In),
            ("echo", In, In),
        ],
    );
    expect(
        Standing::Taking,
        false,
        &[
            ("opening", In, In),
            ("known", In, In),
            ("error about a strange one", In, In),
            ("datagram", In, In),
            ("echo", In, In),
        ],
    );
}

#[test]
fn moving_keeps_what_lives_here() {
    expect(
        Standing::Moving,
        true,
        &[
            ("opening", Dropped, Dropped),
            ("opening again", Dropped, Dropped),
            ("known", In, In),
            ("strange", Dropped, Dropped),
            ("error about a known one", In, In),
            ("error about a strange one", Dropped, Dropped),
            ("datagram", Dropped, Dropped),
            ("echo", Dropped, Dropped),
        ],
    );
}

#[test]
fn relaying_keeps_what_lives_here_and_sends_on_what_may_be_new() {
    expect(
        Standing::Relaying(PEER),
        true,
        &[
            ("opening", Relayed, Dropped),
            ("opening again", Relayed, Dropped),
            ("known", In, In),
            ("strange", Dropped, Dropped),
            ("error about a known one", In, In),
            ("error about a strange one", Dropped, Dropped),
            ("datagram", Relayed, Dropped),
            ("echo", Relayed, Dropped),
        ],
    );
    expect(
        Standing::Relaying(PEER),
        false,
        &[
            ("opening", Relayed, Dropped),
            ("known", Relayed, Dropped),
            ("error about a strange one", In, In),
            ("datagram", Relayed, Dropped),
            ("echo", Relayed, Dropped),
        ],
    );
}

#[test]
fn incoming_takes_what_is_relayed() {
    expect(
        Standing::Incoming,
        true,
        &[
            ("opening", Dropped, In),
            ("opening again", Dropped, In),
            ("known", In, In),
            ("strange", Dropped, In),
            ("error about a known one", In, In),
            ("error about a strange one", Dropped, In),
            ("datagram", Dropped, In),
            ("echo", Dropped, In),
        ],
    );
    expect(
        Standing::Incoming,
        false,
        &[("opening", Dropped, In), ("known", Dropped, In), ("datagram", Dropped, In), ("echo", Dropped, In)],
    );
}

/// A question for the address, and the later fragment of a TCP segment: seen on the device, since neither
/// gets to where packets are looked for.
#[test]
fn questions_and_fragments() {
    let cases = [
        (Standing::Foreign, Dropped, Dropped),
        (Standing::Own, In, In),
        (Standing::Shared, In, In),
        (Standing::Heir, In, In),
        (Standing::Taking, In, In),
        (Standing::Moving, Dropped, In),
        (Standing::Relaying(PEER), In, In),
        (Standing::Incoming, Dropped, In),
    ];
    for (standing, answered, fragment) in cases {
        in_namespace(move || {
            let mut host = Host::new(standing, true);
            let who_has = ethernet(BROADCAST, PROBE_MAC, ETH_ARP, &arp(1, (PROBE_MAC, CLIENT4), VIP4));
            assert_eq!(host.passes(&who_has), answered, "{standing:?}");
            // Again at once, as some do: not a copy of the first.
            assert_eq!(host.passes(&who_has), answered, "{standing:?}");
            let solicit = ip6(CLIENT6, GROUP, ICMP6, &neighbour(135, VIP6, 1, PROBE_MAC));
            let solicit = ethernet(GROUP_MAC, PROBE_MAC, ETH_IP6, &solicit);
            assert_eq!(host.passes(&solicit), answered, "{standing:?}");
            assert_eq!(host.passes(&solicit), answered, "{standing:?}");
            // Whatever stands where the flags would be.
            for byte in [0, SYN, ACK] {
                let piece = ip4(CLIENT4, VIP4, TCP, 0x0004, &[byte; 24]);
                assert_eq!(host.passes(&flooded(ETH_IP, &piece)), fragment, "{standing:?} {byte:#x}");
            }
        });
    }
}

/// A segment in two fragments shares the fate of the first, whichever comes first, and whatever the second has where
/// the first has ports and flags.
#[test]
fn fragments_of_a_segment_stay_together() {
    let orphaned = |standing| if standing == Standing::Heir { In } else { Dropped };
    for standing in
        [Standing::Moving, Standing::Shared, Standing::Heir, Standing::Taking, Standing::Relaying(PEER)]
    {
        in_namespace(move || {
            let mut host = Host::new(standing, true);
            let_live();
            let mut number = 0;
            for (ports, fate) in [(LIVING, In), (STRANGE, Dropped), (ORPHANED, orphaned(standing))] {
                for (port, flags) in [(0x0202, SYN), (STRANGE.0, ACK), (ORPHANED.0, ACK)] {
                    let payload = [&[0; 4][..], &u16::to_be_bytes(port), &[flags; 22]].concat();
                    let segment = tcp4(CLIENT4, ports, ACK, &payload)[20..].to_vec();
                    for turned in [false, true] {
                        number += 1;
                        let piece = |fragment, bytes: &[u8]| {
                            let mut packet = ip4(CLIENT4, VIP4, TCP, fragment, bytes);
                            packet[5] = number;
                            packet[10..12].fill(0);
                            let sum = checksum(&packet[..20]);
                            packet[10..12].copy_from_slice(&sum.to_be_bytes());
                            flooded(ETH_IP, &packet)
                        };
                        let mut pieces = [piece(0x2000, &segment[..24]), piece(3, &segment[24..])];
                        if turned {
                            pieces.reverse();
                        }
                        let what =
                            format!("{standing:?}, {ports:?}, then {port} {flags:#x}, turned {turned}");
                        assert_eq!(host.fate(&pieces[0]), Dropped, "{what}: the first waits for the second");
                        assert_eq!(host.fate(&pieces[1]), fate, "{what}");
                    }
                }
            }
        });
    }
}

/// No lease, no service: in no standing does anything pass, in or on.
#[test]
fn without_a_lease_nothing_passes_in_any_standing() {
    for standing in EACH {
        for tracked in [true, false] {
            in_namespace(move || {
                let mut host = Host::new(standing, tracked);
                if tracked {
                    let_live();
                }
                let short = Lease { deadline_unix_ns: 1, ..lease() };
                for over in ["no lease", "a deadline that is over"] {
                    match over {
                        "no lease" => host.netfilter.drop_lease().unwrap(),
                        _ => drop(host.netfilter.renew(&Wanted { lease: Some(short), ..both() }).unwrap()),
                    }
                    for (kind, ethertype, packet) in packets() {
                        for frame in [flooded(ethertype, &packet), direct(ethertype, &packet)] {
                            let fate = host.fate(&frame);
                            assert_eq!(fate, Dropped, "{over}: {standing:?}, tracked {tracked}, {kind}");
                        }
                    }
                    let who_has = arp(1, (PROBE_MAC, CLIENT4), VIP4);
                    let who_has = ethernet(BROADCAST, PROBE_MAC, ETH_ARP, &who_has);
                    assert_eq!(host.passes(&who_has), Dropped, "{over}: {standing:?}");
                }
            });
        }
    }
}

/// A datagram for a tracked service, and its answer, leave no trace in conntrack.
#[test]
fn datagrams_are_not_tracked() {
    in_namespace(|| {
        let mut host = Host::new(Standing::Own, true);
        let count = || {
            let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
            text.trim().parse::<u32>().unwrap()
        };
        for (kind, ethertype, packet) in packets() {
            if kind == "datagram" {
                assert_eq!(host.fate(&flooded(ethertype, &packet)), In);
                assert_eq!(count(), 0);
            }
        }
        for vip in ["192.0.2.53:53", "[2001:db8::53]:53"] {
            let socket = std::net::UdpSocket::bind(vip).unwrap();
            let client = if vip.starts_with('[') { "[2001:db8::53]:9" } else { "192.0.2.53:9" };
            socket.send_to(&[1; 20], client).unwrap();
            assert_eq!(count(), 0, "{vip}");
        }
        let _listener = std::net::TcpListener::bind("192.0.2.53:80").unwrap();
        host.fate(&flooded(ETH_IP, &tcp4(CLIENT4, (6000, 80), SYN, &[])));
        assert_ne!(count(), 0, "conntrack is not at work at all");
    });
}

/// An agent that takes over from one that was killed finds everything as it was left.
#[test]
fn standings_are_read_back() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        assert_eq!(netfilter.standings().unwrap(), None);
        let service = Service { slices: (0..).zip(EACH).collect(), ..everything() };
        let wanted = Wanted {
            services: vec![service.clone()],
            elsewhere: elsewhere(),
            ..wanted(&["192.0.2.53", "2001:db8::53"])
        };
        netfilter.install(&ruleset(&wanted)).unwrap();
        let found = netfilter.standings().unwrap().unwrap();
        let mut known = service.slices;
        known.retain(|_, standing| *standing != Standing::Foreign);
        assert_eq!(found.services, [("default".to_owned(), known)].into());
        assert_eq!(found.elsewhere, elsewhere());
        let left = found.lease.unwrap();
        let given = wanted.lease.unwrap();
        assert!(left.deadline_unix_ns <= given.deadline_unix_ns, "{left:?}");
        assert!(left.deadline_unix_ns + LONGEST.as_nanos() as u64 / 16 > given.deadline_unix_ns, "{left:?}");
        assert!(left.timeout <= LONGEST && left.timeout > LONGEST / 2, "{left:?}");
        assert_eq!(found.token, Some(token()));
        netfilter.drop_lease().unwrap();
        assert_eq!(netfilter.standings().unwrap().unwrap().lease, None);
        netfilter.remove().unwrap();
        assert_eq!(netfilter.standings().unwrap(), None);
    });
}
