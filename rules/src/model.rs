//! A ruleset as plain ordered data: what the text printer writes and what the netlink side installs.
//!
//! The vocabulary is nft's own, cut down to what onemac says with it. Nothing here knows what a VIP or a
//! slice is for (that is `wanted.rs`) and nothing here touches a kernel (that is `netlink`).

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// An Ethernet address, six bytes as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

/// Everything onemac wants to have in nftables, in the order in which it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The project's own tables. Others' tables are never named here.
    pub tables: Vec<Table>,
}

/// The protocol family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Chains on one network device, before and after everything else the kernel does.
    Netdev,
    /// Chains in the path of IPv4 and IPv6 packets.
    Inet,
    /// Chains in the path of ARP packets.
    Arp,
}

/// One table: sets first, then chains, as `nft list` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family of all its chains.
    pub family: Family,
    /// Its name, unique within the family.
    pub name: String,
    /// One line for the reader of `nft list ruleset`, at most 127 bytes.
    pub comment: String,
    /// Named sets.
    pub sets: Vec<Set>,
    /// Chains; a chain may be named by rules that stand before it.
    pub chains: Vec<Chain>,
}

/// A named set of keys, or a map from keys to data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name, unique within the table.
    pub name: String,
    /// What its keys are.
    pub key: KeyType,
    /// How many elements it can hold at most. A declared size lets the kernel choose a fixed hash.
    pub size: Option<u32>,
    /// Whether its elements may expire.
    pub timeout: Timeout,
    /// Whether it is a map: then every element has data of that kind, else none has any.
    pub data: Option<DataType>,
    /// Who puts elements into it.
    pub filled: Filled,
    /// One line for the reader of `nft list ruleset`, at most 127 bytes.
    pub comment: String,
    /// What the set is for: the comment line above it in the text.
    pub why: String,
    /// Its elements, without duplicates.
    pub elements: Vec<Element>,
}

/// Who puts elements into a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Transactions.
    ByCommits,
    /// Rules, while packets pass. Such elements are nobody's wish: they are neither compared nor removed.
    ByPackets,
    /// Both. What is wanted of such a set is where it ends: keys behind the last of [`Set::elements`] are
    /// foreign to it.
    ByBoth,
}

/// Whether the elements of a set expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// None does.
    Never,
    /// Those that say so.
    Some,
    /// All do, after this time unless they say otherwise; whole milliseconds.
    All(Duration),
}

/// What the data of a map are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// Verdicts.
    Verdict,
    /// Ethernet addresses: `ether daddr`.
    Mac,
}

/// What the keys of a set are: it decides the kernel's key length and how nft shows the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `type ipv4_addr`
    Ipv4,
    /// `type ipv6_addr`
    Ipv6,
    /// `typeof meta time`: wall-clock time, nanoseconds since 1970.
    Time,
    /// `type iface_index`
    Device,
    /// `type mark`
    Mark,
    /// `type icmp_type`
    IcmpType,
    /// `type icmpv6_type`
    Icmpv6Type,
    /// A 32-bit number below `of`, as `jhash … mod of` yields it.
    ///
    /// nft checks types: only a set or map of plain integers may follow `jhash`, and such a one can only be
    /// declared with `typeof` an expression that has that type. `typeof jhash …` makes nft 1.0.6 crash
    /// when it lists the set, and `type mark` is refused when the text is loaded, so the text says
    /// `typeof numgen inc mod S`: a number generator over the same range.
    Slice {
        /// How many slices there are, S.
        of: u32,
    },
    /// Raw bytes of the packet, `typeof @base,offset,length`.
    Raw(RawField),
    /// The same, twice: one after the other, each filled up to a multiple of four bytes.
    RawPair(RawField, RawField),
    /// `type inet_proto . inet_service`
    ProtocolPort,
    /// `type ipv4_addr . inet_service`
    Ipv4Port,
    /// `type ipv6_addr . inet_service`
    Ipv6Port,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// Its number in IP headers.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Its name as nft shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Bytes of the packet that nft has no name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawField {
    /// Where counting starts.
    pub base: Base,
    /// First byte, counted from `base`.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
}

/// Where the offset of a payload expression starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The Ethernet header, `@ll`.
    Link,
    /// The IP, IPv6 or ARP header, `@nh`.
    Network,
    /// The header after that, `@th`. Beware of fragments that have no such header: on netdev hooks, kernel
    /// 6.18 reads up to four bytes of it there all the same, and refuses more.
    Transport,
}

/// One element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its key; the variant must fit the set's [`KeyType`].
    pub key: Key,
    /// How long after its commit the kernel forgets it, in whole milliseconds; `None` is for ever.
    pub timeout: Option<Duration>,
    /// In a map, what the key leads to; the variant must fit the set's [`DataType`].
    pub data: Option<Data>,
}

/// What a key of a map leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// What becomes of a packet that has this key.
    Verdict(Verdict),
    /// An Ethernet address.
    Mac(MacAddr),
}

/// A key of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// Wall-clock time, nanoseconds since 1970, a multiple of 512.
    UnixNs(u64),
    /// A network device by its index.
    DeviceIndex(u32),
    /// The number of a slice.
    Slice(u32),
    /// A value of one byte with the name that nft gives it.
    Named(u8, &'static str),
    /// Raw bytes.
    Raw(Vec<u8>),
    /// Raw bytes, twice.
    RawPair(Vec<u8>, Vec<u8>),
    /// A protocol, and a port of it.
    ProtocolPort(Protocol, u16),
    /// An IPv4 address, and a port there.
    Ipv4Port(Ipv4Addr, u16),
    /// An IPv6 address, and a port there.
    Ipv6Port(Ipv6Addr, u16),
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique within the table.
    pub name: String,
    /// Where packets enter it; `None` for a chain that other rules go to.
    pub hook: Option<Hook>,
    /// One line for the reader of `nft list ruleset`, at most 127 bytes.
    pub comment: String,
    /// What the chain is for: the comment line above it in the text.
    pub why: String,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// The place in the packets' path where a base chain stands. The policy is always accept: a rule of ours that
/// is missing must not cut the host off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Which one.
    pub place: Place,
    /// Order among the chains of the same hook, lower first.
    pub priority: i32,
}

/// The hooks that we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// netdev: frames that the device of that name has received.
    Ingress(String),
    /// netdev: frames that the device of that name is about to send. Needs kernel 5.16.
    Egress(String),
    /// inet: packets that have come in, before routing.
    Prerouting,
    /// inet: packets that this host has made.
    Output,
    /// arp: packets that have come in.
    ArpInput,
    /// arp: packets that this host has made.
    ArpOutput,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Why it is there: the comment line above it in the text. Not known to the kernel.
    pub why: String,
    /// Short form of it that the kernel keeps with the rule and `nft list ruleset` shows. It is not part
    /// of what a packet runs through, so it costs nothing.
    pub comment: Option<String>,
    /// Evaluated from left to right until one does not match.
    pub statements: Vec<Statement>,
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `left op right`: goes on if it holds.
    Compare(Expr, Op, Value),
    /// `expr @set`: goes on if the set has the value.
    In(Expr, String),
    /// `expr vmap @map`: the verdict that the map has for the value; goes on if it has none.
    Vmap(Expr, String),
    /// `add @set { expr }`: the set has the value from now on; goes on unless the set is full.
    Add(String, Expr),
    /// `update @set { expr }`: the same, and its time begins anew.
    Update(String, Expr),
    /// `field set address`: writes into the packet.
    SetMac(Field, MacAddr),
    /// `field set expr map @map`: writes what the map has for the value; goes on only if it has something.
    SetMacFrom(Field, Expr, String),
    /// `meta pkttype set host`: as if the frame had been sent to this host's own address.
    SetSentToHost,
    /// `meta mark set number`.
    SetMark(u32),
    /// `meta mark set expr`; goes on only if the value can be had.
    SetMarkFrom(Expr),
    /// `tcp flags != syn / fin,syn,rst,ack`: goes on with TCP segments that do not ask for a new connection.
    /// Beware of later fragments, of which the kernel reads some byte or other.
    NoTcpOpening,
    /// `ct state established,related`: goes on with packets of a connection that conntrack knows.
    Known,
    /// `ct status assured`: goes on with packets of a connection whose handshake is complete, be it by this one.
    Assured,
    /// `notrack`: conntrack lets the packet be.
    NoTrack,
    /// `fwd to iif`: sends the frame out as it stands, by the device that it came in by. The end of the rule.
    ForwardBack,
    /// Counts packets and bytes.
    Counter,
    /// The end of the rule.
    Verdict(Verdict),
}

/// How two values are compared, byte by byte in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Equal; nft leaves the sign away.
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
}

/// Something that has a value for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expr {
    /// A header field that nft knows by name.
    Field(Field),
    /// Such a field, and after it another.
    FieldPair(Field, Field),
    /// Bytes that it does not.
    Raw(RawField),
    /// `@base,offset,length & mask`: some bits of two such bytes.
    Bits(RawField, u16),
    /// Bytes, and after them others.
    RawPair(RawField, RawField),
    /// `meta l4proto . th dport`: the protocol, and the port that the packet goes to.
    ProtocolPort,
    /// `meta l4proto . th sport`: the protocol, and the port that the packet comes from.
    ProtocolFromPort,
    /// `jhash of mod modulus seed seed`: `(jhash(bytes, seed) * modulus) >> 32`.
    Jhash {
        /// What is hashed, the bytes as on the wire.
        of: Hashed,
        /// The result is smaller than this.
        modulus: u32,
        /// Initial value of the hash.
        seed: u32,
    },
    /// `iif`: the index of the device that the packet came in by.
    InputDevice,
    /// `iifname`: the name of that device.
    InputName,
    /// `fib saddr . iif oif`: whether the host sends to the packet's source by the device that it came in by.
    RoutedBack,
    /// `meta l4proto`: the protocol after IPv6's extension headers.
    L4Proto,
    /// `meta pkttype`: to whom the frame was sent.
    PacketType,
    /// `meta mark`.
    Mark,
    /// `meta protocol`: the frame's protocol.
    Protocol,
    /// `ip frag-off & 0x3fff`: zero in packets that are not fragments.
    Ip4Fragment,
    /// `ip frag-off & 0x1fff`: zero in packets that are whole and in first fragments.
    Ip4FragmentOffset,
    /// `exthdr frag`: whether there is an IPv6 fragment header.
    Ip6Fragment,
    /// `meta time & mask`: some bits of the wall-clock time in nanoseconds since 1970, none of the lowest nine.
    TimeBits(u64),
}

/// What can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashed {
    /// A named header field.
    Field(Field),
    /// Raw bytes.
    Raw(RawField),
    /// A named header field, and after it raw bytes; each is filled up to a multiple of four bytes with zeros.
    Both(Field, RawField),
}

/// Header fields by their nft names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Field {
    EtherDaddr,
    EtherSaddr,
    IpSaddr,
    IpDaddr,
    IpLength,
    IpProtocol,
    Ip6Saddr,
    Ip6Daddr,
    Ip6Length,
    Ip6NextHeader,
    ArpSaddrEther,
    ArpSaddrIp,
    ArpDaddrIp,
    IcmpType,
    Icmpv6Type,
    TcpSport,
    UdpSport,
    UdpDport,
}

/// A constant to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An Ethernet address.
    Mac(MacAddr),
    /// A value of one byte with the name that nft gives it.
    Named(u8, &'static str),
    /// The same, of two bytes.
    Named2(u16, &'static str),
    /// A number of two bytes.
    Number2(u16),
    /// A number in the machine's order, written in hexadecimal.
    Number(u32),
    /// Raw bytes, written as one hexadecimal number.
    Raw(Vec<u8>),
    /// Two bytes that are zero.
    Zero,
    /// That a header is not there.
    Missing,
    /// That it is, or a route.
    Exists,
    /// The name of a network device.
    Name(String),
}

/// Where a packet goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out of the table, on its way.
    Accept,
    /// Nowhere.
    Drop,
    /// To another chain, not to return.
    Goto(String),
    /// To another chain, and then to the next rule.
    Jump(String),
    /// Back to where the jump came from.
    Return,
}

impl Family {
    /// Its name in nft syntax.
    pub fn name(self) -> &'static str {
        match self {
            Self::Netdev => "netdev",
            Self::Inet => "inet",
            Self::Arp => "arp",
        }
    }
}

impl Ruleset {
    /// The table of that family and name.
    pub fn table(&self, family: Family, name: &str) -> Option<&Table> {
        self.tables.iter().find(|t| t.family == family && t.name == name)
    }
}

impl Table {
    /// The set of that name.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|s| s.name == name)
    }

    /// The chain of that name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.name == name)
    }
}

impl Key {
    /// The key as nft shows it.
    pub fn to_nft(&self) -> String {
        match self {
            Self::Ipv4(a) => a.to_string(),
            Self::Ipv6(a) => a.to_string(),
            Self::UnixNs(ns) => crate::text::time(*ns),
            Self::DeviceIndex(index) => index.to_string(),
            Self::Slice(n) => n.to_string(),
            Self::Named(_, name) => (*name).to_owned(),
            Self::Raw(bytes) => crate::text::hex(bytes),
            Self::RawPair(a, b) => format!("{} . {}", crate::text::hex(a), crate::text::hex(b)),
            Self::ProtocolPort(protocol, port) => format!("{} . {port}", protocol.name()),
            Self::Ipv4Port(a, port) => format!("{a} . {port}"),
            Self::Ipv6Port(a, port) => format!("{a} . {port}"),
        }
    }
}
