//! Frames put together by hand, for what no socket would send: ARP and neighbour questions by many
//! askers, and frames for the cluster MAC that are meant for somebody else. And the questions put to
//! captured frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::icmpv6::ndp::{
    MutableNdpOptionPacket, MutableNeighborSolicitPacket, NdpOptionTypes, NeighborAdvertPacket,
};
use pnet::packet::icmpv6::{self, Icmpv6Packet, Icmpv6Types};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::packet::tcp::TcpPacket;
use pnet::packet::udp::{self, MutableUdpPacket};
use pnet::util::MacAddr;

pub use crate::capture::Injector;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// A MAC address from its text form.
///
/// # Panics
/// When the text is none; addresses in tests are literals.
#[must_use]
pub fn mac(text: &str) -> MacAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no MAC address"))
}

fn ethernet(
    frame: &mut [u8],
    source: MacAddr,
    destination: MacAddr,
    kind: pnet::packet::ethernet::EtherType,
) {
    if let Some(mut packet) = MutableEthernetPacket::new(frame) {
        packet.set_source(source);
        packet.set_destination(destination);
        packet.set_ethertype(kind);
    }
}

/// A broadcast "who has `target`" by `asker`.
#[must_use]
pub fn arp_request(source: MacAddr, asker: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + 28];
    ethernet(&mut frame, source, MacAddr::broadcast(), EtherTypes::Arp);
    if let Some(mut arp) = MutableArpPacket::new(&mut frame[ETHERNET..]) {
        arp.set_hardware_type(ArpHardwareTypes::Ethernet);
        arp.set_protocol_type(EtherTypes::Ipv4);
        arp.set_hw_addr_len(6);
        arp.set_proto_addr_len(4);
        arp.set_operation(ArpOperations::Request);
        arp.set_sender_hw_addr(source);
        arp.set_sender_proto_addr(asker);
        arp.set_target_proto_addr(target);
    }
    frame
}

/// A neighbour solicitation for `target` by `asker`, to the solicited-node group (RFC 4861, 4.3).
#[must_use]
pub fn neighbour_solicitation(source: MacAddr, asker: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let low = target.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(low[13]),
        u16::from_be_bytes([low[14], low[15]]),
    );
    let mut frame = vec![0; ETHERNET + IPV6 + 32];
    ethernet(&mut frame, source, MacAddr::new(0x33, 0x33, 0xff, low[13], low[14], low[15]), EtherTypes::Ipv6);
    ipv6_header(&mut frame[ETHERNET..], asker, group, 32, IpNextHeaderProtocols::Icmpv6, 255);
    let message = &mut frame[ETHERNET + IPV6..];
    if let Some(mut solicit) = MutableNeighborSolicitPacket::new(message) {
        solicit.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
        solicit.set_target_addr(target);
    }
    if let Some(mut option) = MutableNdpOptionPacket::new(&mut message[24..]) {
        option.set_option_type(NdpOptionTypes::SourceLLAddr);
        option.set_length(1);
        option.set_data(&source.octets());
    }
    let checksum =
        Icmpv6Packet::new(message).map(|packet| icmpv6::checksum(&packet, &asker, &group)).unwrap_or(0);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// A UDP datagram in a frame, with any addresses on both layers.
#[must_use]
pub fn udp_datagram(
    source: MacAddr,
    destination: MacAddr,
    (from, from_port): (IpAddr, u16),
    (to, to_port): (IpAddr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let length = UDP + payload.len();
    let (header, kind) = if from.is_ipv4() { (IPV4, EtherTypes::Ipv4) } else { (IPV6, EtherTypes::Ipv6) };
    let mut frame = vec![0; ETHERNET + header + length];
    ethernet(&mut frame, source, destination, kind);
    if let Some(mut datagram) = MutableUdpPacket::new(&mut frame[ETHERNET + header..]) {
        datagram.set_source(from_port);
        datagram.set_destination(to_port);
        // Lengths in tests are far below 64 KiB.
        datagram.set_length(length as u16);
        datagram.set_payload(payload);
        let sum = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => udp::ipv4_checksum(&datagram.to_immutable(), &from, &to),
            (IpAddr::V6(from), IpAddr::V6(to)) => udp::ipv6_checksum(&datagram.to_immutable(), &from, &to),
            _ => panic!("{from} and {to} are of different families"),
        };
        datagram.set_checksum(sum);
    }
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_header(&mut frame[ETHERNET..], from, to, length),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ipv6_header(&mut frame[ETHERNET..], from, to, length, IpNextHeaderProtocols::Udp, 64);
        }
        _ => {}
    }
    frame
}

fn ipv4_header(packet: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, payload: usize) {
    if let Some(mut header) = MutableIpv4Packet::new(packet) {
        header.set_version(4);
        header.set_header_length(5);
        header.set_total_length((IPV4 + payload) as u16);
        header.set_ttl(64);
        header.set_next_level_protocol(IpNextHeaderProtocols::Udp);
        header.set_source(from);
        header.set_destination(to);
        let sum = ipv4::checksum(&header.to_immutable());
        header.set_checksum(sum);
    }
}

fn ipv6_header(
    packet: &mut [u8],
    from: Ipv6Addr,
    to: Ipv6Addr,
    payload: usize,
    next: pnet::packet::ip::IpNextHeaderProtocol,
    hops: u8,
) {
    if let Some(mut header) = MutableIpv6Packet::new(packet) {
        header.set_version(6);
        header.set_payload_length(payload as u16);
        header.set_next_header(next);
        header.set_hop_limit(hops);
        header.set_source(from);
        header.set_destination(to);
    }
}

/// The MAC addresses of a frame: source, destination.
#[must_use]
pub fn ends(frame: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let packet = EthernetPacket::new(frame)?;
    Some((packet.get_source(), packet.get_destination()))
}

/// What an ARP message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether it is a reply; else a request.
    pub reply: bool,
    /// The sender's IP address.
    pub sender: Ipv4Addr,
    /// The MAC address that the sender claims for it.
    pub sender_mac: MacAddr,
    /// The IP address asked for, or the one told.
    pub target: Ipv4Addr,
}

/// Reads an ARP frame.
#[must_use]
pub fn arp(frame: &[u8]) -> Option<Arp> {
    let outer = EthernetPacket::new(frame)?;
    if outer.get_ethertype() != EtherTypes::Arp {
        return None;
    }
    let arp = ArpPacket::new(outer.payload())?;
    Some(Arp {
        reply: arp.get_operation() == ArpOperations::Reply,
        sender: arp.get_sender_proto_addr(),
        sender_mac: arp.get_sender_hw_addr(),
        target: arp.get_target_proto_addr(),
    })
}

/// If the frame is a neighbour advertisement: who is told, for which address, which link address.
#[must_use]
pub fn neighbour_advert(frame: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr, MacAddr)> {
    let (_, to, message) = icmpv6_message(frame)?;
    if message.first() != Some(&Icmpv6Types::NeighborAdvert.0) {
        return None;
    }
    let advert = NeighborAdvertPacket::new(message)?;
    let link = advert
        .get_options()
        .into_iter()
        .find(|option| option.option_type == NdpOptionTypes::TargetLLAddr && option.data.len() >= 6)?;
    let octets: [u8; 6] = link.data[..6].try_into().ok()?;
    Some((to, advert.get_target_addr(), MacAddr::from(octets)))
}

/// Source and destination address of an IP frame.
#[must_use]
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let outer = EthernetPacket::new(frame)?;
    match outer.get_ethertype() {
        EtherTypes::Ipv4 => {
            let ip = Ipv4Packet::new(outer.payload())?;
            Some((ip.get_source().into(), ip.get_destination().into()))
        }
        EtherTypes::Ipv6 => {
            let ip = Ipv6Packet::new(outer.payload())?;
            Some((ip.get_source().into(), ip.get_destination().into()))
        }
        _ => None,
    }
}

/// The type of an ICMP or ICMPv6 message and its bytes from the type on; the family is told by the
/// addresses.
#[must_use]
pub fn icmp(frame: &[u8]) -> Option<(u8, Vec<u8>)> {
    if let Some((_, _, message)) = icmpv6_message(frame) {
        return Some((*message.first()?, message.to_vec()));
    }
    let outer = EthernetPacket::new(frame)?;
    if outer.get_ethertype() != EtherTypes::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new(outer.payload())?;
    (ip.get_next_level_protocol() == IpNextHeaderProtocols::Icmp && ip.get_fragment_offset() == 0)
        .then(|| ip.payload().to_vec())
        .and_then(|message| Some((*message.first()?, message)))
}

/// A TCP segment's source and destination port, flags and sequence number.
#[must_use]
pub fn tcp(frame: &[u8]) -> Option<(u16, u16, u8, u32)> {
    let outer = EthernetPacket::new(frame)?;
    let segment = match outer.get_ethertype() {
        EtherTypes::Ipv4 => {
            let ip = Ipv4Packet::new(outer.payload())?;
            (ip.get_next_level_protocol() == IpNextHeaderProtocols::Tcp).then(|| ip.payload().to_vec())?
        }
        EtherTypes::Ipv6 => {
            let ip = Ipv6Packet::new(outer.payload())?;
            (ip.get_next_header() == IpNextHeaderProtocols::Tcp).then(|| ip.payload().to_vec())?
        }
        _ => return None,
    };
    let tcp = TcpPacket::new(&segment)?;
    Some((tcp.get_source(), tcp.get_destination(), tcp.get_flags(), tcp.get_sequence()))
}

fn icmpv6_message(frame: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr, &[u8])> {
    let payload = frame.get(ETHERNET..)?;
    let outer = EthernetPacket::new(frame)?;
    if outer.get_ethertype() != EtherTypes::Ipv6 {
        return None;
    }
    let ip = Ipv6Packet::new(payload)?;
    (ip.get_next_header() == IpNextHeaderProtocols::Icmpv6)
        .then(|| (ip.get_source(), ip.get_destination(), &payload[IPV6..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_has_the_right_group_and_checksum() {
        let asker: Ipv6Addr = "2001:db8:0:1::200".parse().unwrap();
        let target: Ipv6Addr = "2001:db8:0:1::53".parse().unwrap();
        let frame = neighbour_solicitation(mac("02:00:00:00:00:c8"), asker, target);
        let (from, to, message) = icmpv6_message(&frame).unwrap();
        assert_eq!((from, to.to_string().as_str()), (asker, "ff02::1:ff00:53"));
        let packet = Icmpv6Packet::new(message).unwrap();
        assert_eq!(icmpv6::checksum(&packet, &from, &to), packet.get_checksum());
        assert_eq!(ends(&frame).unwrap().1.to_string(), "33:33:ff:00:00:53");
    }

    #[test]
    fn a_datagram_reads_back() {
        let from: IpAddr = "198.18.0.1".parse().unwrap();
        let to: IpAddr = "192.0.2.99".parse().unwrap();
        let frame =
            udp_datagram(mac("02:00:00:00:00:01"), mac("02:bf:c0:00:02:35"), (from, 1), (to, 2), b"x");
        assert_eq!(addresses(&frame), Some((from, to)));
        assert_eq!(ends(&frame).unwrap().1, mac("02:bf:c0:00:02:35"));
        assert_eq!(arp(&frame), None);
    }
}
