//! Does somebody who is not of this cluster hold a shared address on the wire?
//!
//! Asked once, before anything is made: ARP probes for IPv4 (RFC 5227: no sender address, so nobody's
//! cache is touched) and solicitations from the unspecified address for IPv6 (RFC 4862). Hosts of the
//! cluster answer with the cluster MAC; any other MAC in an answer is a stranger.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use onemac_rules::{MacAddr, Wanted};
use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::icmpv6::ndp::{MutableNeighborSolicitPacket, NdpOptionTypes, NeighborAdvertPacket};
use pnet::packet::icmpv6::{self, Icmpv6Packet, Icmpv6Types};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::util::MacAddr as PnetMac;

use super::packet::PacketSocket;
use crate::failure::{Failure, Result};

/// Probes, and how long answers to each are waited for. An answer takes a fraction of a millisecond on a
/// wire; one probe may be lost.
const PROBES: u32 = 2;
const WAIT: Duration = Duration::from_millis(150);

const ETHERNET: usize = 14;
const ARP: usize = 28;
const IPV6: usize = 40;
const SOLICITATION: usize = 24;

/// Fails if a stranger answers for one of the shared addresses.
pub async fn refuse_strangers(wanted: &Wanted) -> Result<()> {
    let asked = wanted.clone();
    let strangers = tokio::task::spawn_blocking(move || ask(&asked)).await;
    let strangers = strangers.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| {
        Failure::failed(format_args!(
            "cannot ask on {} who holds the shared addresses: {e}; this needs root, or CAP_NET_ADMIN and \
             CAP_NET_RAW",
            wanted.device
        ))
    })?;
    let Some((vip, mac)) = strangers.first_key_value() else { return Ok(()) };
    Err(Failure::failed(format_args!(
        "the shared address {vip} is already used by {mac} on {}: a machine outside the cluster, or a host \
         with another `mac`; free the address first (ours would be {})",
        wanted.device, wanted.cluster_mac
    )))
}

/// Blocks for as long as the probes take.
fn ask(wanted: &Wanted) -> io::Result<BTreeMap<IpAddr, MacAddr>> {
    let index = if_nametoindex(wanted.device.as_str())?;
    // All protocols: answers to a question about both families come in by one socket.
    let socket = PacketSocket::open(index, nix::libc::ETH_P_ALL as u16)?;
    let mut strangers = BTreeMap::new();
    for _ in 0..PROBES {
        for vip in &wanted.vips {
            let frame = match vip {
                IpAddr::V4(vip) => arp_probe(wanted.device_mac, *vip),
                IpAddr::V6(vip) => solicitation(wanted.device_mac, *vip),
            };
            socket.send(&frame.unwrap_or_default())?;
        }
        listen(&socket, wanted, &mut strangers)?;
    }
    Ok(strangers)
}

fn listen(
    socket: &PacketSocket,
    wanted: &Wanted,
    strangers: &mut BTreeMap<IpAddr, MacAddr>,
) -> io::Result<()> {
    let until = Instant::now() + WAIT;
    let mut buffer = vec![0u8; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let Some(len) = socket.receive(&mut buffer, left)? else { continue };
        let answer = answer(&buffer[..len]);
        if let Some((vip, mac)) = answer.filter(|(v, m)| wanted.vips.contains(v) && *m != wanted.cluster_mac)
        {
            strangers.insert(vip, mac);
        }
    }
}

fn ethernet(
    frame: &mut [u8],
    from: MacAddr,
    to: [u8; 6],
    kind: pnet::packet::ethernet::EtherType,
) -> Option<()> {
    let mut packet = MutableEthernetPacket::new(frame)?;
    packet.set_source(PnetMac::from(from.0));
    packet.set_destination(PnetMac::from(to));
    packet.set_ethertype(kind);
    Some(())
}

fn arp_probe(from: MacAddr, vip: Ipv4Addr) -> Option<Vec<u8>> {
    let mut frame = vec![0; ETHERNET + ARP];
    ethernet(&mut frame, from, [0xff; 6], EtherTypes::Arp)?;
    let mut arp = MutableArpPacket::new(&mut frame[ETHERNET..])?;
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(PnetMac::from(from.0));
    arp.set_target_proto_addr(vip);
    Some(frame)
}

fn solicitation(from: MacAddr, vip: Ipv6Addr) -> Option<Vec<u8>> {
    let mut frame = vec![0; ETHERNET + IPV6 + SOLICITATION];
    let [.., a, b, c] = vip.octets();
    // Solicited-node multicast (RFC 4291, 2.7.1) and its Ethernet address (RFC 2464, 7).
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    ethernet(&mut frame, from, [0x33, 0x33, 0xff, a, b, c], EtherTypes::Ipv6)?;
    let (ip, icmp) = frame[ETHERNET..].split_at_mut(IPV6);
    let mut ip = MutableIpv6Packet::new(ip)?;
    ip.set_version(6);
    ip.set_payload_length(SOLICITATION as u16);
    ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
    ip.set_hop_limit(255);
    ip.set_destination(group);
    let mut ask = MutableNeighborSolicitPacket::new(icmp)?;
    ask.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
    ask.set_target_addr(vip);
    let sum = icmpv6::checksum(&Icmpv6Packet::new(ask.packet())?, &Ipv6Addr::UNSPECIFIED, &group);
    ask.set_checksum(sum);
    Some(frame)
}

/// Whose address a frame announces, and with which MAC.
fn answer(frame: &[u8]) -> Option<(IpAddr, MacAddr)> {
    let ethernet = EthernetPacket::new(frame)?;
    if ethernet.get_ethertype() == EtherTypes::Arp {
        let arp = ArpPacket::new(ethernet.payload())?;
        let mac = MacAddr(arp.get_sender_hw_addr().octets());
        return Some((arp.get_sender_proto_addr().into(), mac));
    }
    let ip = Ipv6Packet::new(ethernet.payload()).filter(|_| ethernet.get_ethertype() == EtherTypes::Ipv6)?;
    let icmp =
        Icmpv6Packet::new(ip.payload()).filter(|_| ip.get_next_header() == IpNextHeaderProtocols::Icmpv6)?;
    if icmp.get_icmpv6_type() != Icmpv6Types::NeighborAdvert {
        return None;
    }
    let advert = NeighborAdvertPacket::new(ip.payload())?;
    let option = advert.get_options().into_iter().find(|o| o.option_type == NdpOptionTypes::TargetLLAddr);
    let mac = match option.and_then(|o| <[u8; 6]>::try_from(o.data.get(..6)?).ok()) {
        Some(mac) => mac,
        None => ethernet.get_source().octets(),
    };
    Some((advert.get_target_addr().into(), MacAddr(mac)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_probe_asks_without_a_sender_address() {
        let frame = arp_probe(MINE, Ipv4Addr::new(192, 0, 2, 53)).unwrap();
        let arp = ArpPacket::new(&frame[ETHERNET..]).unwrap();
        assert_eq!(arp.get_sender_proto_addr(), Ipv4Addr::UNSPECIFIED);
        assert_eq!(arp.get_target_proto_addr(), Ipv4Addr::new(192, 0, 2, 53));
        assert_eq!(frame[..6], [0xff; 6]);
    }

    #[test]
    fn a_solicitation_goes_to_the_solicited_node_group() {
        let vip: Ipv6Addr = "2001:db8::53".parse().unwrap();
        let frame = solicitation(MINE, vip).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 0, 0x53]);
        assert_eq!(frame.len(), 78);
        assert_eq!(answer(&frame), None, "a question is no answer");
    }

    #[test]
    fn answers_are_read() {
        let mut frame = arp_probe(MINE, Ipv4Addr::new(192, 0, 2, 9)).unwrap();
        let mut arp = MutableArpPacket::new(&mut frame[ETHERNET..]).unwrap();
        arp.set_operation(ArpOperations::Reply);
        arp.set_sender_proto_addr(Ipv4Addr::new(192, 0, 2, 53));
        assert_eq!(answer(&frame), Some((Ipv4Addr::new(192, 0, 2, 53).into(), MINE)));
        for cut in 0..frame.len() {
            let _ = answer(&frame[..cut]);
        }
    }
}
