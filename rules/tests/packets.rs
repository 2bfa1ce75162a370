//! What the installed rules do to frames: each is sent over a veth pair and looked for behind the rules.
//!
//! The predictions are made with onemac-core's copy of the kernel's hash. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use common::{frame::*, wire::*, *};
use onemac_core::jhash::jhash;
use onemac_rules::{Lease, Standing, Wanted, netlink::Netfilter, ruleset};

const OTHER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);
/// Shares its last 24 bits, and so its solicited-node group, with [`VIP6`].
const SAME_GROUP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, 0x53);

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
    let slice = ((u64::from(hash) * u64::from(wanted.slices)) >> 32) as u32;
    wanted.services[0].standing(slice) == Standing::Own
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
        netfilter.renew(&host()).unwrap();
        expect(true, "under a new lease");
        let over = Lease { deadline_unix_ns: 1, ..lease() };
        netfilter.renew(&Wanted { lease: Some(over), ..host() }).unwrap();
        expect(false, "with a lease whose deadline is over by the clock");
        let short = Lease { timeout: Duration::from_millis(50), ..lease() };
        netfilter.renew(&Wanted { lease: Some(short), ..host() }).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while netfilter.lease_left().unwrap().is_some() {
            assert!(Instant::now() < patience, "the lease does not end");
            thread::sleep(Duration::from_millis(5));
        }
        expect(false, "after the lease ran out");
    });
}

#[test]
fn slices_change_hands_at_once() {
    with_rules(|mut wire, mut netfilter| {
        let mine = &host().services[0];
        let others = (0..host().slices).filter(|n| !mine.slices.contains_key(n));
        netfilter.change(&host(), &serving(&host(), [mine.owning(others)])).unwrap();
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
