//! The kernel's `jhash`, and the slice of a client.
//!
//! The rules in the kernel say `jhash ip saddr mod S seed X`; this module says the same, so that
//! `onemac owner` and the tests can predict what a kernel will do. Source of the algorithm: Bob Jenkins'
//! lookup3 as in the kernel's `include/linux/jhash.h`; source of the scaling: `reciprocal_scale` in
//! `include/linux/kernel.h`, used by `net/netfilter/nft_hash.c`.

use core::net::IpAddr;

/// Start value of the three lanes, `JHASH_INITVAL` in `jhash.h`.
const INITVAL: u32 = 0xdead_beef;

/// `jhash(key, length, initval)` of the kernel, over bytes as they stand in the packet.
///
/// The kernel loads its words in the byte order of the machine; this follows little-endian machines,
/// which are the ones that a cluster may mix (all hosts must agree, and the definition's digest says so).
pub fn jhash(key: &[u8], initval: u32) -> u32 {
    let seed = INITVAL.wrapping_add(key.len() as u32).wrapping_add(initval);
    let (mut a, mut b, mut c) = (seed, seed, seed);
    let mut rest = key;
    while rest.len() > 12 {
        a = a.wrapping_add(word(&rest[0..4]));
        b = b.wrapping_add(word(&rest[4..8]));
        c = c.wrapping_add(word(&rest[8..12]));
        (a, b, c) = mix(a, b, c);
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return c;
    }
    let mut last = [0u8; 12];
    last[..rest.len()].copy_from_slice(rest);
    a = a.wrapping_add(word(&last[0..4]));
    b = b.wrapping_add(word(&last[4..8]));
    c = c.wrapping_add(word(&last[8..12]));
    finish(a, b, c)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |w, &b| (w << 8) | u32::from(b))
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// The slice, `0..slices`, of a client's address: its hash scaled by multiply-high.
///
/// An IPv4-mapped IPv6 address is hashed as the 16 bytes that it is on the wire.
pub fn slice_of(client: IpAddr, slices: u32, seed: u32) -> u32 {
    let hash = match client {
        IpAddr::V4(a) => jhash(&a.octets(), seed),
        IpAddr::V6(a) => jhash(&a.octets(), seed),
    };
    ((u64::from(hash) * u64::from(slices)) >> 32) as u32
}
