//! Connections that live on other hosts, as far as this one has been told: what an heir must not reset.
//!
//! Who tells is not for here. Nothing but the chain `heir` looks at these sets.

use std::net::IpAddr;

use super::{Plan, Wanted};
use crate::model::*;

/// How many connections of other hosts a host can know, of IPv4 clients and as many of IPv6 clients. The kernel
/// refuses more, and with them the whole transaction.
pub const ELSEWHERE_MAX: usize = 65_536;

pub(crate) const ELSEWHERE4: &str = "elsewhere4";
pub(crate) const ELSEWHERE6: &str = "elsewhere6";

/// The set of one IP version.
struct Version {
    set: &'static str,
    key: KeyType,
    is: fn(&IpAddr) -> bool,
    why: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        set: ELSEWHERE4,
        key: KeyType::Ipv4Port,
        is: IpAddr::is_ipv4,
        why: "IPv4 clients, and their TCP ports, whose connections are known to live on another host.",
    },
    Version {
        set: ELSEWHERE6,
        key: KeyType::Ipv6Port,
        is: IpAddr::is_ipv6,
        why: "The same of IPv6 clients.",
    },
];

/// The versions of which connections are followed.
fn followed(wanted: &Wanted) -> impl Iterator<Item = &'static Version> {
    let tracked = wanted.services.iter().any(|service| service.tracked);
    VERSIONS.iter().filter(move |version| tracked && wanted.vips.iter().any(version.is))
}

impl Version {
    /// Those of this version as elements.
    fn elements<'a>(&self, clients: impl Iterator<Item = &'a (IpAddr, u16)>) -> Vec<Element> {
        let key = |&(address, port)| match address {
            IpAddr::V4(v4) => Key::Ipv4Port(v4, port),
            IpAddr::V6(v6) => Key::Ipv6Port(v6, port),
        };
        clients
            .filter(|(address, _)| (self.is)(address))
            .map(|client| Element { key: key(client), timeout: None, data: None })
            .collect()
    }
}

impl Plan<'_> {
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = Set> {
        followed(self.wanted).map(|version| Set {
            name: version.set.into(),
            key: version.key,
            size: Some(ELSEWHERE_MAX as u32),
            timeout: Timeout::Never,
            data: None,
            filled: Filled::ByCommits,
            comment: "clients whose connections live on another host".into(),
            why: version.why.into(),
            elements: version.elements(self.wanted.elsewhere.iter()),
        })
    }
}

/// What has to be taken out of and put into one of the sets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ElsewhereChange {
    pub set: &'static str,
    pub key: KeyType,
    pub out: Vec<Element>,
    pub into: Vec<Element>,
}

impl ElsewhereChange {
    /// From one state to another, without the sets that stay as they are.
    pub(crate) fn between(from: &Wanted, to: &Wanted) -> Vec<Self> {
        let change = |version: &Version| Self {
            set: version.set,
            key: version.key,
            out: version.elements(from.elsewhere.difference(&to.elsewhere)),
            into: version.elements(to.elsewhere.difference(&from.elsewhere)),
        };
        followed(to).map(change).filter(|change| !change.out.is_empty() || !change.into.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use nftnl::nftnl_sys as sys;

    use super::super::{Lease, MacAddr, Service, ruleset};
    use super::*;
    use crate::{bytecode::Attribute, netlink::raw_key};

    fn wanted(vips: &[&str], tracked: bool, elsewhere: &[(&str, u16)]) -> Wanted {
        Wanted {
            device: "eth0".into(),
            device_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            shared: "onemac0".into(),
            second_mask: false,
            cluster_mac: MacAddr([2, 0xbf, 192, 0, 2, 53]),
            vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
            slices: 16,
            seed: 7,
            services: vec![Service::everything("default", tracked)],
            inside: Default::default(),
            gossip: None,
            elsewhere: elsewhere.iter().map(|(client, port)| (client.parse().unwrap(), *port)).collect(),
            lease: None::<Lease>,
            longest_lease: std::time::Duration::from_millis(800),
            token: Default::default(),
        }
    }

    const VIPS: [&str; 2] = ["192.0.2.53", "2001:db8::53"];

    fn shown(elements: &[Element]) -> Vec<String> {
        elements.iter().map(Element::to_nft).collect()
    }

    #[test]
    fn clients_are_listed_by_ip_version_of_the_shared_addresses() {
        let clients = [("198.51.100.7", 4000), ("2001:db8:1::7", 4000)];
        let listed = |vips: &[&str], tracked| {
            let rules = ruleset(&wanted(vips, tracked, &clients));
            let sets = rules.tables[0].sets.iter().filter(|set| set.name.starts_with("elsewhere"));
            sets.flat_map(|set| shown(&set.elements)).collect::<Vec<_>>()
        };
        assert_eq!(listed(&VIPS, true), ["198.51.100.7 . 4000", "2001:db8:1::7 . 4000"]);
        assert_eq!(listed(&VIPS[..1], true), ["198.51.100.7 . 4000"]);
        assert_eq!(listed(&VIPS[1..], true), ["2001:db8:1::7 . 4000"]);
        assert_eq!(listed(&VIPS, false), [""; 0]);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let from = wanted(&VIPS, true, &[("198.51.100.7", 1), ("198.51.100.7", 2), ("2001:db8:1::7", 1)]);
        let to = wanted(&VIPS, true, &[("198.51.100.7", 2), ("198.51.100.8", 1), ("2001:db8:1::7", 1)]);
        let changes = ElsewhereChange::between(&from, &to);
        let [change] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(change.set, "elsewhere4");
        assert_eq!(shown(&change.out), ["198.51.100.7 . 1"]);
        assert_eq!(shown(&change.into), ["198.51.100.8 . 1"]);
        assert_eq!(ElsewhereChange::between(&to, &to), []);
    }

    /// As nft does it: the port in the register behind the address, and the key filled up to whole registers.
    #[test]
    fn client_and_port_are_looked_up_side_by_side() {
        let rules = ruleset(&wanted(&VIPS, true, &[("198.51.100.7", 4000), ("2001:db8:1::7", 4000)]));
        let table = &rules.tables[0];
        let chain = table.chain("heir").unwrap();
        let texts = ["ip saddr . tcp sport @elsewhere4", "ip6 saddr . tcp sport @elsewhere6"];
        // Address from, its length and register; then the port's register: NFT_REG32_01, NFT_REG_2.
        let loads = [[(12, 4, 1), (0, 2, 9)], [(8, 16, 1), (0, 2, 2)]];
        for (rule, (text, loads)) in chain.rules.iter().zip(texts.iter().zip(loads)) {
            let start = "tcp flags != syn / fin,syn,rst,ack";
            let end = "goto shared comment \"not opening, lives elsewhere\"";
            assert_eq!(rule.to_nft(), format!("{start} {text} {end}"));
            let code = rule.bytecode(Family::Netdev);
            let found: Vec<_> = code
                .iter()
                .filter(|code| code.name == c"payload")
                .map(|code| {
                    let number = |wanted| match code.attributes.iter().find(|(number, _)| *number == wanted) {
                        Some((_, Attribute::U32(value))) => *value,
                        other => panic!("{other:?}"),
                    };
                    let [offset, len] = [sys::NFTNL_EXPR_PAYLOAD_OFFSET, sys::NFTNL_EXPR_PAYLOAD_LEN];
                    (number(offset), number(len), number(sys::NFTNL_EXPR_PAYLOAD_DREG))
                })
                .collect();
            // The flags come first.
            assert_eq!(found[1..], loads, "{text}");
        }
        let key = |name: &str| {
            let set = table.set(name).unwrap();
            raw_key(&set.elements[0].key, set.key)
        };
        assert_eq!(key("elsewhere4"), [198, 51, 100, 7, 0x0f, 0xa0, 0, 0]);
        assert_eq!(key("elsewhere6")[14..], [0, 7, 0x0f, 0xa0, 0, 0]);
        assert_eq!(key("elsewhere6").len(), 20);
    }
}
