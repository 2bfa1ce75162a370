//! What becomes of packets in each standing of their slice, from the wire to behind conntrack. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use common::{frame::*, wire::*, *};
use onemac_rules::{Lease, Service, Standing, Wanted, netlink::Netfilter, ruleset};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
/// Somewhere on the client's way.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// Ports of the connection that conntrack knows, and of one that it does not.
const LIVING: (u16, u16) = (4000, 80);
const STRANGE: (u16, u16) = (4001, 80);

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has passed conntrack and has no mark.
    In,
    /// It was sent to the peer.
    Relayed,
    Dropped,
}

use Fate::{Dropped, In, Relayed};

/// A host with all slices in one standing, and a wire to it.
struct Host {
    wire: Wire,
    netfilter: Netfilter,
    wanted: Wanted,
    /// Whether the last packet came in by another device than the shared one.
    astray: bool,
}

fn all(standing: Standing, tracked: bool) -> Service {
    let slices = (0..64).map(|n| (n, standing)).collect();
    Service { slices, ..Service::everything("default", tracked) }
}

impl Host {
    fn new(standing: Standing, tracked: bool) -> Self {
        let wanted =
            Wanted { services: vec![all(standing, tracked)], ..wanted(&["192.0.2.53", "2001:db8::53"]) };
        run("ip", &["link", "set", DEVICE, "address", &DEVICE_MAC.to_string()]);
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&wanted)).unwrap();
        let wire = Wire::new(&wanted);
        // What is sent to the host itself has to get through here; without an address it has little to say.
        for (setting, value) in [("addr_gen_mode", "1"), ("disable_ipv6", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/{setting}"), value).unwrap();
        }
        let mac = CLUSTER_MAC.to_string();
        run(
            "ip",
            &[
                "link", "add", "onemac0", "link", DEVICE, "address", &mac, "type", "macvlan", "mode",
                "private",
            ],
        );
        run("ip", &["link", "set", "onemac0", "up"]);
        run("ip", &["address", "add", "192.0.2.53/32", "dev", "onemac0"]);
        run("ip", &["address", "add", "2001:db8::53/128", "dev", "onemac0", "nodad"]);
        let (probe, own) = (onemac_rules::MacAddr(PROBE_MAC), DEVICE_MAC);
        nft_load(
            &format!(
                "table inet observer {{\nchain behind {{\ntype filter hook prerouting priority -150;\n\
                 ether saddr {probe} meta mark 0 counter comment \"in\"\n\
                 ether saddr {probe} meta mark != 0 counter comment \"marked\"\n\
                 ether saddr {probe} iifname != onemac0 counter comment \"astray\"\n}}\n}}\n\
                 table netdev observer {{\nchain relayed {{\ntype filter hook ingress device \"far\" priority 99;\n\
                 ether saddr {own} ether daddr {PEER} counter comment \"relayed\"\n\
                 ether saddr {probe} counter comment \"unmasked\"\n}}\n}}\n"
            ),
            &[],
        )
        .unwrap();
        Self { wire, netfilter, wanted, astray: false }
    }

    /// What becomes of an IP packet.
    fn fate(&mut self, frame: &[u8]) -> Fate {
        let before = counters();
        self.wire.send_and_wait(Way::In, frame);
        // What was relayed on the way waits at the far end before this.
        self.wire.send_and_wait(Way::Out, &ethernet(BROADCAST, SENTINEL_MAC, ETH_TEST, &[0; 46]));
        let after = counters();
        let more = |what: &str| after[what] - before[what];
        assert_eq!(more("marked"), 0, "the mark was not taken away: {frame:02x?}");
        self.astray = more("astray") > 0;
        assert_eq!(more("unmasked"), 0, "sent on in somebody else's name: {frame:02x?}");
        match (more("in"), more("relayed")) {
            (1, 0) => In,
            (0, 1) => Relayed,
            (0, 0) => Dropped,
            other => panic!("{other:?} of one frame: {frame:02x?}"),
        }
    }

    /// How many of these get in, sent without a pause.
    fn taken(&mut self, frames: &[&[u8]]) -> u64 {
        let before = counters()["in"];
        let (last, first) = frames.split_last().unwrap();
        first.iter().for_each(|frame| self.wire.send("far", frame));
        self.wire.send_and_wait(Way::In, last);
        counters()["in"] - before
    }

    /// Whether a frame, whatever it is, gets past the rules on the device.
    fn passes(&mut self, frame: &[u8]) -> Fate {
        if self.wire.passes_in(frame) { In } else { Dropped }
    }
}

/// The counters of the observers.
fn counters() -> BTreeMap<String, u64> {
    let text = run("nft", &["list", "table", "inet", "observer"])
        + &run("nft", &["list", "chain", "netdev", "observer", "relayed"]);
    let count = |line: &str| {
        let (_, rest) = line.split_once("counter packets ")?;
        let name = rest.split_once("comment \"")?.1.trim_end_matches('"');
        Some((name.to_owned(), rest.split(' ').next()?.parse().unwrap()))
    };
    text.lines().filter_map(count).collect()
}

/// The same packet to the shared MAC address, or to the host's own.
fn flooded(kind: u16, packet: &[u8]) -> Vec<u8> {
    for_cluster(kind, packet)
}

fn direct(kind: u16, packet: &[u8]) -> Vec<u8> {
    ethernet(DEVICE_MAC.0, PROBE_MAC, kind, packet)
}

/// Forgets the connections and the packets that there were.
fn forget() {
    run("conntrack", &["-F"]);
    for set in ["came_flooded", "came_relayed"] {
        run("nft", &["flush", "set", "netdev", "onemac", set]);
    }
}

/// Makes conntrack know the living connections.
fn let_live() {
    for (client, vip) in [(CLIENT4.to_string(), "192.0.2.53"), (CLIENT6.to_string(), "2001:db8::53")] {
        let ends = format!("-s {client} -d {vip} --sport {} --dport {}", LIVING.0, LIVING.1);
        let state = "-I -p tcp --state ESTABLISHED --timeout 600 -u SEEN_REPLY,ASSURED";
        run("conntrack", &format!("{state} {ends}").split(' ').collect::<Vec<_>>());
    }
}

/// Every kind of packet by name, for both families.
fn packets() -> Vec<(&'static str, u16, Vec<u8>)> {
    let quoted4 = |ports| {
        let back = tcp4(CLIENT4, ports, ACK, &[]);
        let ports = [&back[22..24], &back[20..22], &back[24..]].concat();
        icmp4(ROUTER4, 3, &ip4(VIP4, CLIENT4, TCP, 0, &ports))
    };
    let quoted6 = |ports| {
        let back = tcp6(CLIENT6, ports, ACK, &[]);
        let ports = [&back[42..44], &back[40..42], &back[44..]].concat();
        icmp6(ROUTER6, 2, &ip6(VIP6, CLIENT6, TCP, &ports))
    };
    let datagram = udp(5000, 53, &[7; 20]);
    vec![
        ("opening", ETH_IP, tcp4(CLIENT4, (6000, 80), SYN, &[])),
        ("opening", ETH_IP6, tcp6(CLIENT6, (6000, 80), SYN, &[])),
        ("opening again", ETH_IP, tcp4(CLIENT4, LIVING, SYN, &[])),
        ("opening again", ETH_IP6, tcp6(CLIENT6, LIVING, SYN, &[])),
        ("known", ETH_IP, tcp4(CLIENT4, LIVING, ACK, &[])),
        ("known", ETH_IP6, tcp6(CLIENT6, LIVING, ACK, &[])),
        ("strange", ETH_IP, tcp4(CLIENT4, STRANGE, ACK, &[])),
        ("strange", ETH_IP6, tcp6(CLIENT6, STRANGE, ACK, &[])),
        ("error about a known one", ETH_IP, quoted4(LIVING)),
        ("error about a known one", ETH_IP6, quoted6(LIVING)),
        ("error about a strange one", ETH_IP, quoted4(STRANGE)),
        ("error about a strange one", ETH_IP6, quoted6(STRANGE)),
        ("datagram", ETH_IP, ip4(CLIENT4, VIP4, UDP, 0, &datagram)),
        ("datagram", ETH_IP6, ip6(CLIENT6, VIP6, UDP, &datagram)),
        ("echo", ETH_IP, icmp4(CLIENT4, 8, &[0; 40])),
        ("echo", ETH_IP6, icmp6(CLIENT6, 128, &[0; 40])),
    ]
}

/// Sends every kind of packet and compares what becomes of it with what is expected.
fn expect(standing: Standing, tracked: bool, expected: &'static [(&str, Fate, Fate)]) {
    in_namespace(move || {
        let mut host = Host::new(standing, tracked);
        for (kind, by_itself, relayed) in expected {
            let of_kind: Vec<_> = packets().into_iter().filter(|(name, ..)| name == kind).collect();
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
                    let relayed_to_us = standing == Standing::Incoming && *kind == "datagram";
                    assert!(
                        !host.astray || how == "relayed" && !relayed_to_us,
                        "{standing:?}, {kind} {how}, {ethertype:#x}: not by the shared device"
                    );
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
    ];
    expect(Standing::Own, true, ALL);
    expect(Standing::Own, false, ALL);
    // Without connections to follow there is no other.
    expect(Standing::Shared, false, ALL);
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

/// A segment in two fragments shares the fate of the first, whichever comes first.
#[test]
fn fragments_of_a_segment_stay_together() {
    for standing in [Standing::Moving, Standing::Shared, Standing::Taking, Standing::Relaying(PEER)] {
        in_namespace(move || {
            let mut host = Host::new(standing, true);
            let_live();
            for (number, ports, fate) in [(1, LIVING, In), (2, STRANGE, Dropped)] {
                let segment = tcp4(CLIENT4, ports, ACK, &[SYN; 28])[20..].to_vec();
                for turned in [false, true] {
                    let piece = |fragment, bytes: &[u8]| {
                        let mut packet = ip4(CLIENT4, VIP4, TCP, fragment, bytes);
                        packet[5] = number * 2 + u8::from(turned);
                        packet[10..12].fill(0);
                        let sum = checksum(&packet[..20]);
                        packet[10..12].copy_from_slice(&sum.to_be_bytes());
                        flooded(ETH_IP, &packet)
                    };
                    let mut pieces = [piece(0x2000, &segment[..24]), piece(3, &segment[24..])];
                    if turned {
                        pieces.reverse();
                    }
                    assert_eq!(
                        host.fate(&pieces[0]),
                        Dropped,
                        "{standing:?}: the first waits for the second"
                    );
                    let what = format!("{standing:?}, {ports:?}, turned {turned}");
                    assert_eq!(host.fate(&pieces[1]), fate, "{what}");
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
                        _ => host.netfilter.renew(DEVICE, short).unwrap(),
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
        let taking = [all(Standing::Taking, true)];
        host.netfilter.change(&host.wanted.services, &taking, None).unwrap();
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
        let slices = (0..7).map(|n| (n, EACH[n as usize])).collect();
        let service = Service { slices, ..everything() };
        let wanted = Wanted { services: vec![service.clone()], ..wanted(&["192.0.2.53"]) };
        netfilter.install(&ruleset(&wanted)).unwrap();
        let found = netfilter.standings().unwrap().unwrap();
        let mut known = service.slices;
        known.retain(|_, standing| *standing != Standing::Foreign);
        assert_eq!(found.services, [("default".to_owned(), known)].into());
        let left = found.lease.unwrap();
        assert_eq!(left.deadline_unix_ns, lease().deadline_unix_ns);
        assert!(left.timeout <= lease().timeout && left.timeout > lease().timeout / 2, "{left:?}");
        netfilter.drop_lease().unwrap();
        assert_eq!(netfilter.standings().unwrap().unwrap().lease, None);
        netfilter.remove().unwrap();
        assert_eq!(netfilter.standings().unwrap(), None);
    });
}
