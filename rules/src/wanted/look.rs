//! The looks at what comes in: from a frame to its slice, and by the map of slices to what becomes of it.

use super::{
    FIRST_ICMPV6_INFORMATIONAL, ICMP_ERRORS, IPPROTO_ICMPV6, ND_SOLICIT, PACKET_HOST, Plan, Service,
    TARGETS6, VIPS4, VIPS4_RAW, VIPS6, drop, goto,
    ports::{QUOTED_PORT4, QUOTED_PORT6, QuotedPort},
    rule,
};
use crate::model::*;

/// Before other programs' chains: what is dropped here costs nothing there.
const INGRESS_PRIORITY: i32 = -500;

/// The first byte of an IPv4 header without options: version 4, 5 words.
pub(super) const IP4_FIRST: RawField = RawField { base: Base::Network, offset: 0, len: 1 };
pub(super) const IP4_PLAIN: u8 = 0x45;
/// The fields that the first look needs, as raw bytes: their names would make nft look at the frame's
/// protocol before, which costs more than the first byte of the header.
const IP4_PROTOCOL: RawField = RawField { base: Base::Network, offset: 9, len: 1 };
pub(super) const IP4_SADDR: RawField = RawField { base: Base::Network, offset: 12, len: 4 };
pub(super) const IP4_DADDR: RawField = RawField { base: Base::Network, offset: 16, len: 4 };

/// The target address in a neighbour solicitation or advertisement: 40 bytes of IPv6 header, 8 of ICMPv6
/// (RFC 4861, 4.3). Counted from the network header, because newer nft rewrites the same bytes counted from
/// the transport header into a typed field that it then refuses to look up in a set of raw bytes.
pub(super) const ND_TARGET: RawField = RawField { base: Base::Network, offset: 48, len: 16 };

/// Destination of the packet that an ICMP error quotes: 8 bytes of ICMP, then 16 into the quoted IPv4
/// header. The options of the quoted header come later and do not move it (RFC 792).
pub(super) const QUOTED_DADDR: RawField = RawField { base: Base::Transport, offset: 24, len: 4 };
/// The same for ICMPv6: 8 bytes, then 24 into the quoted header (RFC 4443, RFC 8200).
pub(super) const QUOTED_DADDR6: RawField = RawField { base: Base::Transport, offset: 32, len: 16 };

const IPPROTO_ICMP: u8 = 1;

impl Plan<'_> {
    pub(super) fn ingress(&self) -> Chain {
        let mut rules = Vec::new();
        if !self.vips4.is_empty() {
            rules.extend(self.by_port4());
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
            rules.extend(self.by_port6());
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
            hook: Some(Hook {
                place: Place::Ingress(self.wanted.device.clone()),
                priority: INGRESS_PRIORITY,
            }),
            comment: "every frame in: drop what is another host's".into(),
            why: "Every frame that the service device receives, before routing and conntrack.".into(),
            rules,
        }
    }

    pub(super) fn vip4(&self) -> Chain {
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
            rules: self.second_look(error, QUOTED_PORT4, QUOTED_DADDR, Field::IpSaddr),
        }
    }

    pub(super) fn vip6(&self) -> Chain {
        let error = vec![
            Statement::Compare(Expr::Field(Field::Icmpv6Type), Op::Lt, FIRST_ICMPV6_INFORMATIONAL),
            Statement::Compare(Expr::Ip6Fragment, Op::Eq, Value::Missing),
        ];
        Chain {
            name: "vip6".into(),
            hook: None,
            comment: "second look at packets for a shared IPv6 address".into(),
            why: "For a shared IPv6 address: ICMPv6, solicitations among it.".into(),
            rules: self.second_look(error, QUOTED_PORT6, QUOTED_DADDR6, Field::Ip6Saddr),
        }
    }

    /// The rules of `vip4` and `vip6`. A quotation that is too short to be read does not match, and so falls
    /// through to the rule that judges by source.
    fn second_look(
        &self,
        error: Vec<Statement>,
        quoted_port: QuotedPort,
        quoted: RawField,
        saddr: Field,
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        rules.extend(self.by_quoted_port(&error, quoted_port));
        rules.push(rule(
            "An error comes from any router: the client is the destination of the packet it quotes.",
            "the destination of the quoted packet says whose",
            error.into_iter().chain([self.judge(Hashed::Raw(quoted))]).collect(),
        ));
        if saddr == Field::IpSaddr {
            rules.extend(self.by_port_with_options());
        }
        rules.extend([
            rule(
                "All else by its source: echo requests, fragments, errors without a readable quotation.",
                "the source says whose",
                vec![self.judge(Hashed::Field(saddr))],
            ),
            unlisted(),
        ]);
        rules
    }

    pub(super) fn asked4(&self) -> Chain {
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

    /// From the client's address to the verdict on its slice, of the service that takes the rest.
    fn judge(&self, of: Hashed) -> Statement {
        self.judge_for(&self.rest, of)
    }

    /// The same for any service.
    pub(super) fn judge_for(&self, service: &Service, of: Hashed) -> Statement {
        Statement::Vmap(self.slice_of(of), service.slices_map())
    }
}

/// What stands behind each last look.
pub(super) fn unlisted() -> Rule {
    rule(
        "A slice that the map does not have: better silent than two owners.",
        "guard: slice is not in the map",
        vec![Statement::Counter, drop()],
    )
}
