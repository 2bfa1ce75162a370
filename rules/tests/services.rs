//! Several services by port, each with slices of its own. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};

use common::{frame::*, wire::*, *};
use onemac_rules::{Service, Standing, Wanted, netlink::Netfilter, ruleset};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

/// Every frame, and the service that it belongs to.
fn frames() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut add = |service, what, kind, packet: Vec<u8>| {
        frames.push((service, what, for_cluster(kind, &packet)));
    };
    for (service, protocol, port) in [
        ("dns", UDP, 53),
        ("default", TCP, 53),
        ("web", TCP, 80),
        ("web", TCP, 443),
        ("web", UDP, 443),
        ("default", UDP, 80),
        ("default", UDP, 443 + 256),
    ] {
        let ports = udp(6000, port, &[0; 20]);
        add(service, "to a port", ETH_IP, ip4(CLIENT4, VIP4, protocol, 0, &ports));
        add(service, "to a port", ETH_IP6, ip6(CLIENT6, VIP6, protocol, &ports));
        let mut with_options = ip4(CLIENT4, VIP4, protocol, 0, &[&[1, 1, 1, 0][..], &ports].concat());
        with_options[0] = 0x46;
        add(service, "with options", ETH_IP, with_options);
        // A hop-by-hop header of eight bytes: a padding option of six.
        let behind = [&[protocol, 0, 1, 4, 0, 0, 0, 0], &ports[..]].concat();
        add(service, "behind another header", ETH_IP6, ip6(CLIENT6, VIP6, 0, &behind));

        add("default", "first fragment", ETH_IP, ip4(CLIENT4, VIP4, protocol, 0x2000, &ports));
        add("default", "later fragment", ETH_IP, ip4(CLIENT4, VIP4, protocol, 3, &ports));
        for offset in [0, 24] {
            let piece = [&[protocol, 0, 0, offset | 1, 0, 0, 0, 1], &ports[..]].concat();
            add("default", "fragment", ETH_IP6, ip6(CLIENT6, VIP6, 44, &piece));
        }

        let answer = udp(port, 6000, &[0; 20]);
        let quoted = ip4(VIP4, CLIENT4, protocol, 0, &answer[..8]);
        add(service, "error", ETH_IP, icmp4(ROUTER4, 3, &quoted));
        add(service, "error", ETH_IP6, icmp6(ROUTER6, 2, &ip6(VIP6, CLIENT6, protocol, &answer[..8])));
        let mut quoted_options = quoted.clone();
        quoted_options[0] = 0x46;
        add("default", "error, quoting options", ETH_IP, icmp4(ROUTER4, 3, &quoted_options));
        let piece = ip4(VIP4, CLIENT4, protocol, 3, &answer[..8]);
        add("default", "error, quoting a later fragment", ETH_IP, icmp4(ROUTER4, 3, &piece));
        let short = ip4(VIP4, CLIENT4, protocol, 0, &[]);
        add("default", "error, quoting little", ETH_IP, icmp4(ROUTER4, 3, &short));
    }
    add("default", "echo", ETH_IP, icmp4(CLIENT4, 8, &[0; 40]));
    add("default", "echo", ETH_IP6, icmp6(CLIENT6, 128, &[0; 40]));
    // Where a port would be stands one that is a service's.
    add("default", "another protocol", ETH_IP, ip4(CLIENT4, VIP4, 47, 0, &udp(6000, 53, &[0; 20])));
    let who_has = ethernet(BROADCAST, PROBE_MAC, ETH_ARP, &arp(1, (PROBE_MAC, CLIENT4), VIP4));
    let question = ip6(CLIENT6, GROUP, ICMP6, &neighbour(135, VIP6, 1, PROBE_MAC));
    frames.push(("default", "ARP", who_has));
    frames.push(("default", "solicitation", ethernet(GROUP_MAC, PROBE_MAC, ETH_IP6, &question)));
    frames
}

fn all(standing: Standing) -> impl Fn(Service) -> Service {
    move |service| Service { slices: (0..64).map(|n| (n, standing)).collect(), ..service }
}

#[test]
fn every_packet_belongs_to_one_service() {
    for own in ["dns", "web", "default"] {
        in_namespace(move || {
            let services = services().into_iter().map(|service| {
                let standing = if service.name == own { Standing::Own } else { Standing::Foreign };
                all(standing)(service)
            });
            let wanted = Wanted { services: services.collect(), ..wanted(&["192.0.2.53", "2001:db8::53"]) };
            Netfilter::open().unwrap().install(&ruleset(&wanted)).unwrap();
            let mut wire = Wire::new(&wanted);
            for (service, what, frame) in frames() {
                let passed = wire.passes_in(&frame);
                assert_eq!(passed, service == own, "{own}'s: {what}, which is {service}'s: {frame:02x?}");
            }
        });
    }
}

/// Services change hands one by one, and are read back one by one.
#[test]
fn services_change_independently() {
    in_namespace(|| {
        let wanted = Wanted { slices: 16, services: services(), ..wanted(&["192.0.2.53", "2001:db8::53"]) };
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&wanted)).unwrap();
        let mut now = services();
        for n in 0..3 {
            let mut to = now.clone();
            to[n] = Service {
                slices: [(3, Standing::Own), (4, Standing::Relaying(PEER))].into(),
                ..to[n].clone()
            };
            netfilter.change(&serving(&wanted, now), &serving(&wanted, to.clone())).unwrap();
            now = to;
            let found = netfilter.standings().unwrap().unwrap();
            // Without connections to follow there are fewer standings.
            for service in &now {
                let held = &found.services[&service.name];
                let wanted = service.slices.iter().filter_map(|(n, standing)| match standing {
                    Standing::Foreign => None,
                    Standing::Moving if !service.tracked => None,
                    Standing::Shared | Standing::Heir if !service.tracked => Some((*n, Standing::Own)),
                    other => Some((*n, *other)),
                });
                assert_eq!(*held, wanted.collect(), "{}", service.name);
            }
        }
        let now = Wanted { services: now, ..wanted };
        assert_eq!(netfilter.verify(&ruleset(&now)).unwrap(), []);

        let error = netfilter.change(&now, &serving(&now, &now.services[1..])).unwrap_err();
        assert!(error.to_string().contains("\"dns\""), "{error}");
        let mut other_ports = now.clone();
        other_ports.services[0].ports = Some(Vec::new());
        assert!(netfilter.change(&now, &other_ports).is_err());
    });
}

/// Each service relays to its own new owner.
#[test]
fn services_are_relayed_apart() {
    in_namespace(|| {
        let other = onemac_rules::MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x98]);
        let mut services = services();
        services[0] = all(Standing::Relaying(PEER))(services[0].clone());
        services[1] = all(Standing::Relaying(other))(services[1].clone());
        services[2] = all(Standing::Own)(services[2].clone());
        let wanted = Wanted { services, ..wanted(&["192.0.2.53", "2001:db8::53"]) };
        Netfilter::open().unwrap().install(&ruleset(&wanted)).unwrap();
        let mut wire = Wire::new(&wanted);
        let counters = format!(
            "table netdev relayed {{\nchain far {{\ntype filter hook ingress device \"far\" priority 99;\n\
             ether daddr {PEER} counter comment \"dns\"\nether daddr {other} counter comment \"web\"\n}}\n}}\n"
        );
        nft_load(&counters, &[]).unwrap();
        let counted = |name: &str| -> u64 {
            let text = run("nft", &["list", "chain", "netdev", "relayed", "far"]);
            let line = text.lines().find(|l| l.contains(&format!("\"{name}\""))).unwrap();
            line.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
        };
        let query = udp(6000, 53, &[0; 20]);
        for (frame, expected) in [
            (for_cluster(ETH_IP, &ip4(CLIENT4, VIP4, UDP, 0, &query)), (1, 0)),
            (for_cluster(ETH_IP6, &ip6(CLIENT6, VIP6, UDP, &query)), (2, 0)),
            (for_cluster(ETH_IP, &tcp4(CLIENT4, (6000, 80), SYN, &[])), (2, 1)),
            (for_cluster(ETH_IP6, &tcp6(CLIENT6, (6000, 443), SYN, &[])), (2, 2)),
        ] {
            assert!(!wire.passes_in(&frame), "{frame:02x?}");
            // What was sent on waits at the far end before this.
            wire.send_and_wait(Way::Out, &ethernet(BROADCAST, SENTINEL_MAC, ETH_TEST, &[0; 46]));
            assert_eq!((counted("dns"), counted("web")), expected, "{frame:02x?}");
        }
    });
}
