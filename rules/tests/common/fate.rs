//! A host with all slices in one standing, and what becomes there of every kind of packet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use onemac_rules::{Standing, Wanted, netlink::Netfilter, ruleset};

use super::{frame::*, wire::*, *};

pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
/// Somewhere on the client's way.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// Ports of the connection that conntrack knows, and of one that it does not.
pub const LIVING: (u16, u16) = (4000, 80);
pub const STRANGE: (u16, u16) = (4001, 80);
/// Of one that neither conntrack nor the list of those that live elsewhere has; the others are on the list.
pub const ORPHANED: (u16, u16) = (4002, 80);

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has passed conntrack and has no mark.
    In,
    /// It was sent to the peer.
    Relayed,
    Dropped,
}

pub use Fate::{Dropped, In, Relayed};

/// A host with all slices in one standing, and a wire to it.
pub struct Host {
    wire: Wire,
    pub netfilter: Netfilter,
    pub wanted: Wanted,
    /// Whether the last packet came in by another device than the service device.
    pub astray: bool,
}

impl Host {
    pub fn new(standing: Standing, tracked: bool) -> Self {
        let wanted = Wanted {
            services: vec![all(standing, tracked)],
            elsewhere: listed(),
            ..wanted(&["192.0.2.53", "2001:db8::53"])
        };
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
                 ether saddr {probe} iifname != {DEVICE} counter comment \"astray\"\n}}\n}}\n\
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
    pub fn fate(&mut self, frame: &[u8]) -> Fate {
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
    pub fn taken(&mut self, frames: &[&[u8]]) -> u64 {
        let before = counters()["in"];
        let (last, first) = frames.split_last().unwrap();
        first.iter().for_each(|frame| self.wire.send("far", frame));
        self.wire.send_and_wait(Way::In, last);
        counters()["in"] - before
    }

    /// Whether a frame, whatever it is, gets past the rules on the device.
    pub fn passes(&mut self, frame: &[u8]) -> Fate {
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
pub fn flooded(kind: u16, packet: &[u8]) -> Vec<u8> {
    for_cluster(kind, packet)
}

pub fn direct(kind: u16, packet: &[u8]) -> Vec<u8> {
    ethernet(DEVICE_MAC.0, PROBE_MAC, kind, packet)
}

/// Forgets the connections and the packets that there were.
pub fn forget() {
    run("conntrack", &["-F"]);
    for set in ["came_early", "came_flooded", "came_relayed"] {
        run("nft", &["flush", "set", "netdev", "onemac", set]);
    }
}

/// Makes conntrack know the living connections.
pub fn let_live() {
    for (client, vip) in [(CLIENT4.to_string(), "192.0.2.53"), (CLIENT6.to_string(), "2001:db8::53")] {
        let ends = format!("-s {client} -d {vip} --sport {} --dport {}", LIVING.0, LIVING.1);
        let state = "-I -p tcp --state ESTABLISHED --timeout 600 -u SEEN_REPLY,ASSURED";
        run("conntrack", &format!("{state} {ends}").split(' ').collect::<Vec<_>>());
    }
}

/// The clients of the living connections and of the strange ones.
fn listed() -> BTreeSet<(IpAddr, u16)> {
    let clients = [IpAddr::from(CLIENT4), CLIENT6.into()];
    clients.iter().flat_map(|client| [(*client, LIVING.0), (*client, STRANGE.0)]).collect()
}

/// What is not on the list of those that live elsewhere, though something about it is.
pub fn unlisted() -> Vec<(&'static str, u16, Vec<u8>)> {
    let (other4, other6) = (Ipv4Addr::new(198, 51, 100, 8), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 8));
    let datagram = udp(STRANGE.0, STRANGE.1, &[ACK; 20]);
    vec![
        ("orphaned", ETH_IP, tcp4(CLIENT4, ORPHANED, ACK, &[])),
        ("orphaned", ETH_IP6, tcp6(CLIENT6, ORPHANED, ACK, &[])),
        ("another's with such a port", ETH_IP, tcp4(other4, STRANGE, ACK, &[])),
        ("another's with such a port", ETH_IP6, tcp6(other6, STRANGE, ACK, &[])),
        ("datagram with such a port", ETH_IP, ip4(CLIENT4, VIP4, UDP, 0, &datagram)),
        ("datagram with such a port", ETH_IP6, ip6(CLIENT6, VIP6, UDP, &datagram)),
    ]
}

/// Every kind of packet by name, for both families.
pub fn packets() -> Vec<(&'static str, u16, Vec<u8>)> {
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
