//! A ruleset as `nft -f` reads it and as people type it.
//!
//! The text is the whole transaction: it makes the tables anew in one go, as `netlink` does.

use std::fmt::Write;

use crate::model::*;

/// Width to which element lists are filled.
const COLUMNS: usize = 100;

impl Ruleset {
    /// The ruleset as text for `nft -f`: replaces an earlier one of the same tables, touches no other.
    pub fn to_nft(&self) -> String {
        let mut out = String::new();
        for table in &self.tables {
            let name = format!("{} {}", table.family.name(), table.name);
            out.push_str("# Whatever an earlier run left goes, in the transaction that brings the new.\n");
            line(&mut out, 0, &format!("table {name}"));
            line(&mut out, 0, &format!("delete table {name}\n"));
            line(&mut out, 0, &format!("table {name} {{"));
            line(&mut out, 1, &format!("comment \"{}\"", table.comment));
            for set in &table.sets {
                out.push('\n');
                set.write(&mut out);
            }
            for chain in &table.chains {
                out.push('\n');
                chain.write(&mut out);
            }
            out.push_str("}\n");
        }
        out
    }
}

impl Set {
    fn write(&self, out: &mut String) {
        line(out, 1, &format!("# {}", self.why));
        let kind = if self.data.is_some() { "map" } else { "set" };
        line(out, 1, &format!("{kind} {} {{", self.name));
        line(out, 2, &self.declaration());
        if let Some(size) = self.size {
            line(out, 2, &format!("size {size}"));
        }
        match (self.filled, self.timeout) {
            (Filled::ByCommits, Timeout::Never) => {}
            (_, Timeout::Never) => line(out, 2, "flags dynamic"),
            (Filled::ByCommits, _) => line(out, 2, "flags timeout"),
            (_, _) => line(out, 2, "flags dynamic,timeout"),
        }
        if let Timeout::All(after) = self.timeout {
            line(out, 2, &format!("timeout {}", duration(after.as_millis())));
        }
        line(out, 2, &format!("comment \"{}\"", self.comment));
        if !self.elements.is_empty() {
            out.push_str("\t\telements = { ");
            let mut width = 16;
            for (n, element) in self.elements.iter().enumerate() {
                let text = element.to_nft();
                if n > 0 && width + text.len() + 2 > COLUMNS {
                    out.push_str(",\n\t\t             ");
                    width = 29;
                } else if n > 0 {
                    out.push_str(", ");
                    width += 2;
                }
                width += text.len();
                out.push_str(&text);
            }
            out.push_str(" }\n");
        }
        line(out, 1, "}");
    }
}

impl Chain {
    fn write(&self, out: &mut String) {
        line(out, 1, &format!("# {}", self.why));
        line(out, 1, &format!("chain {} {{", self.name));
        line(out, 2, &format!("comment \"{}\"", self.comment));
        if let Some(hook) = &self.hook {
            line(out, 2, &hook.to_nft());
        }
        for rule in &self.rules {
            line(out, 2, &format!("# {}", rule.why));
            line(out, 2, &rule.to_nft());
        }
        line(out, 1, "}");
    }
}

impl Set {
    /// The line that says what its keys are, and what they lead to.
    pub fn declaration(&self) -> String {
        let key = self.key.to_nft();
        match self.data {
            None => key,
            Some(DataType::Verdict) => format!("{key} : verdict"),
            Some(DataType::Mac) => format!("{key} : ether daddr"),
        }
    }
}

impl Element {
    /// The element as nft shows it.
    pub fn to_nft(&self) -> String {
        let mut text = self.key.to_nft();
        if let Some(timeout) = self.timeout {
            text += &format!(" timeout {}", duration(timeout.as_millis()));
        }
        if let Some(data) = &self.data {
            text += &format!(" : {}", data.to_nft());
        }
        text
    }
}

impl Data {
    /// The data as nft shows them.
    pub fn to_nft(&self) -> String {
        match self {
            Self::Verdict(verdict) => verdict.to_nft(),
            Self::Mac(mac) => mac.to_string(),
        }
    }
}

impl KeyType {
    /// The set's type as nft declares it.
    pub fn to_nft(self) -> String {
        match self {
            Self::Ipv4 => "type ipv4_addr".into(),
            Self::Ipv6 => "type ipv6_addr".into(),
            Self::Time => "typeof meta time".into(),
            Self::Device => "type iface_index".into(),
            Self::Mark => "type mark".into(),
            Self::IcmpType => "type icmp_type".into(),
            Self::Icmpv6Type => "type icmpv6_type".into(),
            Self::Slice { of } => format!("typeof numgen inc mod {of}"),
            Self::Raw(field) => format!("typeof {}", field.to_nft()),
            Self::RawPair(a, b) => format!("typeof {} . {}", a.to_nft(), b.to_nft()),
            Self::ProtocolPort => "type inet_proto . inet_service".into(),
            Self::Ipv4Port => "type ipv4_addr . inet_service".into(),
            Self::Ipv6Port => "type ipv6_addr . inet_service".into(),
        }
    }
}

impl Hook {
    /// The line that makes a chain a base chain.
    pub fn to_nft(&self) -> String {
        let priority = match self.priority {
            0 => "filter".into(),
            other => other.to_string(),
        };
        format!("type filter hook {} priority {priority}; policy accept;", self.place.to_nft())
    }
}

impl Place {
    /// The hook's name in nft syntax, with its device.
    pub fn to_nft(&self) -> String {
        match self {
            Self::Ingress(device) => format!("ingress device \"{device}\""),
            Self::Egress(device) => format!("egress device \"{device}\""),
            Self::Prerouting => "prerouting".into(),
            Self::Output | Self::ArpOutput => "output".into(),
            Self::ArpInput => "input".into(),
        }
    }
}

impl Rule {
    /// The rule as people type it.
    pub fn to_nft(&self) -> String {
        let mut words: Vec<String> = self.statements.iter().map(Statement::to_nft).collect();
        if let Some(comment) = &self.comment {
            words.push(format!("comment \"{comment}\""));
        }
        words.join(" ")
    }
}

impl Statement {
    fn to_nft(&self) -> String {
        match self {
            Self::Compare(left, op, right) => {
                let op = match op {
                    // After `&` the sign must be there.
                    Op::Eq
                        if matches!(left, Expr::Ip4Fragment | Expr::Ip4FragmentOffset | Expr::Bits(..)) =>
                    {
                        "== "
                    }
                    Op::Eq => "",
                    Op::Ne => "!= ",
                    Op::Lt => "< ",
                };
                format!("{} {op}{}", left.to_nft(), right.to_nft())
            }
            Self::In(left, set) => format!("{} @{set}", left.to_nft()),
            Self::Vmap(left, map) => format!("{} vmap @{map}", left.to_nft()),
            Self::Add(set, key) => format!("add @{set} {{ {} }}", key.to_nft()),
            Self::Update(set, key) => format!("update @{set} {{ {} }}", key.to_nft()),
            Self::SetMac(field, mac) => format!("{} set {mac}", field.to_nft()),
            Self::SetMacFrom(field, key, map) => {
                format!("{} set {} map @{map}", field.to_nft(), key.to_nft())
            }
            Self::SetSentToHost => "meta pkttype set host".into(),
            Self::SetMark(mark) => format!("meta mark set {mark:#x}"),
            Self::SetMarkFrom(expr) => format!("meta mark set {}", expr.to_nft()),
            Self::NoTcpOpening => "tcp flags != syn / fin,syn,rst,ack".into(),
            Self::Known => "ct state established,related".into(),
            Self::Assured => "ct status assured".into(),
            Self::NoTrack => "notrack".into(),
            Self::ForwardBack => "fwd to iif".into(),
            Self::Counter => "counter".into(),
            Self::Verdict(verdict) => verdict.to_nft(),
        }
    }
}

impl Verdict {
    /// The verdict's name in nft syntax.
    pub fn to_nft(&self) -> String {
        match self {
            Self::Accept => "accept".into(),
            Self::Drop => "drop".into(),
            Self::Goto(chain) => format!("goto {chain}"),
            Self::Jump(chain) => format!("jump {chain}"),
            Self::Return => "return".into(),
        }
    }
}

impl Expr {
    fn to_nft(self) -> String {
        match self {
            Self::Field(field) => field.to_nft().into(),
            Self::FieldPair(a, b) => format!("{} . {}", a.to_nft(), b.to_nft()),
            Self::Raw(raw) => raw.to_nft(),
            Self::Bits(raw, mask) => format!("{} & {mask:#x}", raw.to_nft()),
            Self::RawPair(a, b) => format!("{} . {}", a.to_nft(), b.to_nft()),
            Self::ProtocolPort => "meta l4proto . th dport".into(),
            Self::ProtocolFromPort => "meta l4proto . th sport".into(),
            Self::Jhash { of, modulus, seed } => {
                let of = match of {
                    Hashed::Field(field) => field.to_nft().into(),
                    Hashed::Raw(raw) => raw.to_nft(),
                    Hashed::Both(field, raw) => format!("{} . {}", field.to_nft(), raw.to_nft()),
                };
                format!("jhash {of} mod {modulus} seed {seed:#x}")
            }
            Self::InputDevice => "iif".into(),
            Self::InputName => "iifname".into(),
            Self::RoutedBack => "fib saddr . iif oif".into(),
            Self::L4Proto => "meta l4proto".into(),
            Self::PacketType => "meta pkttype".into(),
            Self::Mark => "meta mark".into(),
            Self::Protocol => "meta protocol".into(),
            Self::Ip4Fragment => "ip frag-off & 0x3fff".into(),
            Self::Ip4FragmentOffset => "ip frag-off & 0x1fff".into(),
            Self::Ip6Fragment => "exthdr frag".into(),
            Self::TimeBits(bits) => format!("meta time & {}", time(bits)),
        }
    }
}

impl RawField {
    /// `@base,offset,length`, both in bits.
    pub fn to_nft(self) -> String {
        let base = match self.base {
            Base::Link => "ll",
            Base::Network => "nh",
            Base::Transport => "th",
        };
        format!("@{base},{},{}", self.offset * 8, self.len * 8)
    }
}

impl Field {
    /// The field's name in nft syntax.
    pub fn to_nft(self) -> &'static str {
        match self {
            Self::EtherDaddr => "ether daddr",
            Self::EtherSaddr => "ether saddr",
            Self::IpSaddr => "ip saddr",
            Self::IpDaddr => "ip daddr",
            Self::IpLength => "ip length",
            Self::IpProtocol => "ip protocol",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::Ip6Length => "ip6 length",
            Self::Ip6NextHeader => "ip6 nexthdr",
            Self::ArpSaddrEther => "arp saddr ether",
            Self::ArpSaddrIp => "arp saddr ip",
            Self::ArpDaddrIp => "arp daddr ip",
            Self::IcmpType => "icmp type",
            Self::Icmpv6Type => "icmpv6 type",
            Self::TcpSport => "tcp sport",
            Self::UdpSport => "udp sport",
            Self::UdpDport => "udp dport",
        }
    }
}

impl Value {
    fn to_nft(&self) -> String {
        match self {
            Self::Mac(mac) => mac.to_string(),
            Self::Named(_, name) | Self::Named2(_, name) => (*name).to_owned(),
            Self::Number2(number) => number.to_string(),
            Self::Number(number) => format!("{number:#x}"),
            Self::Raw(bytes) => hex(bytes),
            Self::Zero => "0".into(),
            Self::Missing => "missing".into(),
            Self::Exists => "exists".into(),
            Self::Name(name) => format!("\"{name}\""),
        }
    }
}

/// Nanoseconds since 1970 for nft, which takes the number for seconds and multiplies it by 10^9 in 64 bits. All
/// multiples of 2^9 are products of some number with 10^9 = 2^9 * 5^9, modulo 2^64: that number it is. Of others
/// the lowest nine bits are lost.
pub(crate) fn time(ns: u64) -> String {
    /// 5^9 times this is 1, modulo 2^64.
    const INVERSE: u64 = inverse(5u64.pow(9));
    let seconds = (ns >> 9).wrapping_mul(INVERSE) & (u64::MAX >> 9);
    seconds.to_string()
}

/// The inverse of an odd number modulo 2^64, by Newton's method: each step doubles the bits that are right.
const fn inverse(of: u64) -> u64 {
    let mut inverse = of;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(of.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::from("0x");
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Milliseconds the way nft's scanner wants them: units in falling order, none of them zero.
fn duration(ms: u128) -> String {
    let mut text = String::new();
    let mut rest = ms;
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
        if rest >= unit {
            let _ = write!(text, "{}{name}", rest / unit);
            rest %= unit;
        }
    }
    text
}

fn line(out: &mut String, depth: usize, text: &str) {
    out.extend(std::iter::repeat_n('\t', depth));
    out.push_str(text);
    out.push('\n');
}
