//! Addresses that look right and cannot work.

use std::net::{IpAddr, Ipv4Addr};

/// What makes an address unfit to be reached by others under this very address, or `None`.
pub(super) fn fault(address: IpAddr) -> Option<&'static str> {
    unusable(address).or_else(|| {
        if address.is_loopback() {
            Some("a loopback address")
        } else if is_link_local(address) {
            Some("a link-local address")
        } else {
            None
        }
    })
}

/// The same for an address that may be loopback (all agents on one machine, for a try) or IPv4
/// link-local (a cable between two hosts). IPv6 link-local needs a device name that differs per host.
pub(super) fn gossip_fault(address: IpAddr) -> Option<&'static str> {
    unusable(address).or_else(|| {
        (address.is_ipv6() && is_link_local(address))
            .then_some("an IPv6 link-local address, whose zone is another one on every host")
    })
}

fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4 == Ipv4Addr::BROADCAST => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an address of 0.0.0.0/8, which no host can have"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The family's name.
pub(super) const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
