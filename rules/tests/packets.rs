//! What the installed rules do to frames: each is sent over a veth pair and looked for behind the rules.
//!
//! The predictions are made with onemac-core's copy of the kernel's hash. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use common::*;
use nix::{
    libc,
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
    unistd::Pid,
};
use onemac_core::jhash::jhash;
use onemac_rules::{Lease, Wanted, netlink::Netfilter, ruleset};

const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
const OTHER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);
/// Shares its last 24 bits, and so its solicited-node group, with [`VIP6`].
const SAME_GROUP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, 0x53);
const GROUP_MAC: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 0x53];
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x53);

const PROBE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const SENTINEL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x88];
const BROADCAST: [u8; 6] = [0xff; 6];

const ETH_ARP: u16 = 0x0806;
const ETH_IP: u16 = 0x0800;
const ETH_IP6: u16 = 0x86dd;
/// Reserved for experiments (IEEE 802, local experimental ethertype 1).
const ETH_TEST: u16 = 0x88b5;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

fn host() -> Wanted {
    wanted(&["192.0.2.53", "2001:db8::53"])
}

/// Addresses of clients whose slice the host owns, or does not.
fn clients4(owned: bool) -> impl Iterator<Item = Ipv4Addr> {
    (1..=254).map(|n| Ipv4Addr::new(198, 51, 100, n)).filter(move |a| is_owned(IpAddr::V4(*a)) == owned)
}

fn clients6(owned: bool) -> impl Iterator<Item = Ipv6Addr> {
    (1..=254)
        .map(|n| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n))
        .filter(move |a| is_owned(IpAddr::V6(*a)) == owned)
}

fn is_owned(client: IpAddr) -> bool {
    let wanted = host();
    let hash = match client {
        IpAddr::V4(a) => jhash(&a.octets(), wanted.seed),
        IpAddr::V6(a) => jhash(&a.octets(), wanted.seed),
    };
    wanted.owned.contains(&((u64::from(hash) * u64::from(wanted.slices)) >> 32).try_into().unwrap())
}

/// Both ends of the veth pair, with a table behind the rules that counts what it sees.
struct Wire {
    socket: OwnedFd,
    /// Sentinels sent so far, by direction.
    sentinels: [u64; 2],
}

#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Wire {
    fn new(wanted: &Wanted) -> Self {
        // One processor: what is sent first is then received first.
        let mut one = CpuSet::new();
        one.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        for device in [DEVICE, "far"] {
            // The kernel's own IPv6 chatter would be counted.
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").unwrap();
            run("ip", &["link", "set", device, "up"]);
        }
        let cluster = wanted.cluster_mac;
        let own = wanted.device_mac;
        let probe = onemac_rules::MacAddr(PROBE_MAC);
        let sentinel = onemac_rules::MacAddr(SENTINEL_MAC);
        let observer = format!(
            "table netdev observer {{\n\
             chain in {{\ntype filter hook ingress device \"{DEVICE}\" priority 100;\n\
             ether saddr {probe} counter comment \"probe\"\n\
             ether saddr {sentinel} counter comment \"sentinel\"\n}}\n\
             chain out {{\ntype filter hook ingress device \"far\" priority 100;\n\
             ether saddr {{ {probe}, {own} }} counter comment \"probe\"\n\
             ether saddr {cluster} counter comment \"unmasked\"\n\
             ether saddr {sentinel} counter comment \"sentinel\"\n}}\n}}\n"
        );
        nft_load(&observer, &[]).unwrap();
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
        Self { socket, sentinels: [0, 0] }
    }

    /// Whether a frame that arrives at the service device gets past the rules.
    fn passes_in(&mut self, frame: &[u8]) -> bool {
        let before = counted(Way::In, "probe");
        self.send_and_wait(Way::In, frame);
        counted(Way::In, "probe") > before
    }

    /// Whether a frame that the service device sends arrives. It must not bear the cluster MAC.
    fn passes_out(&mut self, frame: &[u8]) -> bool {
        let before = counted(Way::Out, "probe");
        self.send_and_wait(Way::Out, frame);
        assert_eq!(counted(Way::Out, "unmasked"), 0, "a frame left with the cluster MAC as its source");
        counted(Way::Out, "probe") > before
    }

    fn send_and_wait(&mut self, way: Way, frame: &[u8]) {
        let device = match way {
            Way::In => "far",
            Way::Out => DEVICE,
        };
        self.send(device, frame);
        self.send(device, &ethernet(BROADCAST, SENTINEL_MAC, ETH_TEST, &[0; 46]));
        self.sentinels[way as usize] += 1;
        let patience = Instant::now() + Duration::from_secs(60);
        while counted(way, "sentinel") < self.sentinels[way as usize] {
            assert!(Instant::now() < patience, "the sentinel did not arrive");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn send(&self, device: &str, frame: &[u8]) {
        // SAFETY: all its fields are numbers, and zero is one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = if_nametoindex(device).unwrap() as i32;
        // SAFETY: frame and address are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        // The sender of a frame that an egress rule drops is told ENOBUFS.
        let error = std::io::Error::last_os_error();
        let dropped = sent < 0 && error.raw_os_error() == Some(libc::ENOBUFS);
        assert!(dropped || sent == frame.len() as isize, "{sent}: {error}");
    }
}

/// What the observer has counted of one kind of frames.
fn counted(way: Way, kind: &str) -> u64 {
    let chain = match way {
        Way::In => "in",
        Way::Out => "out",
    };
    let text = run("nft", &["list", "chain", "netdev", "observer", chain]);
    let line = text.lines().find(|l| l.contains(&format!("comment \"{kind}\""))).unwrap();
    line.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes(), payload].concat()
}

/// A frame for the cluster MAC.
fn for_cluster(kind: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(host().cluster_mac.0, PROBE_MAC, kind, payload)
}

/// An IPv4 packet; `fragment` is the field of flags and offset.
fn ip4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    [
        &[0x45, 0][..],
        &len.to_be_bytes(),
        &[0, 1],
        &fragment.to_be_bytes(),
        &[64, protocol, 0, 0],
        &from.octets(),
        &to.octets(),
        payload,
    ]
    .concat()
}

fn ip6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &len, &[next, 255], &from.octets(), &to.octets(), payload].concat()
}

/// An ICMP or ICMPv6 message: type, code, checksum, four bytes more, body.
fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], body].concat()
}

fn arp(operation: u8, sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &sender.1.octets(), &[0; 6], &target.octets(), &[0; 18]].concat()
}

/// A neighbour solicitation (135) or advertisement (136) with a link-layer address option.
fn neighbour(kind: u8, target: Ipv6Addr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    icmp(kind, &[&target.octets()[..], &[option, 1], &mac].concat())
}

fn mine4() -> Ipv4Addr {
    clients4(true).next().unwrap()
}

fn theirs4() -> Ipv4Addr {
    clients4(false).next().unwrap()
}

fn mine6() -> Ipv6Addr {
    clients6(true).next().unwrap()
}

fn theirs6() -> Ipv6Addr {
    clients6(false).next().unwrap()
}

/// A test with the rules of [`host`] in place, and the wire to send by.
fn with_rules(test: impl FnOnce(Wire, Netfilter) + Send + 'static) {
    in_namespace(move || {
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&host())).unwrap();
        let wire = Wire::new(&host());
        test(wire, netfilter);
    });
}

#[test]
fn clients_are_told_apart_as_predicted() {
    with_rules(|mut wire, _| {
        for owned in [true, false] {
            for client in clients4(owned).take(12) {
                let packet = ip4(client, VIP4, UDP, 0, &[0; 20]);
                assert_eq!(wire.passes_in(&for_cluster(ETH_IP, &packet)), owned, "{client}");
            }
            for client in clients6(owned).take(12) {
                let packet = ip6(client, VIP6, UDP, &[0; 20]);
                assert_eq!(wire.passes_in(&for_cluster(ETH_IP6, &packet)), owned, "{client}");
            }
        }
    });
}

#[test]
fn fragments_and_echo_requests_go_by_their_source() {
    with_rules(|mut wire, _| {
        for (client, owned) in [(mine4(), true), (theirs4(), false)] {
            let router = if owned { theirs4() } else { mine4() };
            for (protocol, fragment, payload) in [
                (UDP, 0x2000, vec![0; 24]),
                (UDP, 0x0003, vec![0; 24]),
                (ICMP, 0, icmp(8, &[0; 40])),
                (ICMP, 0x2000, icmp(8, &[0; 40])),
                // Looks like an error about somebody else's connection, but is the middle of a fragment.
                (ICMP, 0x0003, icmp(3, &ip4(VIP4, router, UDP, 0, &[0; 8]))),
                // An error that quotes too little to tell.
                (ICMP, 0, icmp(3, &ip4(VIP4, router, UDP, 0, &[])[..12])),
            ] {
                let packet = ip4(client, VIP4, protocol, fragment, &payload);
                let passed = wire.passes_in(&for_cluster(ETH_IP, &packet));
                assert_eq!(passed, owned, "protocol {protocol}, fragment {fragment:#x}, {payload:02x?}");
            }
        }
        for (client, owned) in [(mine6(), true), (theirs6(), false)] {
            let router = if owned { theirs6() } else { mine6() };
            let quoting = icmp(2, &ip6(VIP6, router, UDP, &[0; 8]));
            // Fragment header: next header, offset 3 * 8.
            let middle = [&[ICMP6, 0, 0, 24, 0, 0, 0, 1], &quoting[..]].concat();
            for (next, payload) in
                [(ICMP6, icmp(128, &[0; 40])), (44, middle), (ICMP6, quoting[..20].to_vec())]
            {
                let packet = ip6(client, VIP6, next, &payload);
                assert_eq!(wire.passes_in(&for_cluster(ETH_IP6, &packet)), owned, "{payload:02x?}");
            }
        }
    });
}

#[test]
fn icmp_errors_go_to_the_host_of_the_connection() {
    with_rules(|mut wire, _| {
        for (client, owned) in [(mine4(), true), (theirs4(), false)] {
            for router in [mine4(), theirs4()] {
                for kind in [3, 11, 12] {
                    let quoted = ip4(VIP4, client, 6, 0, &[0; 8]);
                    let packet = ip4(router, VIP4, ICMP, 0, &icmp(kind, &quoted));
                    assert_eq!(wire.passes_in(&for_cluster(ETH_IP, &packet)), owned, "{router} {kind}");
                }
            }
        }
        for (client, owned) in [(mine6(), true), (theirs6(), false)] {
            for router in [mine6(), theirs6()] {
                for kind in 1..=4 {
                    let quoted = ip6(VIP6, client, 6, &[0; 8]);
                    let error = icmp(kind, &quoted);
                    let packet = ip6(router, VIP6, ICMP6, &error);
                    assert_eq!(wire.passes_in(&for_cluster(ETH_IP6, &packet)), owned, "{router} {kind}");
                    // Behind a hop-by-hop header of eight bytes (RFC 8200: a padding option of six).
                    let behind = [&[ICMP6, 0, 1, 4, 0, 0, 0, 0], &error[..]].concat();
                    let packet = ip6(router, VIP6, 0, &behind);
                    assert_eq!(wire.passes_in(&for_cluster(ETH_IP6, &packet)), owned, "{router} {kind}");
                }
            }
        }
    });
}

#[test]
fn one_host_answers_who_has_the_address() {
    with_rules(|mut wire, _| {
        let ask =
            |asker, target| ethernet(BROADCAST, PROBE_MAC, ETH_ARP, &arp(1, (PROBE_MAC, asker), target));
        assert!(wire.passes_in(&ask(mine4(), VIP4)));
        assert!(!wire.passes_in(&ask(theirs4(), VIP4)));
        assert!(wire.passes_in(&ask(theirs4(), OTHER4)), "the host's own addresses are not concerned");

        let solicit = |asker, to: (Ipv6Addr, [u8; 6]), target| {
            let packet = ip6(asker, to.0, ICMP6, &neighbour(135, target, 1, PROBE_MAC));
            ethernet(to.1, PROBE_MAC, ETH_IP6, &packet)
        };
        assert!(wire.passes_in(&solicit(mine6(), (GROUP, GROUP_MAC), VIP6)));
        assert!(!wire.passes_in(&solicit(theirs6(), (GROUP, GROUP_MAC), VIP6)));
        assert!(
            wire.passes_in(&solicit(theirs6(), (GROUP, GROUP_MAC), SAME_GROUP)),
            "an own address of the host that shares the group is not concerned"
        );
        // Probes of a router that knows the address already.
        let cluster = host().cluster_mac.0;
        assert!(wire.passes_in(&solicit(mine6(), (VIP6, cluster), VIP6)));
        assert!(!wire.passes_in(&solicit(theirs6(), (VIP6, cluster), VIP6)));
        let mut probe = ask(mine4(), VIP4);
        probe[..6].copy_from_slice(&cluster);
        assert!(wire.passes_in(&probe));
        let mut probe = ask(theirs4(), VIP4);
        probe[..6].copy_from_slice(&cluster);
        assert!(!wire.passes_in(&probe));
    });
}

#[test]
fn nothing_else_comes_in_by_the_cluster_mac() {
    with_rules(|mut wire, _| {
        for (kind, payload) in [
            (ETH_IP, ip4(mine4(), OTHER4, UDP, 0, &[0; 20])),
            (ETH_IP6, ip6(mine6(), OTHER6, UDP, &[0; 20])),
            (ETH_ARP, arp(1, (PROBE_MAC, mine4()), OTHER4)),
            (ETH_TEST, vec![0; 46]),
        ] {
            assert!(!wire.passes_in(&for_cluster(kind, &payload)), "ethertype {kind:#x}");
            let own = ethernet(host().device_mac.0, PROBE_MAC, kind, &payload);
            assert!(wire.passes_in(&own), "the host's own traffic, ethertype {kind:#x}");
        }
    });
}

#[test]
fn without_a_lease_nothing_is_accepted_or_answered() {
    with_rules(|mut wire, mut netfilter| {
        let frames = [
            for_cluster(ETH_IP, &ip4(mine4(), VIP4, UDP, 0, &[0; 20])),
            for_cluster(ETH_IP, &ip4(mine4(), VIP4, ICMP, 0, &icmp(8, &[0; 40]))),
            for_cluster(ETH_IP6, &ip6(mine6(), VIP6, UDP, &[0; 20])),
            ethernet(BROADCAST, PROBE_MAC, ETH_ARP, &arp(1, (PROBE_MAC, mine4()), VIP4)),
            ethernet(
                GROUP_MAC,
                PROBE_MAC,
                ETH_IP6,
                &ip6(mine6(), GROUP, ICMP6, &neighbour(135, VIP6, 1, PROBE_MAC)),
            ),
        ];
        let mut expect = |expected: bool, when: &str| {
            for frame in &frames {
                assert_eq!(wire.passes_in(frame), expected, "{when}: {frame:02x?}");
            }
        };
        expect(true, "under the lease");
        netfilter.drop_lease().unwrap();
        expect(false, "after the lease was dropped");
        netfilter.renew(DEVICE, lease()).unwrap();
        expect(true, "under a new lease");
        let over = Lease { deadline_unix_ns: 1, ..lease() };
        netfilter.renew(DEVICE, over).unwrap();
        expect(false, "with a lease whose deadline is over by the clock");
        let short = Lease { timeout: Duration::from_millis(50), ..lease() };
        netfilter.renew(DEVICE, short).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while netfilter.lease_left(DEVICE).unwrap().is_some() {
            assert!(Instant::now() < patience, "the lease does not end");
            thread::sleep(Duration::from_millis(5));
        }
        expect(false, "after the lease ran out");
    });
}

#[test]
fn slices_change_hands_at_once() {
    with_rules(|mut wire, mut netfilter| {
        let slices: Vec<u32> = host().owned.into_iter().collect();
        let others: Vec<u32> = (0..host().slices).filter(|n| !slices.contains(n)).collect();
        netfilter.change(&others, &slices, None).unwrap();
        let udp = |client| for_cluster(ETH_IP, &ip4(client, VIP4, UDP, 0, &[0; 20]));
        assert!(!wire.passes_in(&udp(mine4())));
        assert!(wire.passes_in(&udp(theirs4())));
    });
}

/// Whoever takes slices out of the map makes the host silent for them, not talkative.
#[test]
fn a_slice_that_is_not_in_the_map_is_dropped() {
    with_rules(|mut wire, _| {
        run("nft", &["flush", "map", "netdev", "onemac", "slices"]);
        let question = ip6(mine6(), GROUP, ICMP6, &neighbour(135, VIP6, 1, PROBE_MAC));
        for frame in [
            for_cluster(ETH_IP, &ip4(mine4(), VIP4, UDP, 0, &[0; 20])),
            for_cluster(ETH_IP, &ip4(mine4(), VIP4, ICMP, 0, &icmp(8, &[0; 40]))),
            for_cluster(ETH_IP6, &ip6(mine6(), VIP6, UDP, &[0; 20])),
            ethernet(BROADCAST, PROBE_MAC, ETH_ARP, &arp(1, (PROBE_MAC, mine4()), VIP4)),
            ethernet(GROUP_MAC, PROBE_MAC, ETH_IP6, &question),
        ] {
            assert!(!wire.passes_in(&frame), "{frame:02x?}");
        }
    });
}

/// The first look sees only headers without options; those with options are told apart all the same.
#[test]
fn ip_options_do_not_change_the_owner() {
    with_rules(|mut wire, _| {
        for (client, owned) in [(mine4(), true), (theirs4(), false)] {
            let mut packet = ip4(client, VIP4, UDP, 0, &[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            packet[0] = 0x46;
            assert_eq!(wire.passes_in(&for_cluster(ETH_IP, &packet)), owned, "{client}");
        }
    });
}

#[test]
fn the_mask_and_the_guards_hold() {
    with_rules(|mut wire, _| {
        let wanted = host();
        let (own, cluster) = (wanted.device_mac.0, wanted.cluster_mac.0);
        let arp_by = |mac| ethernet(PROBE_MAC, cluster, ETH_ARP, &arp(2, (mac, VIP4), mine4()));
        assert!(wire.passes_out(&arp_by(cluster)), "an answer with the cluster MAC in it goes out, masked");
        assert!(!wire.passes_out(&arp_by(own)), "never a VIP with the host's own MAC");
        let own_address = ethernet(PROBE_MAC, own, ETH_ARP, &arp(2, (own, OTHER4), mine4()));
        assert!(wire.passes_out(&own_address), "the host's own address is not concerned");

        for (kind, option) in [(135, 1), (136, 2)] {
            let by = |mac, from| {
                let packet = ip6(from, mine6(), ICMP6, &neighbour(kind, VIP6, option, mac));
                ethernet(PROBE_MAC, cluster, ETH_IP6, &packet)
            };
            assert!(wire.passes_out(&by(cluster, VIP6)), "type {kind}");
            assert!(!wire.passes_out(&by(own, VIP6)), "type {kind}");
            assert!(wire.passes_out(&by(own, OTHER6)), "type {kind}: not a VIP");
        }
        // An advertisement without the option, the answer to a unicast probe.
        let bare = ip6(VIP6, mine6(), ICMP6, &icmp(136, &VIP6.octets()));
        assert!(wire.passes_out(&ethernet(PROBE_MAC, cluster, ETH_IP6, &bare)));
        // Anything else with the cluster MAC, a multicast listener report for one.
        assert!(wire.passes_out(&ethernet(BROADCAST, cluster, ETH_TEST, &[0; 46])));
    });
}
