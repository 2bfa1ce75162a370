//! Several services: by protocol and port to a service, and from there to the service's own slices.
//!
//! With one service there is nothing of this. With several the look for a port stands before the first look
//! of the one that takes the rest.

use super::{
    Plan, QUOTED4, QUOTED6, SERVICES, Service, VIPS4_RAW, VIPS6, chain,
    look::{IP4_DADDR, IP4_FIRST, IP4_PLAIN, QUOTED_DADDR, QUOTED_DADDR6, unlisted},
    rule,
    sets::room_for,
    standing::{IP, IP6},
};
use crate::model::*;

/// More fragments, or an offset. Fragments have no ports, or not all of them: they go by the rest.
const IP4_FRAGMENT: Expr = Expr::Bits(RawField { base: Base::Network, offset: 6, len: 2 }, 0x3fff);
const IP6_FRAGMENT: Value = Value::Named(44, "ipv6-frag");

/// Where a packet that an ICMP error quotes has its protocol and the port it was sent from: 8 bytes of ICMP,
/// then a header without options.
#[derive(Clone, Copy)]
pub(super) struct QuotedPort {
    map: &'static str,
    protocol: RawField,
    port: RawField,
    /// A version 4 header may be longer, and the packet a later fragment.
    is_ip4: bool,
}

pub(super) const QUOTED_PORT4: QuotedPort = QuotedPort {
    map: QUOTED4,
    protocol: RawField { base: Base::Transport, offset: 17, len: 1 },
    port: RawField { base: Base::Transport, offset: 28, len: 2 },
    is_ip4: true,
};

pub(super) const QUOTED_PORT6: QuotedPort = QuotedPort {
    map: QUOTED6,
    protocol: RawField { base: Base::Transport, offset: 14, len: 1 },
    port: RawField { base: Base::Transport, offset: 48, len: 2 },
    is_ip4: false,
};

const QUOTED_FIRST: RawField = RawField { base: Base::Transport, offset: 8, len: 1 };
const QUOTED_OFFSET: Expr = Expr::Bits(RawField { base: Base::Transport, offset: 14, len: 2 }, 0x1fff);

impl Plan<'_> {
    /// The look before the first look.
    pub(super) fn by_port4(&self) -> Option<Rule> {
        self.by_port().next()?;
        Some(rule(
            "By port: IPv4 without options (0x45), for a shared address (daddr), no fragment.",
            "ip daddr @vips4, no options, no fragment: the port says which service",
            vec![
                Statement::Compare(Expr::Raw(IP4_FIRST), Op::Eq, Value::Raw(vec![IP4_PLAIN])),
                Statement::In(Expr::Raw(IP4_DADDR), VIPS4_RAW.into()),
                Statement::Compare(IP4_FRAGMENT, Op::Eq, Value::Zero),
                Statement::Vmap(Expr::ProtocolPort, SERVICES.into()),
            ],
        ))
    }

    pub(super) fn by_port6(&self) -> Option<Rule> {
        self.by_port().next()?;
        Some(rule(
            "By port, for IPv6.",
            "the port says which service",
            vec![
                Statement::In(Expr::Field(Field::Ip6Daddr), VIPS6.into()),
                Statement::Compare(Expr::Field(Field::Ip6NextHeader), Op::Ne, IP6_FRAGMENT),
                Statement::Vmap(Expr::ProtocolPort, SERVICES.into()),
            ],
        ))
    }

    /// For what the first look left because of its options.
    pub(super) fn by_port_with_options(&self) -> Option<Rule> {
        self.by_port().next()?;
        Some(rule(
            "By port, with options.",
            "the port says which service",
            vec![
                Statement::Compare(Expr::Ip4Fragment, Op::Eq, Value::Zero),
                Statement::Vmap(Expr::ProtocolPort, SERVICES.into()),
            ],
        ))
    }

    /// For errors; `error` says what one is.
    pub(super) fn by_quoted_port(&self, error: &[Statement], quoted: QuotedPort) -> Option<Rule> {
        self.by_port().next()?;
        let mut statements = error.to_vec();
        if quoted.is_ip4 {
            statements.extend([
                Statement::Compare(Expr::Raw(QUOTED_FIRST), Op::Eq, Value::Raw(vec![IP4_PLAIN])),
                Statement::Compare(QUOTED_OFFSET, Op::Eq, Value::Zero),
            ]);
        }
        statements.push(Statement::Vmap(Expr::RawPair(quoted.protocol, quoted.port), quoted.map.into()));
        Some(rule(
            "An error about what a service has sent: the quoted packet came from its port.",
            "the quoted port says which service",
            statements,
        ))
    }

    /// The maps from ports to the services' chains.
    pub(super) fn port_maps(&self) -> Vec<Set> {
        if self.by_port().next().is_none() {
            return Vec::new();
        }
        let mut ports: Vec<(Protocol, u16, &Service)> = Vec::new();
        for service in self.by_port() {
            for (protocol, port) in service.ports.iter().flatten() {
                if !ports.iter().any(|(other, number, _)| (other, number) == (protocol, port)) {
                    ports.push((*protocol, *port, service));
                }
            }
        }
        let map = |name: &str,
                   key,
                   comment: &str,
                   why: &str,
                   element: &dyn Fn(Protocol, u16, &Service) -> (Key, String)| Set {
            name: name.into(),
            key,
            size: Some(room_for(ports.len())),
            timeout: Timeout::Never,
            data: Some(DataType::Verdict),
            filled: Filled::ByCommits,
            comment: comment.into(),
            why: why.into(),
            elements: ports
                .iter()
                .map(|(protocol, port, service)| {
                    let (key, chain) = element(*protocol, *port, service);
                    Element { key, timeout: None, data: Some(Data::Verdict(Verdict::Goto(chain))) }
                })
                .collect(),
        };
        let mut maps = vec![map(
            SERVICES,
            KeyType::ProtocolPort,
            "ports of services; what is not here goes by the map slices of the rest",
            "Which service a port belongs to.",
            &|protocol, port, service| (Key::ProtocolPort(protocol, port), service.chain()),
        )];
        for (quoted, there) in
            [(QUOTED_PORT4, !self.vips4.is_empty()), (QUOTED_PORT6, !self.vips6.is_empty())]
        {
            if there {
                maps.push(map(
                    quoted.map,
                    KeyType::RawPair(quoted.protocol, quoted.port),
                    "the same for quoted packets, as raw bytes",
                    "The same for packets that ICMP errors quote: protocol and source port as raw bytes.",
                    &|protocol, port, service| {
                        let key = Key::RawPair(vec![protocol.number()], port.to_be_bytes().to_vec());
                        (key, service.errors_chain())
                    },
                ));
            }
        }
        maps
    }

    /// The chains to which these maps lead.
    pub(super) fn services(&self) -> Vec<Chain> {
        let looks = |service: &Service, of4: Hashed, of6: Hashed, comment: &str| {
            let mut rules = Vec::new();
            for (there, protocol, of) in
                [(!self.vips4.is_empty(), IP, of4), (!self.vips6.is_empty(), IP6, of6)]
            {
                if there {
                    let is_this = Statement::Compare(Expr::Protocol, Op::Eq, protocol);
                    rules.push(rule(
                        "By the client's address.",
                        comment,
                        vec![is_this, self.judge_for(service, of)],
                    ));
                }
            }
            rules.push(unlisted());
            rules
        };
        let chains = |service: &Service| {
            let (by_saddr, by_quoted) = (
                looks(
                    service,
                    Hashed::Field(Field::IpSaddr),
                    Hashed::Field(Field::Ip6Saddr),
                    "the source says whose",
                ),
                looks(
                    service,
                    Hashed::Raw(QUOTED_DADDR),
                    Hashed::Raw(QUOTED_DADDR6),
                    "the destination of the quoted packet says whose",
                ),
            );
            [
                chain(
                    &service.chain(),
                    "slices of a service",
                    "What comes by a port of this service.",
                    by_saddr,
                ),
                chain(
                    &service.errors_chain(),
                    "slices of a service, of errors",
                    "Errors about what was sent from a port of this service.",
                    by_quoted,
                ),
            ]
        };
        self.by_port().flat_map(chains).collect()
    }
}
