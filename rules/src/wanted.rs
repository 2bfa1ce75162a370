//! From what a host wants to the rules that say so.
//!
//! This is the one place that knows why each rule exists. It is a pure function: the same [`Wanted`] gives
//! the same [`Ruleset`], and nothing is read from the machine. docs/ruleset.md explains the result.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::model::*;

/// Name of the project's table; every object that onemac makes in nftables is inside a table of this name.
pub const TABLE: &str = "onemac";
/// Map from every slice to what becomes of its packets.
pub const SLICES: &str = "slices";
/// Set with the device while the lease runs.
pub const LEASE: &str = "lease";
/// Chain that accepts while the lease runs.
pub const LEASED: &str = "leased";

const VIPS4: &str = "vips4";
const VIPS4_RAW: &str = "vips4_raw";
const VIPS6: &str = "vips6";
const TARGETS6: &str = "targets6";
const ICMP_ERRORS: &str = "icmp_errors";
const ND_ANNOUNCING: &str = "nd_announcing";

/// Before other programs' chains on the way in: what is dropped here costs nothing there. After them on the
/// way out: nothing that they do goes unmasked.
const INGRESS_PRIORITY: i32 = -500;
const EGRESS_PRIORITY: i32 = 500;

/// The first byte of an IPv4 header without options: version 4, 5 words.
const IP4_FIRST: RawField = RawField { base: Base::Network, offset: 0, len: 1 };
const IP4_PLAIN: u8 = 0x45;
/// The fields that the first look needs, as raw bytes: their names would make nft look at the frame's
/// protocol before, which costs more than the first byte of the header.
const IP4_PROTOCOL: RawField = RawField { base: Base::Network, offset: 9, len: 1 };
const IP4_SADDR: RawField = RawField { base: Base::Network, offset: 12, len: 4 };
const IP4_DADDR: RawField = RawField { base: Base::Network, offset: 16, len: 4 };

/// The target address in a neighbour solicitation or advertisement: 40 bytes of IPv6 header, 8 of ICMPv6
/// (RFC 4861, 4.3). Counted from the network header, because newer nft rewrites the same bytes counted from
/// the transport header into a typed field that it then refuses to look up in a set of raw bytes.
const ND_TARGET: RawField = RawField { base: Base::Network, offset: 48, len: 16 };
/// The link-layer address in the first option after it (RFC 4861, 4.6.1): 2 bytes of type and length.
const ND_LINK_ADDRESS: RawField = RawField { base: Base::Network, offset: 66, len: 6 };
/// Destination of the packet that an ICMP error quotes: 8 bytes of ICMP, then 16 into the quoted IPv4
/// header. The options of the quoted header come later and do not move it (RFC 792).
const QUOTED_DADDR: RawField = RawField { base: Base::Transport, offset: 24, len: 4 };
/// The same for ICMPv6: 8 bytes, then 24 into the quoted header (RFC 4443, RFC 8200).
const QUOTED_DADDR6: RawField = RawField { base: Base::Transport, offset: 32, len: 16 };

const IPPROTO_ICMP: u8 = 1;
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
    /// The shared address.
    pub cluster_mac: MacAddr,
    /// The shared IP addresses. Order and repetition do not matter.
    pub vips: Vec<IpAddr>,
    /// How many slices the client hash space has.
    pub slices: u32,
    /// Seed of the hash.
    pub seed: u32,
    /// The slices of which this kernel accepts packets.
    pub owned: BTreeSet<u32>,
    /// For how long it does; `None` accepts nothing.
    pub lease: Option<Lease>,
}

/// Permission to accept, for a limited time. Both limits hold: the first to come ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Counted by the kernel from the commit, whole milliseconds.
    pub timeout: Duration,
    /// The same end by the wall clock, nanoseconds since 1970: a renewal that was decided in time and
    /// committed late must not count from the commit.
    pub deadline_unix_ns: u64,
}

/// The rules for what is wanted.
pub fn ruleset(wanted: &Wanted) -> Ruleset {
    let plan = Plan::new(wanted);
    Ruleset {
        tables: vec![Table {
            family: Family::Netdev,
            name: TABLE.into(),
            comment:
                "onemac: one MAC address, one IP address, many hosts. Made by the agent; see docs/ruleset.md"
                    .into(),
            sets: plan.sets(),
            chains: plan.chains(),
        }],
    }
}

/// The element of the lease set, and the rules of the chain that looks at it, for one lease.
pub(crate) fn leased(device: &str, lease: Option<Lease>) -> (Vec<Element>, Vec<Rule>) {
    let element = lease.map(|l| Element {
        key: Key::Device(device.into()),
        // No time at all would mean for ever to the kernel.
        timeout: Some(Duration::from_millis((l.timeout.as_millis() as u64).max(1))),
        verdict: None,
    });
    let deadline = lease.map_or(0, |l| l.deadline_unix_ns);
    let rules = vec![
        rule(
            "Accept under the lease, and by the wall clock too: a renewal may be committed later than decided.",
            "ours, and the lease runs",
            vec![
                Statement::In(Expr::InputDevice, LEASE.into()),
                Statement::Compare(Expr::Time, Op::Lt, Value::UnixNs(deadline)),
                Statement::Verdict(Verdict::Accept),
            ],
        ),
        rule(
            "An agent that is dead, hung or stopped renews nothing: its kernel falls silent by itself.",
            "no lease: silent",
            vec![drop()],
        ),
    ];
    (element.into_iter().collect(), rules)
}

/// The element of the map of slices for one slice.
pub(crate) fn slice(number: u32, owned: bool) -> Element {
    let verdict = if owned { Verdict::Goto(LEASED.into()) } else { Verdict::Drop };
    Element { key: Key::Slice(number), timeout: None, verdict: Some(verdict) }
}

/// [`Wanted`] with the addresses sorted out.
struct Plan<'a> {
    wanted: &'a Wanted,
    vips4: BTreeSet<Ipv4Addr>,
    vips6: BTreeSet<Ipv6Addr>,
}

impl<'a> Plan<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let mut plan = Self { wanted, vips4: BTreeSet::new(), vips6: BTreeSet::new() };
        for vip in &wanted.vips {
            match vip {
                IpAddr::V4(v4) => plan.vips4.insert(*v4),
                IpAddr::V6(v6) => plan.vips6.insert(*v6),
            };
        }
        plan
    }

    fn sets(&self) -> Vec<Set> {
        let mut sets = Vec::new();
        if !self.vips4.is_empty() {
            let vips = self.vips4.iter().map(|a| Key::Ipv4(*a)).collect();
            sets.push(fixed(
                VIPS4,
                KeyType::Ipv4,
                vips,
                "shared IPv4 addresses",
                "The shared IPv4 addresses.",
            ));
            let raw = self.vips4.iter().map(|a| Key::Raw(a.octets().to_vec())).collect();
            let why = "The same as raw bytes, for the first look.";
            sets.push(fixed(VIPS4_RAW, KeyType::Raw(IP4_DADDR), raw, "vips4 as raw bytes", why));
            let errors = vec![
                Key::Named(3, "destination-unreachable"),
                Key::Named(11, "time-exceeded"),
                Key::Named(12, "parameter-problem"),
            ];
            let why = "ICMP messages that quote the packet they are about.";
            sets.push(fixed(ICMP_ERRORS, KeyType::IcmpType, errors, "these quote a packet", why));
        }
        if !self.vips6.is_empty() {
            let vips = self.vips6.iter().map(|a| Key::Ipv6(*a)).collect();
            sets.push(fixed(
                VIPS6,
                KeyType::Ipv6,
                vips,
                "shared IPv6 addresses",
                "The shared IPv6 addresses.",
            ));
            let targets = self.vips6.iter().map(|a| Key::Raw(a.octets().to_vec())).collect();
            let why = "The same as raw bytes: nft 1.0.6 has no name for the target of a solicitation.";
            sets.push(fixed(TARGETS6, KeyType::Raw(ND_TARGET), targets, "vips6 as raw bytes", why));
            let announcing =
                vec![Key::Named(135, "nd-neighbor-solicit"), Key::Named(136, "nd-neighbor-advert")];
            let why = "Neighbour discovery messages that tell others a link-layer address.";
            sets.push(fixed(
                ND_ANNOUNCING,
                KeyType::Icmpv6Type,
                announcing,
                "these announce a MAC address",
                why,
            ));
        }
        let owned = &self.wanted.owned;
        sets.push(Set {
            name: SLICES.into(),
            key: KeyType::Slice { of: self.wanted.slices },
            size: Some(self.wanted.slices),
            timeout: false,
            verdicts: true,
            comment: "slices of the client space: goto leased is ours, drop is another host's".into(),
            why: "What becomes of each slice's packets. Complete: what is not in it is dropped, and counted."
                .into(),
            elements: (0..self.wanted.slices).map(|n| slice(n, owned.contains(&n))).collect(),
        });
        sets.push(Set {
            name: LEASE.into(),
            key: KeyType::Device,
            // No size: elements that have expired count until the kernel sweeps them out.
            size: None,
            timeout: true,
            verdicts: false,
            comment: "empty: this host answers nobody; the agent renews it".into(),
            why: "The device, for as long as the agent goes on renewing it.".into(),
            elements: leased(&self.wanted.device, self.wanted.lease).0,
        });
        sets
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
        chains.push(Chain {
            name: LEASED.into(),
            hook: None,
            comment: "for this host's clients: accept while the lease runs".into(),
            why: "What belongs to this host, if it may still act. Only accepted packets pay for this.".into(),
            rules: leased(&self.wanted.device, self.wanted.lease).1,
        });
        chains.push(self.egress());
        chains
    }

    fn ingress(&self) -> Chain {
        let mut rules = Vec::new();
        if !self.vips4.is_empty() {
            rules.push(rule(
                "The first look, and for most packets the last: IPv4 without options (0x45), for a shared \
                 address (daddr), not ICMP (protocol), by its client (saddr).",
                "ip daddr @vips4, no options, not icmp: ip saddr says whose",
                vec![
                    Statement::Compare(Expr::Raw(IP4_FIRST), Op::Eq, Value::Raw(vec![IP4_PLAIN])),
                    Statement::In(Expr::Raw(IP4_DADDR), VIPS4_RAW.into()),
                    Statement::Compare(Expr::Raw(IP4_PROTOCOL), Op::Ne, Value::Raw(vec![IPPROTO_ICMP])),
                    self.judge(Hashed::Raw(IP4_SADDR)),
                ],
            ));
            rules.push(rule(
                "What is left for a shared address needs a second look: ICMP, and packets with options.",
                "",
                vec![Statement::In(Expr::Field(Field::IpDaddr), VIPS4.into()), goto("vip4")],
            ));
        }
        if !self.vips6.is_empty() {
            rules.push(rule(
                "The first look for IPv6. l4proto looks behind extension headers.",
                "ip6 saddr says whose",
                vec![
                    Statement::In(Expr::Field(Field::Ip6Daddr), VIPS6.into()),
                    Statement::Compare(Expr::L4Proto, Op::Ne, IPPROTO_ICMPV6),
                    self.judge(Hashed::Field(Field::Ip6Saddr)),
                ],
            ));
            rules.push(rule(
                "What is left for a shared address needs a second look: ICMPv6.",
                "",
                vec![Statement::In(Expr::Field(Field::Ip6Daddr), VIPS6.into()), goto("vip6")],
            ));
        }
        if !self.vips4.is_empty() {
            rules.push(rule(
                "Who has the shared address? Broadcast or sent to the shared MAC, one host answers.",
                "",
                vec![Statement::In(Expr::Field(Field::ArpDaddrIp), VIPS4.into()), goto("asked4")],
            ));
        }
        if !self.vips6.is_empty() {
            rules.push(rule(
                "The same for IPv6: solicitations that go to the multicast group of a shared address.",
                "",
                vec![
                    Statement::Compare(Expr::Field(Field::Icmpv6Type), Op::Eq, ND_SOLICIT),
                    Statement::In(Expr::Raw(ND_TARGET), TARGETS6.into()),
                    goto("vip6"),
                ],
            ));
        }
        rules.push(rule(
            "Nothing else may come in by the shared MAC: hosts that forward would forward it once each.",
            "not for a shared address",
            vec![
                // Cheaper than the MAC, and true for all that is sent to this host's own.
                Statement::Compare(Expr::PacketType, Op::Ne, PACKET_HOST),
                Statement::Compare(
                    Expr::Field(Field::EtherDaddr),
                    Op::Eq,
                    Value::Mac(self.wanted.cluster_mac),
                ),
                Statement::Counter,
                drop(),
            ],
        ));
        Chain {
            name: "ingress".into(),
            hook: Some(self.hook(Direction::Ingress, INGRESS_PRIORITY)),
            comment: "every frame in: drop what is another host's".into(),
            why: "Every frame that the service device receives, before routing and conntrack.".into(),
            rules,
        }
    }

    fn vip4(&self) -> Chain {
        let error = vec![
            Statement::In(Expr::Field(Field::IcmpType), ICMP_ERRORS.into()),
            // The kernel reads these bytes of every fragment, also where they are something else.
            Statement::Compare(Expr::Ip4Fragment, Op::Eq, Value::Zero),
        ];
        Chain {
            name: "vip4".into(),
            hook: None,
            comment: "second look at packets for a shared IPv4 address".into(),
            why: "For a shared IPv4 address, and not plain enough for the first look.".into(),
            rules: self.second_look(error, QUOTED_DADDR, Field::IpSaddr),
        }
    }

    fn vip6(&self) -> Chain {
        let error = vec![
            Statement::Compare(Expr::Field(Field::Icmpv6Type), Op::Lt, FIRST_ICMPV6_INFORMATIONAL),
            Statement::Compare(Expr::Ip6Fragment, Op::Eq, Value::Missing),
        ];
        Chain {
            name: "vip6".into(),
            hook: None,
            comment: "second look at packets for a shared IPv6 address".into(),
            why: "For a shared IPv6 address: ICMPv6, solicitations among it.".into(),
            rules: self.second_look(error, QUOTED_DADDR6, Field::Ip6Saddr),
        }
    }

    /// The rules of `vip4` and `vip6`. A quotation that is too short to be read does not match, and so falls
    /// through to the rule that judges by source.
    fn second_look(&self, error: Vec<Statement>, quoted: RawField, saddr: Field) -> Vec<Rule> {
        vec![
            rule(
                "An error comes from any router: the client is the destination of the packet it quotes.",
                "the destination of the quoted packet says whose",
                error.into_iter().chain([self.judge(Hashed::Raw(quoted))]).collect(),
            ),
            rule(
                "All else by its source: echo requests, fragments, errors without a readable quotation.",
                "the source says whose",
                vec![self.judge(Hashed::Field(saddr))],
            ),
            unlisted(),
        ]
    }

    fn asked4(&self) -> Chain {
        Chain {
            name: "asked4".into(),
            hook: None,
            comment: "ARP about a shared address: one host answers".into(),
            why: "ARP about a shared address. The owner of the asker's slice answers, under its lease."
                .into(),
            rules: vec![
                rule(
                    "By the asker's address.",
                    "the asker says whose",
                    vec![self.judge(Hashed::Field(Field::ArpSaddrIp))],
                ),
                unlisted(),
            ],
        }
    }

    fn egress(&self) -> Chain {
        let cluster_mac = Value::Mac(self.wanted.cluster_mac);
        let mut rules = Vec::new();
        if !self.vips4.is_empty() {
            rules.push(rule(
                "Guard: a shared address is never announced with this host's own MAC.",
                "guard: wrong MAC announced",
                vec![
                    Statement::In(Expr::Field(Field::ArpSaddrIp), VIPS4.into()),
                    Statement::Compare(Expr::Field(Field::ArpSaddrEther), Op::Ne, cluster_mac.clone()),
                    Statement::Counter,
                    drop(),
                ],
            ));
        }
        if !self.vips6.is_empty() {
            rules.push(rule(
                "The same guard for neighbour discovery: the link-layer address in its first option.",
                "guard: wrong MAC announced",
                vec![
                    Statement::In(Expr::Field(Field::Icmpv6Type), ND_ANNOUNCING.into()),
                    Statement::In(Expr::Field(Field::Ip6Saddr), VIPS6.into()),
                    Statement::Compare(
                        Expr::Raw(ND_LINK_ADDRESS),
                        Op::Ne,
                        Value::Raw(self.wanted.cluster_mac.0.to_vec()),
                    ),
                    Statement::Counter,
                    drop(),
                ],
            ));
        }
        rules.push(rule(
            "The mask: no frame leaves with the shared MAC as its source, or the switch learns where it is.",
            "mask the shared MAC",
            vec![
                Statement::Compare(Expr::Field(Field::EtherSaddr), Op::Eq, cluster_mac),
                Statement::SetMac(Field::EtherSaddr, self.wanted.device_mac),
            ],
        ));
        Chain {
            name: "egress".into(),
            hook: Some(self.hook(Direction::Egress, EGRESS_PRIORITY)),
            comment: "every frame out: the switch must not learn the shared MAC".into(),
            why: "Every frame that the service device sends, after everything else.".into(),
            rules,
        }
    }

    fn hook(&self, direction: Direction, priority: i32) -> Hook {
        Hook { direction, device: self.wanted.device.clone(), priority }
    }

    /// From the client's address to the verdict on its slice.
    fn judge(&self, of: Hashed) -> Statement {
        let hash = Expr::Jhash { of, modulus: self.wanted.slices, seed: self.wanted.seed };
        Statement::Vmap(hash, SLICES.into())
    }
}

/// What stands behind each last look.
fn unlisted() -> Rule {
    rule(
        "A slice that the map does not have: better silent than two owners.",
        "guard: slice is not in the map",
        vec![Statement::Counter, drop()],
    )
}

fn fixed(name: &str, key: KeyType, keys: Vec<Key>, comment: &str, why: &str) -> Set {
    Set {
        name: name.into(),
        key,
        size: Some(room_for(keys.len())),
        timeout: false,
        verdicts: false,
        comment: comment.into(),
        why: why.into(),
        elements: keys.into_iter().map(|key| Element { key, timeout: None, verdict: None }).collect(),
    }
}

/// Room to spare: the kernel makes its buckets by the declared size, and fuller ones mean longer look-ups.
fn room_for(elements: usize) -> u32 {
    (2 * elements).next_power_of_two().max(64) as u32
}

fn rule(why: &str, comment: &str, statements: Vec<Statement>) -> Rule {
    let comment = (!comment.is_empty()).then(|| comment.to_owned());
    Rule { why: why.into(), comment, statements }
}

fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            device: "eth0".into(),
            device_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            cluster_mac: MacAddr([2, 0xbf, 192, 0, 2, 53]),
            vips: vec!["192.0.2.53".parse().unwrap()],
            slices: 16,
            seed: 7,
            owned: [1, 2].into(),
            lease: None,
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
    fn a_lease_of_no_time_is_not_one_for_ever() {
        for timeout in [Duration::ZERO, Duration::from_micros(999)] {
            let (elements, _) = leased("eth0", Some(Lease { timeout, deadline_unix_ns: 0 }));
            assert_eq!(elements[0].timeout, Some(Duration::from_millis(1)));
        }
    }

    #[test]
    fn without_a_lease_both_limits_are_over() {
        let (elements, rules) = leased("eth0", None);
        assert_eq!(elements, []);
        assert_eq!(rules[0].statements[1], Statement::Compare(Expr::Time, Op::Lt, Value::UnixNs(0)));
    }

    #[test]
    fn comments_fit_into_what_nft_keeps() {
        let vips = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let rules = ruleset(&Wanted { vips, ..wanted() });
        let table = &rules.tables[0];
        let comments = std::iter::once(&table.comment)
            .chain(table.sets.iter().map(|s| &s.comment))
            .chain(table.chains.iter().map(|c| &c.comment))
            .chain(table.chains.iter().flat_map(|c| &c.rules).filter_map(|r| r.comment.as_ref()));
        for comment in comments {
            assert!(comment.len() < 128 && !comment.contains('"'), "{comment}");
        }
    }

    #[test]
    fn every_set_and_chain_that_is_named_exists() {
        for vips in ["192.0.2.1", "2001:db8::1", "192.0.2.1 2001:db8::1"] {
            let vips = vips.split(' ').map(|a| a.parse().unwrap()).collect();
            let rules = ruleset(&Wanted { vips, ..wanted() });
            let table = &rules.tables[0];
            for statement in table.chains.iter().flat_map(|c| &c.rules).flat_map(|r| &r.statements) {
                match statement {
                    Statement::In(_, set) | Statement::Vmap(_, set) => {
                        assert!(table.set(set).is_some(), "no set {set}");
                    }
                    Statement::Verdict(Verdict::Goto(chain)) => {
                        assert!(table.chain(chain).is_some(), "no chain {chain}");
                    }
                    _ => {}
                }
            }
        }
    }
}
