//! From what a host wants to the rules that say so.
//!
//! This is the one place that knows why each rule exists. It is a pure function: the same [`Wanted`] gives
//! the same [`Ruleset`], and nothing is read from the machine. docs/ruleset.md explains the result.

mod arrival;
mod egress;
mod elsewhere;
pub(crate) mod lease;
mod look;
mod ports;
mod service;
mod sets;
mod standing;
mod tracking;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

pub use self::arrival::INSIDE_MAX;
pub use self::elsewhere::ELSEWHERE_MAX;
pub(crate) use self::elsewhere::{ELSEWHERE4, ELSEWHERE6, ElsewhereChange};
pub use self::lease::{Lease, Token};
pub(crate) use self::service::{Change, service_of};
pub use self::service::{Service, Standing};
pub use self::sets::RELAYED_FOR;
use crate::model::*;

/// Name of the project's tables; every object that onemac makes in nftables is inside a table of this name.
pub const TABLE: &str = "onemac";
/// Set of the times at which packets are accepted.
pub const LEASE: &str = "lease";
/// Chain that accepts while the lease runs.
pub const LEASED: &str = "leased";
/// Chain that every frame passes on its way out.
pub(crate) const EGRESS: &str = "egress";

/// Chain that goes on while the lease runs, and else drops.
const FENCE: &str = "fence";
/// Chain that hands over to the host what was accepted.
const DELIVERED: &str = "delivered";
/// Chains for slices in the other standings.
const SHARED: &str = "shared";
const HEIR: &str = "heir";
const TAKING: &str = "taking";
const MOVING: &str = "moving";
const RELAYING: &str = "relaying";
const INCOMING: &str = "incoming";

const VIPS4: &str = "vips4";
const VIPS4_RAW: &str = "vips4_raw";
const VIPS6: &str = "vips6";
const TARGETS6: &str = "targets6";
const ICMP_ERRORS: &str = "icmp_errors";
const ND_ANNOUNCING: &str = "nd_announcing";
const SERVICES: &str = "services";
const QUOTED4: &str = "quoted4";
const QUOTED6: &str = "quoted6";
const CAME_EARLY: &str = "came_early";
const CAME_FLOODED: &str = "came_flooded";
const CAME_RELAYED: &str = "came_relayed";

/// linux/if_packet.h: sent to the device's own MAC.
const PACKET_HOST: Value = Value::Named(0, "host");
const IPPROTO_ICMPV6: Value = Value::Named(58, "ipv6-icmp");
const ND_SOLICIT: Value = Value::Named(135, "nd-neighbor-solicit");
/// ICMPv6 types below 128 are errors, the others are not (RFC 4443, 2.1); 128 is the echo request.
const FIRST_ICMPV6_INFORMATIONAL: Value = Value::Named(128, "echo-request");

/// What a host wants its kernel to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The service device, on which the frames for the shared addresses arrive.
    pub device: String,
    /// That device's own address: the source that frames are given on the way out.
    pub device_mac: MacAddr,
    /// The device that holds the shared addresses.
    pub shared: String,
    /// Whether that device is masked itself too. For this it must be there, as the service device must.
    pub second_mask: bool,
    /// The shared address.
    pub cluster_mac: MacAddr,
    /// The shared IP addresses. Order and repetition do not matter.
    pub vips: Vec<IpAddr>,
    /// How many slices the client hash space has.
    pub slices: u32,
    /// Seed of the hash.
    pub seed: u32,
    /// What becomes of the packets, service by service.
    pub services: Vec<Service>,
    /// Clients by address and TCP port whose connections live on other hosts: what [`Standing::Heir`] leaves in
    /// peace. At most [`ELSEWHERE_MAX`] of each IP version: the kernel would refuse more, and with them the whole
    /// transaction. Those of an IP version without a shared address, and all where no service is tracked, are
    /// left out.
    pub elsewhere: BTreeSet<(IpAddr, u16)>,
    /// Devices, by index, behind which there is nobody but what reaches this host alone, such as its containers: they
    /// may use the shared addresses without being asked for their slice.
    pub inside: BTreeSet<u32>,
    /// This host's address and port for gossip, which conntrack is not to see.
    pub gossip: Option<SocketAddr>,
    /// For how long anything is accepted or relayed; `None` is not at all.
    pub lease: Option<Lease>,
    /// The longest lease that is ever given: for so long the kernel keeps what renews it, and the time of a lease is
    /// cut up into sixteenths of this or somewhat less.
    pub longest_lease: Duration,
    /// What makes a frame that this host sends a renewal of its lease. Nobody else may know it.
    pub token: Token,
}

/// The rules for what is wanted.
pub fn ruleset(wanted: &Wanted) -> Ruleset {
    let plan = Plan::new(wanted);
    let mut tables = vec![Table {
        family: Family::Netdev,
        name: TABLE.into(),
        comment:
            "onemac: one MAC address, one IP address, many hosts. Made by the agent; see docs/ruleset.md"
                .into(),
        sets: plan.sets(),
        chains: plan.chains(),
    }];
    tables.push(plan.arrival());
    tables.extend(plan.questions_elsewhere());
    Ruleset { tables }
}

/// [`Wanted`] with the addresses sorted out.
struct Plan<'a> {
    wanted: &'a Wanted,
    vips4: BTreeSet<Ipv4Addr>,
    vips6: BTreeSet<Ipv6Addr>,
    /// Whether connections of any service are followed.
    tracked: bool,
    /// The service that takes what no other does.
    rest: Service,
}

impl<'a> Plan<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let tracked = wanted.services.iter().any(|s| s.tracked);
        let rest = wanted.services.iter().find(|s| s.ports.is_none());
        // Without one, what no other takes is foreign.
        let rest = rest.cloned().unwrap_or_else(|| Service::everything("default", false));
        let mut plan = Self { wanted, vips4: BTreeSet::new(), vips6: BTreeSet::new(), tracked, rest };
        for vip in &wanted.vips {
            match vip {
                IpAddr::V4(v4) => plan.vips4.insert(*v4),
                IpAddr::V6(v6) => plan.vips6.insert(*v6),
            };
        }
        plan
    }

    fn chains(&self) -> Vec<Chain> {
        let mut chains = vec![self.ingress()];
        if !self.vips4.is_empty() {
            chains.push(self.vip4());
            chains.push(self.asked4());
        }
        if !self.vips6.is_empty() {
            chains.push(self.vip6());
        }
        chains.extend(self.services());
        chains.extend(self.standings());
        chains.push(self.egress());
        chains.extend(self.mask());
        chains
    }

    /// All services, the one that takes the rest among them.
    fn all(&self) -> impl Iterator<Item = &Service> {
        self.by_port().chain([&self.rest])
    }

    /// The services that take certain ports.
    fn by_port(&self) -> impl Iterator<Item = &Service> {
        self.wanted.services.iter().filter(|service| service.ports.is_some())
    }

    /// From the client's address to its slice.
    fn slice_of(&self, client: Hashed) -> Expr {
        Expr::Jhash { of: client, modulus: self.wanted.slices, seed: self.wanted.seed }
    }
}

fn chain(name: &str, comment: &str, why: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), hook: None, comment: comment.into(), why: why.into(), rules }
}

fn hooked(name: &str, hook: Hook, comment: &str, why: &str, rules: Vec<Rule>) -> Chain {
    Chain { hook: Some(hook), ..chain(name, comment, why, rules) }
}

fn rule(why: &str, comment: &str, statements: Vec<Statement>) -> Rule {
    let comment = (!comment.is_empty()).then(|| comment.to_owned());
    Rule { why: why.into(), comment, statements }
}

fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.into()))
}

fn jump(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            device: "eth0".into(),
            device_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            shared: "onemac0".into(),
            second_mask: false,
            cluster_mac: MacAddr([2, 0xbf, 192, 0, 2, 53]),
            vips: vec!["192.0.2.53".parse().unwrap()],
            slices: 16,
            seed: 7,
            services: vec![Service::everything("default", true).owning([1, 2])],
            elsewhere: BTreeSet::new(),
            inside: BTreeSet::new(),
            gossip: None,
            lease: None,
            longest_lease: Duration::from_millis(800),
            token: Token::default(),
        }
    }

    #[test]
    fn order_and_repetition_of_vips_do_not_matter() {
        let vips = |text: &str| text.split(' ').map(|a| a.parse().unwrap()).collect();
        let one = Wanted { vips: vips("192.0.2.2 2001:db8::1 192.0.2.1"), ..wanted() };
        let other = Wanted { vips: vips("192.0.2.1 192.0.2.2 192.0.2.1 2001:db8::1"), ..wanted() };
        assert_eq!(ruleset(&one), ruleset(&other));
    }

    #[test]
    fn comments_fit_into_what_nft_keeps() {
        let vips = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let rules = ruleset(&Wanted { vips, ..wanted() });
        for table in &rules.tables {
            let comments = std::iter::once(&table.comment)
                .chain(table.sets.iter().map(|s| &s.comment))
                .chain(table.chains.iter().map(|c| &c.comment))
                .chain(table.chains.iter().flat_map(|c| &c.rules).filter_map(|r| r.comment.as_ref()));
            for comment in comments {
                assert!(comment.len() < 128 && !comment.contains('"'), "{comment}");
            }
        }
    }

    #[test]
    fn every_set_and_chain_that_is_named_exists() {
        for vips in ["192.0.2.1", "2001:db8::1", "192.0.2.1 2001:db8::1"] {
            for tracked in [true, false] {
                let vips = vips.split(' ').map(|a| a.parse().unwrap()).collect();
                let services = vec![Service::everything("default", tracked)];
                let rules = ruleset(&Wanted { vips, services, ..wanted() });
                rules.tables.iter().for_each(names_exist);
            }
        }
    }

    fn names_exist(table: &Table) {
        let verdicts = table.sets.iter().flat_map(|s| &s.elements).filter_map(|e| match &e.data {
            Some(Data::Verdict(verdict)) => Some(Statement::Verdict(verdict.clone())),
            _ => None,
        });
        let rules = table.chains.iter().flat_map(|c| &c.rules).flat_map(|r| r.statements.clone());
        for statement in verdicts.chain(rules) {
            match &statement {
                Statement::In(_, set)
                | Statement::Vmap(_, set)
                | Statement::Add(set, _)
                | Statement::Update(set, _)
                | Statement::SetMacFrom(_, _, set) => {
                    assert!(table.set(set).is_some(), "no set {set}");
                }
                Statement::Verdict(verdict) => {
                    let there = verdict.chain().is_none_or(|chain| table.chain(chain).is_some());
                    assert!(there, "no chain for {verdict:?}");
                }
                _ => {}
            }
        }
    }

    /// Conntrack is loaded by the first rule that asks for it.
    #[test]
    fn without_connections_to_follow_nothing_asks_conntrack() {
        let services = vec![Service::everything("default", false)];
        let rules = ruleset(&Wanted { services, ..wanted() });
        let families: Vec<Family> = rules.tables.iter().map(|t| t.family).collect();
        assert_eq!(families, [Family::Netdev, Family::Inet, Family::Arp]);
        let chains = rules.tables.iter().flat_map(|t| &t.chains);
        let statements: Vec<&Statement> = chains.flat_map(|c| &c.rules).flat_map(|r| &r.statements).collect();
        let asks = |s: &&Statement| {
            matches!(s, Statement::Known | Statement::Assured | Statement::NoTrack | Statement::NoTcpOpening)
        };
        assert!(!statements.iter().any(asks), "{statements:#?}");
    }
}
