//! The single expressions that rules are put together from.

use nftnl::nftnl_sys::{self as sys, libc};

use super::Attribute::{Bytes, Text, U32};
use super::*;

pub(super) fn load(bytes: RawField, register: u32) -> Bytecode {
    Bytecode {
        name: c"payload",
        attributes: vec![
            (sys::NFTNL_EXPR_PAYLOAD_DREG, U32(register)),
            (sys::NFTNL_EXPR_PAYLOAD_BASE, U32(bytes.base.number())),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, U32(bytes.offset)),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, U32(bytes.len)),
        ],
    }
}

/// The register behind what was loaded into [`REG`], as nft numbers them: by 16 bytes where one begins there.
pub(super) fn behind(bytes: RawField) -> u32 {
    let words = bytes.len.div_ceil(4);
    if words.is_multiple_of(4) { REG + words / 4 } else { REG_WORDS + words }
}

pub(super) fn meta(key: i32) -> Bytecode {
    Bytecode {
        name: c"meta",
        attributes: vec![(sys::NFTNL_EXPR_META_KEY, U32(key as u32)), (sys::NFTNL_EXPR_META_DREG, U32(REG))],
    }
}

pub(super) fn conntrack(key: i32) -> Bytecode {
    Bytecode {
        name: c"ct",
        attributes: vec![(sys::NFTNL_EXPR_CT_DREG, U32(REG)), (sys::NFTNL_EXPR_CT_KEY, U32(key as u32))],
    }
}

pub(super) fn set_meta(key: i32) -> Bytecode {
    Bytecode {
        name: c"meta",
        attributes: vec![(sys::NFTNL_EXPR_META_KEY, U32(key as u32)), (sys::NFTNL_EXPR_META_SREG, U32(REG))],
    }
}

pub(super) fn compare(op: Op, bytes: Vec<u8>) -> Bytecode {
    let op = match op {
        Op::Eq => libc::NFT_CMP_EQ,
        Op::Ne => libc::NFT_CMP_NEQ,
        Op::Lt => libc::NFT_CMP_LT,
    };
    Bytecode {
        name: c"cmp",
        attributes: vec![
            (sys::NFTNL_EXPR_CMP_SREG, U32(REG)),
            (sys::NFTNL_EXPR_CMP_OP, U32(op as u32)),
            (sys::NFTNL_EXPR_CMP_DATA, Bytes(bytes)),
        ],
    }
}

pub(super) fn lookup(set: &str) -> Bytecode {
    Bytecode {
        name: c"lookup",
        attributes: vec![
            (sys::NFTNL_EXPR_LOOKUP_SREG, U32(REG)),
            (sys::NFTNL_EXPR_LOOKUP_SET, Text(set.into())),
            (sys::NFTNL_EXPR_LOOKUP_FLAGS, U32(0)),
        ],
    }
}

/// Adds what was loaded to a set.
pub(super) fn remember(op: i32, set: &str) -> Bytecode {
    Bytecode {
        name: c"dynset",
        attributes: vec![
            (sys::NFTNL_EXPR_DYNSET_SREG_KEY, U32(REG)),
            (sys::NFTNL_EXPR_DYNSET_OP, U32(op as u32)),
            (sys::NFTNL_EXPR_DYNSET_SET_NAME, Text(set.into())),
        ],
    }
}

/// `reg & mask`.
pub(super) fn mask(mask: &[u8]) -> Bytecode {
    Bytecode {
        name: c"bitwise",
        attributes: vec![
            (sys::NFTNL_EXPR_BITWISE_SREG, U32(REG)),
            (sys::NFTNL_EXPR_BITWISE_DREG, U32(REG)),
            (sys::NFTNL_EXPR_BITWISE_OP, U32(NFT_BITWISE_BOOL)),
            (sys::NFTNL_EXPR_BITWISE_LEN, U32(mask.len() as u32)),
            (sys::NFTNL_EXPR_BITWISE_MASK, Bytes(mask.to_vec())),
            (sys::NFTNL_EXPR_BITWISE_XOR, Bytes(vec![0; mask.len()])),
        ],
    }
}

/// One if the packet has an IPv6 fragment header, else zero.
pub(super) fn fragment_header_present() -> Bytecode {
    Bytecode {
        name: c"exthdr",
        attributes: vec![
            (sys::NFTNL_EXPR_EXTHDR_DREG, U32(REG)),
            (sys::NFTNL_EXPR_EXTHDR_TYPE, U8(IPPROTO_FRAGMENT)),
            (sys::NFTNL_EXPR_EXTHDR_OFFSET, U32(0)),
            (sys::NFTNL_EXPR_EXTHDR_LEN, U32(1)),
            (sys::NFTNL_EXPR_EXTHDR_FLAGS, U32(NFT_EXTHDR_F_PRESENT)),
            (sys::NFTNL_EXPR_EXTHDR_OP, U32(NFT_EXTHDR_OP_IPV6)),
        ],
    }
}

/// One if the route to the packet's source leaves by the device that the packet came in by, else zero.
pub(super) fn routed_back() -> Bytecode {
    Bytecode {
        name: c"fib",
        attributes: vec![
            (sys::NFTNL_EXPR_FIB_DREG, U32(REG)),
            (sys::NFTNL_EXPR_FIB_RESULT, U32(NFT_FIB_RESULT_OIF)),
            (sys::NFTNL_EXPR_FIB_FLAGS, U32(NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT)),
        ],
    }
}

pub(super) fn immediate(data: Attribute) -> Bytecode {
    Bytecode {
        name: c"immediate",
        attributes: vec![(sys::NFTNL_EXPR_IMM_DREG, U32(REG)), (sys::NFTNL_EXPR_IMM_DATA, data)],
    }
}

/// Writes into the packet. The checksums that we would have to mend are none of a link-layer address.
pub(super) fn store(bytes: RawField) -> Bytecode {
    Bytecode {
        name: c"payload",
        attributes: vec![
            (sys::NFTNL_EXPR_PAYLOAD_SREG, U32(REG)),
            (sys::NFTNL_EXPR_PAYLOAD_BASE, U32(bytes.base.number())),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, U32(bytes.offset)),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, U32(bytes.len)),
            (sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE, U32(0)),
            (sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, U32(0)),
            (sys::NFTNL_EXPR_PAYLOAD_FLAGS, U32(0)),
        ],
    }
}
