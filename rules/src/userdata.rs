//! What nft keeps with tables, chains, sets and rules to find its words again when it lists them: comments,
//! and how sets were declared. The kernel only stores it.

use nftnl::nftnl_sys as sys;

use crate::{bytecode::NFT_META_TIME_NS, model::*};

/// nft's numbers for expressions in `typeof` (enum expr_types in its expression.h).
const EXPR_VERDICT: u32 = 1;
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;
/// And for byte orders (enum byteorder in its datatype.h).
const ORDER_NONE: u32 = 0;
const ORDER_HOST: u32 = 1;
const ORDER_NETWORK: u32 = 2;
/// nft's numbers of a header and a field of it (enum proto_desc_id, enum ether_hdr_fields in its proto.h).
const PROTO_ETHER: u32 = 17;
const ETHER_DADDR: u32 = 1;

impl Rule {
    /// What nft keeps with the rule: its comment.
    pub(crate) fn userdata(&self) -> Vec<u8> {
        let mut data = Vec::new();
        if let Some(comment) = &self.comment {
            put_text(&mut data, sys::NFTNL_UDATA_RULE_COMMENT, comment);
        }
        data
    }
}

impl KeyType {
    fn is_host_order(self) -> bool {
        matches!(self, Self::Time | Self::Device | Self::Mark | Self::Slice { .. })
    }

    /// The byte order of the key, as nft keeps it.
    fn order(self) -> u32 {
        match self {
            Self::RawPair(..) | Self::ProtocolPort | Self::Ipv4Port | Self::Ipv6Port => ORDER_NONE,
            _ if self.is_host_order() => ORDER_HOST,
            _ => ORDER_NETWORK,
        }
    }

    /// The expression that the key is declared by, as nft keeps it.
    fn declared_by(self) -> Option<Vec<u8>> {
        match self {
            // Incremental, modulus, offset.
            Self::Slice { of } => Some(expression_userdata(EXPR_NUMGEN, &numbers(&[0, of, 0]))),
            Self::Time => Some(expression_userdata(EXPR_META, &numbers(&[NFT_META_TIME_NS as u32]))),
            Self::Raw(raw) => Some(payload_userdata(raw)),
            Self::RawPair(first, second) => {
                let mut parts = Vec::new();
                for (number, raw) in (0..).zip([first, second]) {
                    put(&mut parts, number, &payload_userdata(raw));
                }
                Some(expression_userdata(EXPR_CONCAT, &parts))
            }
            // Of several types; the number of the type says which.
            Self::ProtocolPort | Self::Ipv4Port | Self::Ipv6Port => {
                Some(expression_userdata(EXPR_CONCAT, &[]))
            }
            _ => None,
        }
    }
}

/// No protocol, no field of it, base, offset and length in bits.
fn payload_userdata(raw: RawField) -> Vec<u8> {
    let base = raw.base.number() + 1;
    expression_userdata(EXPR_PAYLOAD, &numbers(&[0, 0, base, raw.offset * 8, raw.len * 8]))
}

/// An expression in user data: its kind, and what it consists of.
fn expression_userdata(kind: u32, parts: &[u8]) -> Vec<u8> {
    const TYPEOF_EXPR: u32 = 0;
    const TYPEOF_DATA: u32 = 1;
    let mut data = Vec::new();
    put_u32(&mut data, TYPEOF_EXPR, kind);
    put(&mut data, TYPEOF_DATA, parts);
    data
}

/// Parameters by number.
fn numbers(parameters: &[u32]) -> Vec<u8> {
    let mut data = Vec::new();
    for (number, parameter) in (0..).zip(parameters) {
        put_u32(&mut data, number, *parameter);
    }
    data
}

impl Set {
    /// What nft keeps with the set: byte order and expression of its key, and the comment.
    pub(crate) fn userdata(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_u32(&mut data, sys::NFTNL_UDATA_SET_KEYBYTEORDER, self.key.order());
        match self.data {
            None => {}
            Some(DataType::Verdict) => put_u32(&mut data, sys::NFTNL_UDATA_SET_DATABYTEORDER, ORDER_NONE),
            Some(DataType::Mac) => put_u32(&mut data, sys::NFTNL_UDATA_SET_DATABYTEORDER, ORDER_NETWORK),
        }
        if let Some(expression) = self.key.declared_by() {
            put(&mut data, sys::NFTNL_UDATA_SET_KEY_TYPEOF, &expression);
        }
        if let Some(kind) = self.data {
            let expression = match kind {
                DataType::Verdict => expression_userdata(EXPR_VERDICT, &[]),
                DataType::Mac => expression_userdata(EXPR_PAYLOAD, &numbers(&[PROTO_ETHER, ETHER_DADDR])),
            };
            // With `type` in place of `typeof` nft keeps none.
            if self.key != KeyType::ProtocolPort {
                put(&mut data, sys::NFTNL_UDATA_SET_DATA_TYPEOF, &expression);
            }
            put_u32(&mut data, sys::NFTNL_UDATA_SET_DATA_INTERVAL, 0);
        }
        put_text(&mut data, sys::NFTNL_UDATA_SET_COMMENT, &self.comment);
        data
    }
}

impl Chain {
    /// What nft keeps with the chain: its comment.
    pub(crate) fn userdata(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_text(&mut data, sys::NFTNL_UDATA_CHAIN_COMMENT, &self.comment);
        data
    }
}

impl Table {
    /// What nft keeps with the table: its comment.
    pub(crate) fn userdata(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_text(&mut data, sys::NFTNL_UDATA_TABLE_COMMENT, &self.comment);
        data
    }
}

/// User data is a list of (type, length, value) with one byte each for type and length. libnftnl refuses
/// values that are longer, and so does this by cutting: the comments that use it are ours and short.
fn put(data: &mut Vec<u8>, kind: u32, value: &[u8]) {
    let value = &value[..value.len().min(255)];
    data.push(kind as u8);
    data.push(value.len() as u8);
    data.extend_from_slice(value);
}

fn put_u32(data: &mut Vec<u8>, kind: u32, value: u32) {
    put(data, kind, &value.to_ne_bytes());
}

fn put_text(data: &mut Vec<u8>, kind: u32, text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    put(data, kind, &bytes);
}
