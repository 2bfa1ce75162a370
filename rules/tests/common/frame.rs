//! Frames, byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::CLUSTER_MAC;

pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
pub const GROUP_MAC: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 0x53];
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x53);

pub const PROBE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
pub const SENTINEL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x88];
pub const BROADCAST: [u8; 6] = [0xff; 6];

pub const ETH_ARP: u16 = 0x0806;
pub const ETH_IP: u16 = 0x0800;
pub const ETH_IP6: u16 = 0x86dd;
/// Reserved for experiments (IEEE 802, local experimental ethertype 1).
pub const ETH_TEST: u16 = 0x88b5;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes(), payload].concat()
}

/// A frame for the cluster MAC.
pub fn for_cluster(kind: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(CLUSTER_MAC.0, PROBE_MAC, kind, payload)
}

/// An IPv4 packet; `fragment` is the field of flags and offset.
pub fn ip4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut header = [
        &[0x45, 0][..],
        &len.to_be_bytes(),
        &[0, 1],
        &fragment.to_be_bytes(),
        &[64, protocol, 0, 0],
        &from.octets(),
        &to.octets(),
    ]
    .concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, payload].concat()
}

pub fn ip6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &len, &[next, 255], &from.octets(), &to.octets(), payload].concat()
}

/// An ICMP or ICMPv6 message: type, code, checksum, four bytes more, body.
pub fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], body].concat()
}

pub fn arp(operation: u8, sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &sender.1.octets(), &[0; 6], &target.octets(), &[0; 18]].concat()
}

/// A neighbour solicitation (135) or advertisement (136) with a link-layer address option.
pub fn neighbour(kind: u8, target: Ipv6Addr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    icmp(kind, &[&target.octets()[..], &[option, 1], &mac].concat())
}

/// A UDP datagram. Its checksum is left to a network card, as between virtual machines: it is the same
/// whatever is carried.
pub fn udp(from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&from_port.to_be_bytes()[..], &to_port.to_be_bytes(), &len.to_be_bytes(), &[0x12, 0x34], payload]
        .concat()
}

/// An ICMP message from an IPv4 client to the VIP, with a right checksum.
pub fn icmp4(from: Ipv4Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = icmp(kind, body);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip4(from, VIP4, ICMP, 0, &message)
}

/// The same for IPv6.
pub fn icmp6(from: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = icmp(kind, body);
    let tail = [0, 0, (message.len() >> 8) as u8, message.len() as u8, 0, 0, 0, ICMP6];
    let sum = checksum(&[&from.octets()[..], &VIP6.octets(), &tail, &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip6(from, VIP6, ICMP6, &message)
}

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const TCP: u8 = 6;

/// A TCP segment from an IPv4 client to the VIP.
pub fn tcp4(from: Ipv4Addr, ports: (u16, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let pseudo = [&from.octets()[..], &VIP4.octets()].concat();
    ip4(from, VIP4, TCP, 0, &tcp(&pseudo, ports, flags, payload))
}

/// A TCP segment from an IPv6 client to the VIP.
pub fn tcp6(from: Ipv6Addr, ports: (u16, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let pseudo = [&from.octets()[..], &VIP6.octets()].concat();
    ip6(from, VIP6, TCP, &tcp(&pseudo, ports, flags, payload))
}

/// A TCP segment with a right checksum, without which conntrack takes it for invalid.
fn tcp(addresses: &[u8], ports: (u16, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = [
        &ports.0.to_be_bytes()[..],
        &ports.1.to_be_bytes(),
        &[0, 0, 3, 232, 0, 0, 7, 208, 0x50, flags, 0x20, 0, 0, 0, 0, 0],
        payload,
    ]
    .concat();
    let tail = [0, TCP, (segment.len() >> 8) as u8, segment.len() as u8];
    let sum = checksum(&[addresses, &tail, &segment].concat());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The checksum of RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
