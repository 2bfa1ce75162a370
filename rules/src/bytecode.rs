//! Rules and sets in the kernel's terms, still as plain data: the expressions that nf_tables runs.
//!
//! The expressions are the ones that nft itself generates for the same text, in the same registers; a test
//! holds the two side by side (`nft --debug=netlink`). Attribute numbers are libnftnl's.

mod expressions;

use std::ffi::CStr;

use nftnl::nftnl_sys::{self as sys, libc};

use self::expressions::*;
use crate::model::*;

/// One expression: libnftnl's name for it, and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bytecode {
    pub name: &'static CStr,
    pub attributes: Vec<(u32, Attribute)>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// A number in host order; libnftnl turns it into what the kernel wants.
    U32(u32),
    /// A number of one byte.
    U8(u8),
    /// Bytes as they are compared with or written into the packet.
    Bytes(Vec<u8>),
    /// The name of a set or chain.
    Text(String),
}

use Attribute::{Bytes, Text, U8, U32};

const REG_VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
/// Where a statement leaves its value.
const REG: u32 = libc::NFT_REG_1 as u32;
/// Behind the first four bytes of it.
const REG_SECOND: u32 = libc::NFT_REG32_01 as u32;
/// The first of the registers in words of four bytes, by which the kernel counts within those of 16.
const REG_WORDS: u32 = libc::NFT_REG32_00 as u32;
/// Where a hash finds its input.
const REG_HASHED: u32 = libc::NFT_REG_2 as u32;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const ARPHRD_ETHER: u16 = 1;

/// nft's numbers for the types of set keys (its datatype.h).
const TYPE_INTEGER: u32 = 4;
const TYPE_IPADDR: u32 = 7;
const TYPE_IP6ADDR: u32 = 8;
const TYPE_ETHERADDR: u32 = 9;
const TYPE_INET_PROTOCOL: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_ICMP_TYPE: u32 = 14;
const TYPE_MARK: u32 = 19;
const TYPE_ICMP6_TYPE: u32 = 29;
const TYPE_TIME: u32 = 43;
const TYPE_IFINDEX: u32 = 20;
/// Several in one key stand in one number, so many bits each.
const TYPE_BITS: u32 = 6;

/// What a header field needs to be known about the packet before it can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Ethernet,
    Ethertype(u16),
    /// A protocol in a frame's protocol, or in any if that is `None`.
    Protocol(Option<u16>, u8),
}

/// What the rule has already made sure of.
struct Known {
    family: Family,
    ethernet: bool,
    ethertype: Option<u16>,
    protocol: Option<u8>,
}

impl Rule {
    /// The expressions that the kernel runs for this rule.
    pub(crate) fn bytecode(&self, family: Family) -> Vec<Bytecode> {
        let mut known = Known { family, ethernet: false, ethertype: None, protocol: None };
        let mut code = Vec::new();
        for statement in &self.statements {
            statement.lower(&mut known, &mut code);
        }
        code
    }
}

impl Statement {
    fn lower(&self, known: &mut Known, code: &mut Vec<Bytecode>) {
        match self {
            Self::Compare(left, op, right) => {
                left.lower(known, code);
                code.push(compare(*op, right.bytes()));
                known.note(*left, *op, right);
            }
            Self::In(left, set) => {
                left.lower(known, code);
                code.push(lookup(set));
            }
            Self::Vmap(left, map) => {
                left.lower(known, code);
                let mut code_of_map = lookup(map);
                code_of_map.attributes.push((sys::NFTNL_EXPR_LOOKUP_DREG, U32(REG_VERDICT)));
                code.push(code_of_map);
            }
            Self::Add(set, key) => {
                key.lower(known, code);
                code.push(remember(libc::NFT_DYNSET_OP_ADD, set));
            }
            Self::Update(set, key) => {
                key.lower(known, code);
                code.push(remember(libc::NFT_DYNSET_OP_UPDATE, set));
            }
            Self::SetMac(field, mac) => {
                let (bytes, needs) = field.place();
                known.require(needs, code);
                code.push(immediate(Bytes(mac.0.to_vec())));
                code.push(store(bytes));
            }
            Self::SetMacFrom(field, key, map) => {
                let (bytes, needs) = field.place();
                known.require(needs, code);
                key.lower(known, code);
                let mut code_of_map = lookup(map);
                code_of_map.attributes.push((sys::NFTNL_EXPR_LOOKUP_DREG, U32(REG)));
                code.push(code_of_map);
                code.push(store(bytes));
            }
            Self::SetSentToHost => {
                code.push(immediate(Bytes(vec![PACKET_HOST])));
                code.push(set_meta(libc::NFT_META_PKTTYPE));
            }
            Self::SetMark(mark) => {
                code.push(immediate(Bytes(mark.to_ne_bytes().to_vec())));
                code.push(set_meta(libc::NFT_META_MARK));
            }
            Self::SetMarkFrom(expr) => {
                expr.lower(known, code);
                code.push(set_meta(libc::NFT_META_MARK));
            }
            Self::NoTcpOpening => {
                known.require(Needs::Protocol(None, IPPROTO_TCP), code);
                code.push(load(RawField { base: Base::Transport, offset: 13, len: 1 }, REG));
                code.push(mask(&[TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK]));
                code.push(compare(Op::Ne, vec![TCP_SYN]));
            }
            Self::Known => {
                code.push(conntrack(libc::NFT_CT_STATE));
                code.push(mask(&(CT_ESTABLISHED | CT_RELATED).to_ne_bytes()));
                code.push(compare(Op::Ne, vec![0; 4]));
            }
            Self::Assured => {
                code.push(conntrack(libc::NFT_CT_STATUS));
                code.push(mask(&IPS_ASSURED.to_ne_bytes()));
                code.push(compare(Op::Ne, vec![0; 4]));
            }
            Self::NoTrack => code.push(Bytecode { name: c"notrack", attributes: Vec::new() }),
            Self::ForwardBack => {
                code.push(meta(libc::NFT_META_IIF));
                code.push(Bytecode {
                    name: c"fwd",
                    attributes: vec![(sys::NFTNL_EXPR_FWD_SREG_DEV, U32(REG))],
                });
            }
            Self::Counter => code.push(Bytecode { name: c"counter", attributes: Vec::new() }),
            Self::Verdict(verdict) => code.push(verdict.lower()),
        }
    }
}

impl Verdict {
    fn lower(&self) -> Bytecode {
        let mut attributes = vec![
            (sys::NFTNL_EXPR_IMM_DREG, U32(REG_VERDICT)),
            (sys::NFTNL_EXPR_IMM_VERDICT, U32(self.number())),
        ];
        if let Some(chain) = self.chain() {
            attributes.push((sys::NFTNL_EXPR_IMM_CHAIN, Text(chain.into())));
        }
        Bytecode { name: c"immediate", attributes }
    }

    /// The kernel's number of the verdict.
    pub(crate) fn number(&self) -> u32 {
        (match self {
            Self::Accept => libc::NF_ACCEPT,
            Self::Drop => libc::NF_DROP,
            Self::Goto(_) => libc::NFT_GOTO,
            Self::Jump(_) => libc::NFT_JUMP,
            Self::Return => libc::NFT_RETURN,
        }) as u32
    }

    /// The chain that it leads to.
    pub(crate) fn chain(&self) -> Option<&str> {
        match self {
            Self::Goto(chain) | Self::Jump(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Return => None,
        }
    }
}

impl Expr {
    fn lower(self, known: &mut Known, code: &mut Vec<Bytecode>) {
        match self {
            Self::Field(field) => {
                let (bytes, needs) = field.place();
                known.require(needs, code);
                code.push(load(bytes, REG));
            }
            Self::FieldPair(first, second) => {
                let ((first, needs), (second, needs_too)) = (first.place(), second.place());
                known.require(needs, code);
                known.require(needs_too, code);
                code.push(load(first, REG));
                code.push(load(second, behind(first)));
            }
            Self::Raw(bytes) => code.push(load(bytes, REG)),
            Self::Bits(bytes, bits) => {
                code.push(load(bytes, REG));
                code.push(mask(&bits.to_be_bytes()));
            }
            Self::RawPair(first, second) => {
                code.push(load(first, REG));
                code.push(load(second, REG_SECOND));
            }
            Self::ProtocolPort | Self::ProtocolFromPort => {
                let offset = if self == Self::ProtocolPort { 2 } else { 0 };
                code.push(meta(libc::NFT_META_L4PROTO));
                code.push(load(RawField { base: Base::Transport, offset, len: 2 }, REG_SECOND));
            }
            Self::Jhash { of, modulus, seed } => {
                let len = match of {
                    Hashed::Field(field) => {
                        let (bytes, needs) = field.place();
                        known.require(needs, code);
                        code.push(load(bytes, REG_HASHED));
                        bytes.len
                    }
                    Hashed::Raw(bytes) => {
                        code.push(load(bytes, REG_HASHED));
                        bytes.len
                    }
                    Hashed::Both(field, raw) => {
                        let (bytes, needs) = field.place();
                        known.require(needs, code);
                        code.push(load(bytes, REG_HASHED));
                        // Registers have 16 bytes.
                        code.push(load(raw, REG_HASHED + bytes.len.div_ceil(16)));
                        bytes.len + raw.len.next_multiple_of(4)
                    }
                };
                code.push(Bytecode {
                    name: c"hash",
                    attributes: vec![
                        (sys::NFTNL_EXPR_HASH_SREG, U32(REG_HASHED)),
                        (sys::NFTNL_EXPR_HASH_DREG, U32(REG)),
                        (sys::NFTNL_EXPR_HASH_LEN, U32(len)),
                        (sys::NFTNL_EXPR_HASH_MODULUS, U32(modulus)),
                        (sys::NFTNL_EXPR_HASH_SEED, U32(seed)),
                        (sys::NFTNL_EXPR_HASH_TYPE, U32(NFT_HASH_JENKINS)),
                    ],
                });
            }
            Self::InputDevice => code.push(meta(libc::NFT_META_IIF)),
            Self::InputName => code.push(meta(libc::NFT_META_IIFNAME)),
            Self::RoutedBack => code.push(routed_back()),
            Self::L4Proto => code.push(meta(libc::NFT_META_L4PROTO)),
            Self::PacketType => code.push(meta(libc::NFT_META_PKTTYPE)),
            Self::Mark => code.push(meta(libc::NFT_META_MARK)),
            Self::Protocol => code.push(meta(libc::NFT_META_PROTOCOL)),
            Self::Ip4Fragment | Self::Ip4FragmentOffset => {
                known.require(Needs::Ethertype(ETH_P_IP), code);
                code.push(load(RawField { base: Base::Network, offset: 6, len: 2 }, REG));
                let bits: u16 = if self == Self::Ip4Fragment { 0x3fff } else { 0x1fff };
                code.push(mask(&bits.to_be_bytes()));
            }
            Self::Ip6Fragment => {
                known.require(Needs::Ethertype(ETH_P_IPV6), code);
                code.push(fragment_header_present());
            }
            Self::TimeBits(bits) => {
                code.push(meta(NFT_META_TIME_NS));
                code.push(mask(&bits.to_ne_bytes()));
            }
        }
    }
}

/// linux/netfilter/nf_tables.h; libc does not have it.
pub(crate) const NFT_META_TIME_NS: i32 = 30;
/// The same, for those that follow.
const NFT_HASH_JENKINS: u32 = 0;
const NFT_BITWISE_BOOL: u32 = 0;
const NFT_FIB_RESULT_OIF: u32 = 1;
const NFTA_FIB_F_SADDR: u32 = 1 << 0;
const NFTA_FIB_F_IIF: u32 = 1 << 3;
const NFTA_FIB_F_PRESENT: u32 = 1 << 5;
const NFT_EXTHDR_F_PRESENT: u32 = 1;
const NFT_EXTHDR_OP_IPV6: u32 = 0;
/// linux/netfilter_arp.h.
const NF_ARP_IN: u32 = 0;
const NF_ARP_OUT: u32 = 1;
/// linux/if_packet.h.
const PACKET_HOST: u8 = 0;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// linux/tcp.h, the byte with the flags.
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
/// linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED.
const CT_ESTABLISHED: u32 = 1 << 1;
const CT_RELATED: u32 = 1 << 2;
/// The same file.
const IPS_ASSURED: u32 = 1 << 2;

impl Known {
    /// Adds the tests without which the bytes would mean something else, once per rule.
    fn require(&mut self, needs: Needs, code: &mut Vec<Bytecode>) {
        match needs {
            Needs::Ethernet if !self.ethernet => {
                self.ethernet = true;
                code.push(meta(libc::NFT_META_IIFTYPE));
                code.push(compare(Op::Eq, ARPHRD_ETHER.to_ne_bytes().to_vec()));
            }
            Needs::Ethernet => {}
            // There is nothing else.
            Needs::Ethertype(_) if self.family == Family::Arp => {}
            Needs::Ethertype(ethertype) if self.ethertype != Some(ethertype) => {
                self.ethertype = Some(ethertype);
                let (key, value) = match self.family {
                    Family::Netdev => (libc::NFT_META_PROTOCOL, ethertype.to_be_bytes().to_vec()),
                    _ => (libc::NFT_META_NFPROTO, vec![nfproto(ethertype)]),
                };
                code.push(meta(key));
                code.push(compare(Op::Eq, value));
            }
            Needs::Ethertype(_) => {}
            Needs::Protocol(ethertype, protocol) => {
                if let Some(ethertype) = ethertype {
                    self.require(Needs::Ethertype(ethertype), code);
                }
                if self.protocol != Some(protocol) {
                    self.protocol = Some(protocol);
                    code.push(meta(libc::NFT_META_L4PROTO));
                    code.push(compare(Op::Eq, vec![protocol]));
                }
            }
        }
    }

    /// Takes note of what a comparison has made sure of.
    fn note(&mut self, left: Expr, op: Op, right: &Value) {
        match (left, op, right) {
            (Expr::Protocol, Op::Eq, Value::Named2(ethertype, _)) => self.ethertype = Some(*ethertype),
            (Expr::L4Proto, Op::Eq, Value::Named(protocol, _)) => self.protocol = Some(*protocol),
            _ => {}
        }
    }
}

/// The kernel's number for the family of a packet (linux/netfilter.h).
fn nfproto(ethertype: u16) -> u8 {
    (if ethertype == ETH_P_IP { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 }) as u8
}

impl Field {
    /// Where the field is, and what has to be known before it is there.
    fn place(self) -> (RawField, Needs) {
        use Base::{Link, Network, Transport};
        let (base, offset, len, needs) = match self {
            Self::EtherDaddr => (Link, 0, 6, Needs::Ethernet),
            Self::EtherSaddr => (Link, 6, 6, Needs::Ethernet),
            Self::IpLength => (Network, 2, 2, Needs::Ethertype(ETH_P_IP)),
            Self::IpProtocol => (Network, 9, 1, Needs::Ethertype(ETH_P_IP)),
            Self::IpSaddr => (Network, 12, 4, Needs::Ethertype(ETH_P_IP)),
            Self::IpDaddr => (Network, 16, 4, Needs::Ethertype(ETH_P_IP)),
            Self::Ip6Saddr => (Network, 8, 16, Needs::Ethertype(ETH_P_IPV6)),
            Self::Ip6Daddr => (Network, 24, 16, Needs::Ethertype(ETH_P_IPV6)),
            Self::Ip6Length => (Network, 4, 2, Needs::Ethertype(ETH_P_IPV6)),
            Self::Ip6NextHeader => (Network, 6, 1, Needs::Ethertype(ETH_P_IPV6)),
            Self::ArpSaddrEther => (Network, 8, 6, Needs::Ethertype(ETH_P_ARP)),
            Self::ArpSaddrIp => (Network, 14, 4, Needs::Ethertype(ETH_P_ARP)),
            Self::ArpDaddrIp => (Network, 24, 4, Needs::Ethertype(ETH_P_ARP)),
            Self::IcmpType => (Transport, 0, 1, Needs::Protocol(Some(ETH_P_IP), 1)),
            Self::Icmpv6Type => (Transport, 0, 1, Needs::Protocol(Some(ETH_P_IPV6), 58)),
            Self::TcpSport => (Transport, 0, 2, Needs::Protocol(None, IPPROTO_TCP)),
            Self::UdpSport => (Transport, 0, 2, Needs::Protocol(None, IPPROTO_UDP)),
            Self::UdpDport => (Transport, 2, 2, Needs::Protocol(None, IPPROTO_UDP)),
        };
        (RawField { base, offset, len }, needs)
    }
}

impl Base {
    /// The kernel's number.
    pub(crate) fn number(self) -> u32 {
        (match self {
            Self::Link => libc::NFT_PAYLOAD_LL_HEADER,
            Self::Network => libc::NFT_PAYLOAD_NETWORK_HEADER,
            Self::Transport => libc::NFT_PAYLOAD_TRANSPORT_HEADER,
        }) as u32
    }
}

impl Value {
    /// The bytes as they stand in the register.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Mac(mac) => mac.0.to_vec(),
            Self::Named(number, _) => vec![*number],
            Self::Named2(number, _) => number.to_be_bytes().to_vec(),
            Self::Number2(number) => number.to_be_bytes().to_vec(),
            Self::Number(number) => number.to_ne_bytes().to_vec(),
            Self::Raw(bytes) => bytes.clone(),
            Self::Zero => vec![0; 2],
            Self::Missing => vec![0],
            Self::Exists => 1u32.to_ne_bytes().to_vec(),
            // Filled up: names that only begin so are others.
            Self::Name(name) => {
                let mut bytes = name.clone().into_bytes();
                bytes.resize(libc::IFNAMSIZ, 0);
                bytes
            }
        }
    }
}

impl KeyType {
    /// nft's number for the type; the kernel only keeps it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Ipv4 => TYPE_IPADDR,
            Self::Ipv6 => TYPE_IP6ADDR,
            Self::Time => TYPE_TIME,
            Self::Device => TYPE_IFINDEX,
            Self::Mark => TYPE_MARK,
            Self::IcmpType => TYPE_ICMP_TYPE,
            Self::Icmpv6Type => TYPE_ICMP6_TYPE,
            Self::Slice { .. } | Self::Raw(_) => TYPE_INTEGER,
            Self::RawPair(..) => TYPE_INTEGER << TYPE_BITS | TYPE_INTEGER,
            Self::ProtocolPort => TYPE_INET_PROTOCOL << TYPE_BITS | TYPE_INET_SERVICE,
            Self::Ipv4Port => TYPE_IPADDR << TYPE_BITS | TYPE_INET_SERVICE,
            Self::Ipv6Port => TYPE_IP6ADDR << TYPE_BITS | TYPE_INET_SERVICE,
        }
    }

    /// Length of a key in bytes.
    pub(crate) fn len(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Device | Self::Mark | Self::Slice { .. } => 4,
            Self::Ipv6 => 16,
            Self::IcmpType | Self::Icmpv6Type => 1,
            Self::Raw(field) => field.len,
            Self::RawPair(a, b) => a.len.next_multiple_of(4) + b.len.next_multiple_of(4),
            Self::Time | Self::ProtocolPort | Self::Ipv4Port => 8,
            Self::Ipv6Port => 20,
        }
    }
}

impl Set {
    /// Flags of the set in the kernel.
    pub(crate) fn flags(&self) -> u32 {
        let timeout = if self.timeout == Timeout::Never { 0 } else { libc::NFT_SET_TIMEOUT };
        let map = if self.data.is_some() { libc::NFT_SET_MAP } else { 0 };
        let dynamic = if self.filled == Filled::ByCommits { 0 } else { libc::NFT_SET_EVAL };
        (timeout | map | dynamic) as u32
    }
}

impl DataType {
    /// nft's number for the type, and the length in bytes.
    pub(crate) fn number_and_len(self) -> (u32, u32) {
        match self {
            // linux/netfilter/nf_tables.h: NFT_DATA_VERDICT, and the size of one.
            Self::Verdict => (0xffff_ff00, 16),
            Self::Mac => (TYPE_ETHERADDR, 6),
        }
    }
}

impl Hook {
    /// The kernel's number of the hook. (`NF_INET_INGRESS` is another family's.)
    pub(crate) fn number(&self) -> u32 {
        match self.place {
            Place::Ingress(_) => 0,
            Place::Egress(_) => 1,
            Place::Prerouting => libc::NF_INET_PRE_ROUTING as u32,
            Place::Output => libc::NF_INET_LOCAL_OUT as u32,
            Place::ArpInput => NF_ARP_IN,
            Place::ArpOutput => NF_ARP_OUT,
        }
    }

    /// The device it is on.
    pub(crate) fn device(&self) -> Option<&str> {
        match &self.place {
            Place::Ingress(device) | Place::Egress(device) => Some(device),
            Place::Prerouting | Place::Output | Place::ArpInput | Place::ArpOutput => None,
        }
    }
}
