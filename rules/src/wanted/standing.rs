//! The chains to which the map of slices leads: what becomes of a packet in each standing of its slice.

use super::{
    CAME_EARLY, CAME_FLOODED, CAME_RELAYED, DELIVERED, ELSEWHERE4, ELSEWHERE6, FENCE,
    FIRST_ICMPV6_INFORMATIONAL, HEIR, ICMP_ERRORS, INCOMING, LEASED, MOVING, ND_SOLICIT, PACKET_HOST, Plan,
    SHARED, Service, TAKING, accept, chain, drop, goto, jump, rule, tracking::MARK,
};
use crate::model::*;

/// Chain for what another host has relayed.
const RELAYED: &str = "relayed";
/// Chain that makes a fingerprint of a packet, in its mark.
const FINGERPRINT: &str = "fingerprint";

const ARP: Value = Value::Named2(0x0806, "arp");
pub(super) const IP: Value = Value::Named2(0x0800, "ip");
pub(super) const IP6: Value = Value::Named2(0x86dd, "ip6");
const TCP: Value = Value::Named(6, "tcp");

/// How many bytes behind the IP header a fingerprint is made of: the largest of these numbers that the packet has.
/// 8 are a UDP header. One more each from there to 14, so that the smallest datagrams differ by all they carry: not
/// only headers count, because where checksums are left to a network card (between virtual machines, say), or are
/// not made at all, they say nothing. A load has a fixed length, and what stands behind a packet in its frame is not
/// the same in both copies: hence by the length that the IP header tells, not by what can be read.
const FINGERPRINTS: [u16; 9] = [0, 8, 9, 10, 11, 12, 13, 14, 24];
impl Plan<'_> {
    /// All of them.
    pub(super) fn standings(&self) -> Vec<Chain> {
        let mut chains = vec![
            chain(
                LEASED,
                "own: accept while the lease runs",
                "What belongs to this host, if it may still act. Only accepted packets pay for this.",
                self.under_lease(Verdict::Goto(DELIVERED.into())),
            ),
            chain(
                FENCE,
                "the lease, for all others",
                "The lease, for all standings but own.",
                self.under_lease(Verdict::Return),
            ),
            self.delivered(),
        ];
        if self.tracked {
            chains.extend([self.shared(), self.heir(), self.moving()]);
        }
        chains.extend([self.taking(), self.incoming(), self.relayed(), self.fingerprint()]);
        chains.extend(self.all().map(|service| self.relaying(service)));
        chains
    }

    /// Delivery is by the service device: firewalls, reverse-path checks and sockets that name it are right about
    /// where a packet came in, and where its answer leaves. The shared device holds the addresses, and answers
    /// the questions for them with the shared MAC.
    fn delivered(&self) -> Chain {
        let as_own = |protocol| {
            rule(
                "Delivered as if it had been sent to this host alone: it comes in by the service device.",
                "as if sent to this host",
                vec![
                    Statement::Compare(Expr::Protocol, Op::Eq, protocol),
                    Statement::SetMac(Field::EtherDaddr, self.wanted.device_mac),
                    Statement::SetSentToHost,
                    accept(),
                ],
            )
        };
        let mut rules = Vec::new();
        if !self.vips4.is_empty() {
            rules.push(as_own(IP));
        }
        if !self.vips6.is_empty() {
            rules.push(rule(
                "Questions for the address go to the shared device, which has it.",
                "",
                vec![Statement::Compare(Expr::Field(Field::Icmpv6Type), Op::Eq, ND_SOLICIT), accept()],
            ));
            rules.push(as_own(IP6));
        }
        rules.push(rule("ARP, for the shared device too.", "", vec![accept()]));
        chain(DELIVERED, "accepted: in by the service device", "What has been accepted.", rules)
    }

    fn shared(&self) -> Chain {
        chain(
            SHARED,
            "shared: as own, but other hosts' connections are left in peace",
            "Slices that have come from another host, on which connections of theirs may live.",
            vec![
                rule("Under the lease.", "", vec![jump(FENCE)]),
                rule(
                    "Known connections only, says conntrack in table inet onemac: a reset would kill one that \
                     lives elsewhere.",
                    "not opening: must be known here",
                    vec![Statement::NoTcpOpening, Statement::SetMark(MARK), goto(DELIVERED)],
                ),
                rule("Everything else is ours.", "", vec![goto(DELIVERED)]),
            ],
        )
    }

    /// Later fragments are judged by bytes that are no ports and flags; with or without the mark they share the fate
    /// of the first, whose mark is that of the whole.
    fn heir(&self) -> Chain {
        let lives_elsewhere = |client, set: &str| {
            rule(
                "Connections that are known to live on another host.",
                "not opening, lives elsewhere",
                vec![
                    Statement::NoTcpOpening,
                    Statement::In(Expr::FieldPair(client, Field::TcpSport), set.into()),
                    goto(SHARED),
                ],
            )
        };
        let mut rules = Vec::new();
        if !self.vips4.is_empty() {
            rules.push(lives_elsewhere(Field::IpSaddr, ELSEWHERE4));
        }
        if !self.vips6.is_empty() {
            rules.push(lives_elsewhere(Field::Ip6Saddr, ELSEWHERE6));
        }
        rules.push(rule(
            "Everything else is ours: the dead host's clients are to hear of it.",
            "",
            vec![goto(LEASED)],
        ));
        chain(
            HEIR,
            "heir: as own, but what is known to live elsewhere is left in peace",
            "Slices whose owner has died, while another host still has connections of theirs.",
            rules,
        )
    }

    fn moving(&self) -> Chain {
        let mut rules = vec![
            rule("Under the lease.", "", vec![jump(FENCE)]),
            rule(
                "If conntrack knows the connection. Who opens one, even a half-open one again, is the new owner's.",
                "must be known here",
                vec![Statement::NoTcpOpening, Statement::SetMark(MARK), goto(DELIVERED)],
            ),
        ];
        if !self.vips4.is_empty() {
            rules.push(later_fragments(
                "Later fragments have no ports and flags: they share the fate of the first.",
                goto(DELIVERED),
            ));
        }
        for error in self.icmp_errors() {
            rules.push(rule(
                "Errors about such a connection.",
                "must be about a known one",
                vec![error, Statement::SetMark(MARK), goto(DELIVERED)],
            ));
        }
        rules.push(rule("All else is the new owner's.", "", vec![drop()]));
        chain(
            MOVING,
            "moving: the connections that live here stay",
            "Slices that have gone to another host, while connections of theirs live here.",
            rules,
        )
    }

    fn taking(&self) -> Chain {
        let mut rules = self.questions();
        if self.tracked {
            rules.push(rule(
                "Never relayed, so never twice.",
                "",
                vec![Statement::NoTcpOpening, goto(SHARED)],
            ));
        }
        rules.extend([
            rule("What may come twice.", "", vec![jump(FINGERPRINT)]),
            rule(
                "Sent to this host's own MAC address.",
                "",
                vec![Statement::Compare(Expr::PacketType, Op::Eq, PACKET_HOST), goto(RELAYED)],
            ),
            rule(
                "The relayed copy was here first.",
                "a second copy",
                vec![Statement::In(Expr::Mark, CAME_RELAYED.into()), Statement::Counter, drop()],
            ),
            remember(Statement::Update(CAME_FLOODED.into(), Expr::Mark)),
            rule("Accept.", "", vec![Statement::SetMark(0), goto(LEASED)]),
        ]);
        chain(
            TAKING,
            "taking: as shared; of what comes by itself and relayed, one copy",
            "Slices that are just coming from another host, which still relays what it gets.",
            rules,
        )
    }

    fn incoming(&self) -> Chain {
        let mut rules = Vec::new();
        let mut otherwise = drop();
        if self.tracked {
            rules.push(rule(
                "Never relayed; connections from here are taken.",
                "",
                vec![
                    Statement::Compare(Expr::PacketType, Op::Ne, PACKET_HOST),
                    Statement::NoTcpOpening,
                    goto(MOVING),
                ],
            ));
            otherwise = goto(MOVING);
        }
        rules.extend([
            rule("What comes twice.", "", vec![jump(FINGERPRINT)]),
            rule(
                "Sent to this host's own MAC address.",
                "",
                vec![Statement::Compare(Expr::PacketType, Op::Eq, PACKET_HOST), goto(RELAYED)],
            ),
            remember(Statement::Update(CAME_EARLY.into(), Expr::Mark)),
            rule(
                "The former owner has it too and decides.",
                "not relayed",
                vec![Statement::SetMark(0), otherwise],
            ),
        ]);
        chain(
            INCOMING,
            "incoming: what another host relays",
            "Slices that are about to come: new flows as the former owner relays them.",
            rules,
        )
    }

    fn relayed(&self) -> Chain {
        chain(
            RELAYED,
            "relayed by another host, with a fingerprint in the mark",
            "What another host has relayed, with its fingerprint as mark.",
            vec![
                rule(
                    "It was here before by itself.",
                    "a second copy",
                    vec![Statement::In(Expr::Mark, CAME_FLOODED.into()), Statement::Counter, drop()],
                ),
                rule(
                    "It came by itself before, too early to be taken: no other copy comes.",
                    "",
                    vec![Statement::In(Expr::Mark, CAME_EARLY.into()), Statement::SetMark(0)],
                ),
                remember(Statement::Add(CAME_RELAYED.into(), Expr::Mark)),
                rule(
                    "From here on it is a packet like any other.",
                    "",
                    vec![Statement::SetMark(0), goto(LEASED)],
                ),
            ],
        )
    }

    fn fingerprint(&self) -> Chain {
        let mut rules = Vec::new();
        // From the packet's number on.
        let bytes4 = |of| Hashed::Raw(RawField { base: Base::Network, offset: 4, len: 16 + u32::from(of) });
        // There is not room for both addresses; where nothing else is left, the length and the protocol.
        let bytes6 = |of| {
            let (offset, len) = if of == 0 { (4, 4) } else { (40, u32::from(of)) };
            Hashed::Both(Field::Ip6Saddr, RawField { base: Base::Network, offset, len })
        };
        if !self.vips4.is_empty() {
            rules.extend(self.fingerprints(IP, (Field::IpLength, 20), bytes4));
        }
        if !self.vips6.is_empty() {
            rules.extend(self.fingerprints(IP6, (Field::Ip6Length, 0), bytes6));
        }
        rules.push(rule("None: the packet is shorter than it says.", "", vec![Statement::SetMark(0)]));
        chain(
            FINGERPRINT,
            "marks a packet with a hash of its first bytes",
            "A hash of what is the same in both copies of a packet, in the packet's mark.",
            rules,
        )
    }

    /// Those of one IP version, which has the length of a packet in this field, so many bytes of header counted.
    fn fingerprints(
        &self,
        protocol: Value,
        (length, header): (Field, u16),
        bytes: impl Fn(u16) -> Hashed,
    ) -> impl Iterator<Item = Rule> {
        let longer = FINGERPRINTS.into_iter().skip(1);
        let shorter = longer
            .map(move |next| Statement::Compare(Expr::Field(length), Op::Lt, Value::Number2(header + next)));
        let which = shorter.chain([Statement::Compare(Expr::Protocol, Op::Eq, protocol)]);
        FINGERPRINTS.into_iter().zip(which).map(move |(of, which)| {
            let digest = Expr::Jhash { of: bytes(of), modulus: u32::MAX, seed: self.wanted.seed };
            rule(
                "Both copies are equal from the IP header to the end of the packet.",
                "",
                vec![which, Statement::SetMarkFrom(digest), Statement::Verdict(Verdict::Return)],
            )
        })
    }

    fn relaying(&self, service: &Service) -> Chain {
        let mut rules = self.questions();
        let stay = if service.tracked { MOVING } else { LEASED };
        if service.tracked {
            rules.push(rule(
                "Connections that live here stay.",
                "",
                vec![Statement::NoTcpOpening, goto(MOVING)],
            ));
            if !self.vips4.is_empty() {
                rules.push(later_fragments(
                    "Later fragments go with the first, which is never an opening one.",
                    goto(MOVING),
                ));
            }
        }
        for error in self.icmp_errors() {
            rules.push(rule("Errors about what was sent from here.", "", vec![error, goto(stay)]));
        }
        rules.extend([
            rule(
                "What was relayed once is not relayed again, or it might go round and round.",
                "guard: relayed twice",
                vec![Statement::Compare(Expr::PacketType, Op::Eq, PACKET_HOST), Statement::Counter, drop()],
            ),
            rule("Under the lease.", "", vec![jump(FENCE)]),
        ]);
        let mut send = |protocol: Value, client: Field| {
            rules.push(rule(
                "To the new owner's own MAC address, in this host's own name.",
                "the new owner decides",
                vec![
                    Statement::Compare(Expr::Protocol, Op::Eq, protocol),
                    Statement::SetMacFrom(
                        Field::EtherDaddr,
                        self.slice_of(Hashed::Field(client)),
                        service.relays_map(),
                    ),
                    Statement::SetMac(Field::EtherSaddr, self.wanted.device_mac),
                    Statement::ForwardBack,
                ],
            ));
        };
        if !self.vips4.is_empty() {
            send(IP, Field::IpSaddr);
        }
        if !self.vips6.is_empty() {
            send(IP6, Field::Ip6Saddr);
        }
        rules.push(rule(
            "A slice that is relayed to nobody.",
            "guard: no new owner",
            vec![Statement::Counter, drop()],
        ));
        chain(
            &service.relaying_chain(),
            "relaying: what may be new is sent on to the new owner",
            "Slices that are just going to another host. Everything that may be new is for it to decide.",
            rules,
        )
    }

    /// Who has the shared address? The former owner goes on to answer until the new one does: nobody minds
    /// two equal answers.
    fn questions(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.vips4.is_empty() {
            rules.push(rule(
                "Questions for the address are answered.",
                "",
                vec![Statement::Compare(Expr::Protocol, Op::Eq, ARP), goto(LEASED)],
            ));
        }
        if !self.vips6.is_empty() {
            rules.push(rule(
                "Questions for the address are answered.",
                "",
                vec![Statement::Compare(Expr::Field(Field::Icmpv6Type), Op::Eq, ND_SOLICIT), goto(LEASED)],
            ));
        }
        rules
    }

    /// Errors about packets that were sent from here, by family.
    fn icmp_errors(&self) -> Vec<Statement> {
        let mut errors = Vec::new();
        if !self.vips4.is_empty() {
            errors.push(Statement::In(Expr::Field(Field::IcmpType), ICMP_ERRORS.into()));
        }
        if !self.vips6.is_empty() {
            let kind = Expr::Field(Field::Icmpv6Type);
            errors.push(Statement::Compare(kind, Op::Lt, FIRST_ICMPV6_INFORMATIONAL));
        }
        errors
    }
}

/// Keeps a fingerprint, if there is one and room for it.
fn remember(how: Statement) -> Rule {
    rule(
        "Another copy may come. If the set is full, it is taken for another packet.",
        "",
        vec![Statement::Compare(Expr::Mark, Op::Ne, Value::Number(0)), how],
    )
}

/// What becomes of the fragments of an IPv4 segment after the first.
fn later_fragments(why: &str, verdict: Statement) -> Rule {
    let later = Statement::Compare(Expr::Ip4FragmentOffset, Op::Ne, Value::Zero);
    rule(why, "", vec![Statement::Compare(Expr::L4Proto, Op::Eq, TCP), later, verdict])
}
