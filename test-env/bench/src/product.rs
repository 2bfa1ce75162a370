//! The product's rules, for the one host whose packets are measured.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use onemac_rules::{Lease, MacAddr, Wanted};

use crate::lab::{CLUSTER_MAC, DEVICE, DEVICE_MAC};

/// What may differ between two clusters.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Slices of the client hash space.
    pub slices: u32,
    /// IPv4 VIPs.
    pub vips4: Vec<Ipv4Addr>,
    /// IPv6 VIPs.
    pub vips6: Vec<Ipv6Addr>,
}

/// The nft text that the product installs on one host of four in a cluster of this shape.
///
/// # Errors
/// If the product does not give it.
pub fn rules(shape: &Shape) -> Result<String> {
    let vips4 = shape.vips4.iter().map(|vip| IpAddr::V4(*vip));
    let vips6 = shape.vips6.iter().map(|vip| IpAddr::V6(*vip));
    let wanted = Wanted {
        device: DEVICE.into(),
        device_mac: MacAddr(DEVICE_MAC),
        cluster_mac: MacAddr(CLUSTER_MAC),
        vips: vips4.chain(vips6).collect(),
        slices: shape.slices,
        seed: 0x5eed_c0de,
        owned: (0..shape.slices).filter(|slice| slice % 4 == 1).collect::<BTreeSet<u32>>(),
        lease: Some(Lease { timeout: Duration::from_secs(3600), deadline_unix_ns: u64::MAX / 4 }),
    };
    Ok(onemac_rules::ruleset(&wanted).to_nft())
}
