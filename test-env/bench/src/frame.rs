//! The frames that are fed to the device: one small UDP query or TCP SYN from a client to the VIP.

use std::net::IpAddr;

use crate::bpf::Field;

/// UDP or TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// A query of 40 bytes to port 53.
    Udp,
    /// A SYN to port 80.
    Tcp,
    /// A segment without data of a connection to port 80.
    Ack,
}

/// The port that all frames come from.
pub const CLIENT_PORT: u16 = 0x9c40;

const UDP: u8 = 17;
const TCP: u8 = 6;
const ETHERNET_BYTES: usize = 14;

/// One frame from `client` to `vip`, addressed to `mac`; all checksums are right.
///
/// # Panics
/// Never for two addresses of one family; two families would be a mistake of this program.
#[must_use]
pub fn frame(mac: [u8; 6], client: IpAddr, vip: IpAddr, transport: Transport) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(mac);
    frame.extend([0x02, 0, 0, 0, 0, 0x99]);
    let segment = segment(client, vip, transport);
    let protocol = if transport == Transport::Udp { UDP } else { TCP };
    match (client, vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            frame.extend([0x08, 0x00]);
            let length = (20 + segment.len()) as u16;
            let mut header = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header.extend(client.octets());
            header.extend(vip.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((segment.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(client.octets());
            frame.extend(vip.octets());
        }
        _ => unreachable!("client {client} and VIP {vip} are of two families"),
    }
    frame.extend(segment);
    frame
}

/// Where a frame differs from client to client, for [`crate::bpf::Program::mixed`].
#[must_use]
pub fn client_fields(vip: IpAddr, transport: Transport) -> Vec<Field> {
    let mut fields = Vec::new();
    let segment = match vip {
        IpAddr::V4(_) => {
            fields.push(Field { offset: ETHERNET_BYTES + 12, len: 4 });
            fields.push(Field { offset: ETHERNET_BYTES + 10, len: 2 });
            ETHERNET_BYTES + 20
        }
        IpAddr::V6(_) => {
            // Clients differ in the second four bytes of their address only.
            fields.push(Field { offset: ETHERNET_BYTES + 8 + 4, len: 4 });
            ETHERNET_BYTES + 40
        }
    };
    fields.push(Field { offset: segment + if transport == Transport::Udp { 6 } else { 16 }, len: 2 });
    fields
}

/// The bytes of `frame` at `fields`, one behind the other.
#[must_use]
pub fn row(frame: &[u8], fields: &[Field]) -> Vec<u8> {
    fields.iter().flat_map(|field| &frame[field.offset..field.offset + field.len]).copied().collect()
}

fn segment(client: IpAddr, vip: IpAddr, transport: Transport) -> Vec<u8> {
    let (mut bytes, sum_at, protocol) = match transport {
        Transport::Udp => {
            let mut bytes = vec![0x9c, 0x40, 0, 53, 0, 48, 0, 0];
            bytes.extend([0x11; 40]);
            (bytes, 6, UDP)
        }
        Transport::Tcp | Transport::Ack => {
            let flags = if transport == Transport::Tcp { 0x02 } else { 0x10 };
            let mut bytes =
                vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, flags, 0xff, 0xff, 0, 0, 0, 0];
            bytes.extend([2, 4, 5, 0xb4]);
            (bytes, 16, TCP)
        }
    };
    let mut pseudo = Vec::new();
    for address in [client, vip] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend([0, protocol]);
    pseudo.extend((bytes.len() as u16).to_be_bytes());
    pseudo.extend(&bytes);
    let sum = checksum(&pseudo);
    bytes[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 1071 over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum itself on the example of RFC 1071, 3; and with the right sum in it, everything adds up to
    /// nothing.
    #[test]
    fn checksums_are_right() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        let pairs = [("10.0.0.1", "192.0.2.53"), ("2001:db9::1", "2001:db8::53")];
        for (client, vip) in pairs.map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())) {
            for (transport, protocol) in [(Transport::Udp, 17), (Transport::Tcp, 6)] {
                let frame = frame([0; 6], client, vip, transport);
                let (header, addresses) = if vip.is_ipv4() { (20, 12) } else { (40, 8) };
                let (ip, segment) = frame[ETHERNET_BYTES..].split_at(header);
                if vip.is_ipv4() {
                    assert_eq!(checksum(ip), 0);
                }
                let pseudo = [&ip[addresses..], &[0, protocol, 0, segment.len() as u8], segment].concat();
                assert_eq!(checksum(&pseudo), 0, "{client} {transport:?}");
            }
        }
    }

    #[test]
    fn a_row_makes_one_clients_frame_into_anothers() {
        let (vip, transport) = ("192.0.2.53".parse().unwrap(), Transport::Tcp);
        let [mut one, other] =
            ["10.0.0.1", "10.99.3.7"].map(|client| frame([0; 6], client.parse().unwrap(), vip, transport));
        let fields = client_fields(vip, transport);
        let mut bytes = row(&other, &fields).into_iter();
        for field in &fields {
            one[field.offset..]
                .iter_mut()
                .zip(bytes.by_ref().take(field.len))
                .for_each(|(to, from)| *to = from);
        }
        assert_eq!(one, other);
    }
}
