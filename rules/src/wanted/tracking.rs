//! Only where TCP connections are followed: what conntrack knows, and what it need not.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{
    IPPROTO_ICMPV6, Plan, Service, VIPS4, VIPS6, accept, chain, drop, goto, hooked, rule, sets::fixed,
};
use crate::model::*;

/// The mark, between the device and conntrack, of packets that are wanted only if their connection is known
/// here. The letters "onem": a number that is unlikely to be anybody's. It is gone before any other
/// program's mangle chain (-150) could see it.
pub(super) const MARK: u32 = u32::from_be_bytes(*b"onem");

const KNOWN: &str = "known";
/// Ports of services that conntrack is not to see, where that is not told by the protocol alone.
const UNTRACKED: &str = "untracked";

/// This host's end of the gossip.
const GOSSIP: &str = "gossip";

/// linux/netfilter_ipv4.h: conntrack itself is at -200, and what it is not to see is told it before.
const BEHIND_CONNTRACK: i32 = -199;
pub(super) const RAW: i32 = -300;

const TCP: Value = Value::Named(6, "tcp");
const ICMP: Value = Value::Named(1, "icmp");

impl Plan<'_> {
    /// Ports of services whose packets are not tracked.
    pub(super) fn untracked_set(&self) -> Option<Set> {
        let ports = self.untracked_ports();
        let why = "Ports of services whose packets are not tracked.";
        (!ports.is_empty())
            .then(|| fixed(UNTRACKED, KeyType::ProtocolPort, ports, "ports that are not tracked", why))
    }

    /// Address and port of this host's gossip.
    pub(super) fn gossip_set(&self) -> Option<Set> {
        let (kind, key) = match self.wanted.gossip? {
            SocketAddr::V4(v4) => (KeyType::Ipv4Port, Key::Ipv4Port(*v4.ip(), v4.port())),
            SocketAddr::V6(v6) => (KeyType::Ipv6Port, Key::Ipv6Port(*v6.ip(), v6.port())),
        };
        let why = "This host's address and port for gossip.";
        Some(fixed(GOSSIP, kind, vec![key], "this host's gossip", why))
    }

    pub(super) fn tracking(&self) -> [Chain; 4] {
        [
            hooked(
                "connections",
                Hook { place: Place::Prerouting, priority: BEHIND_CONNTRACK },
                "what was marked on the way in must be known",
                "Just behind conntrack: it has said whether it knows the connection.",
                vec![rule(
                    "Marked by table netdev onemac, for slices on the move only.",
                    "from a slice on the move",
                    vec![Statement::Compare(Expr::Mark, Op::Eq, Value::Number(MARK)), goto(KNOWN)],
                )],
            ),
            chain(
                KNOWN,
                "only what belongs to a connection here",
                "Packets of slices on the move.",
                vec![
                    rule(
                        "Established, be it by this very packet, or an error about such a connection. One that \
                         is only half open here may be open elsewhere: a segment that does not fit would be \
                         answered with a reset. The mark has done its work.",
                        "lives here",
                        vec![Statement::Known, Statement::Assured, Statement::SetMark(0), accept()],
                    ),
                    rule(
                        "It may live on another host. What is dropped here leaves no entry in conntrack.",
                        "lives elsewhere, if anywhere",
                        vec![Statement::Counter, drop()],
                    ),
                ],
            ),
            hooked(
                "untracked_in",
                Hook { place: Place::Prerouting, priority: RAW },
                "what conntrack is not to see",
                "Before conntrack: UDP and the like have no connections, and need not pay for tracking.",
                self.untracked([Field::IpDaddr, Field::Ip6Daddr], Expr::ProtocolPort, Field::UdpDport),
            ),
            hooked(
                "untracked_out",
                Hook { place: Place::Output, priority: RAW },
                "what conntrack is not to see",
                "The answers.",
                self.untracked([Field::IpSaddr, Field::Ip6Saddr], Expr::ProtocolFromPort, Field::UdpSport),
            ),
        ]
    }

    /// Whether conntrack sees the datagrams of a service. Then it sees all but those of the others' ports: an answer
    /// that is still to be translated comes from any port.
    fn datagrams_tracked(&self) -> bool {
        self.all().any(|service| service.datagrams_tracked)
    }

    /// Ports that have to be named one by one.
    fn untracked_ports(&self) -> Vec<Key> {
        let named = |service: &Service, protocol| match protocol {
            Protocol::Tcp => !service.tracked,
            Protocol::Udp => self.datagrams_tracked() && !service.datagrams_tracked,
        };
        let of = |service: &'_ Service| {
            let ports = service.ports.iter().flatten().filter(|(protocol, _)| named(service, *protocol));
            ports.map(|(protocol, port)| Key::ProtocolPort(*protocol, *port)).collect::<Vec<_>>()
        };
        let ports: BTreeSet<Key> = self.by_port().flat_map(of).collect();
        ports.into_iter().collect()
    }

    /// ICMP is not left out: errors about a connection are found by it.
    fn untracked(&self, [address4, address6]: [Field; 2], port: Expr, gossip_port: Field) -> Vec<Rule> {
        let mut rules = Vec::new();
        let ports = !self.untracked_ports().is_empty();
        let mut untracked = |address, vips: &str, icmp| {
            let ours = Statement::In(Expr::Field(address), vips.into());
            if ports {
                rules.push(rule(
                    "A service that is not tracked.",
                    "",
                    vec![ours.clone(), Statement::In(port, UNTRACKED.into()), Statement::NoTrack],
                ));
            }
            if !self.datagrams_tracked() {
                rules.push(rule(
                    "Neither TCP nor ICMP.",
                    "",
                    vec![
                        ours,
                        Statement::Compare(Expr::L4Proto, Op::Ne, TCP),
                        Statement::Compare(Expr::L4Proto, Op::Ne, icmp),
                        Statement::NoTrack,
                    ],
                ));
            }
        };
        if !self.vips4.is_empty() {
            untracked(address4, VIPS4, ICMP);
        }
        if !self.vips6.is_empty() {
            untracked(address6, VIPS6, IPPROTO_ICMPV6);
        }
        if let Some(gossip) = self.wanted.gossip {
            let address = if gossip.is_ipv4() { address4 } else { address6 };
            rules.push(rule(
                "Gossip: a full table of conntrack is not to cut this host off from the others.",
                "gossip",
                vec![Statement::In(Expr::FieldPair(address, gossip_port), GOSSIP.into()), Statement::NoTrack],
            ));
        }
        rules
    }
}
