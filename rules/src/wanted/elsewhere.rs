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
            dynamic: false,
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
