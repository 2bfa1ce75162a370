//! The TCP connections that conntrack knows, as the kernel dumps them (linux/netfilter/nfnetlink_conntrack.h).
//!
//! Only reading, and only TCP: who wants to know waits until a slice has no connections here any more. The
//! request itself makes the kernel load conntrack, so it is not for clusters whose connections nobody follows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nftnl::nftnl_sys::libc;

use super::{Error, error::Object, socket::Socket};

/// A TCP connection from a client to a shared address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// The shared address.
    pub vip: IpAddr,
    /// The port of the service.
    pub port: u16,
    /// How far the connection is, as conntrack sees it.
    pub state: TcpState,
    /// Whether this host has answered.
    pub replied: bool,
    /// Since when conntrack has known it; `None` if it does not keep the time
    /// (`net.netfilter.nf_conntrack_timestamp`).
    pub age: Option<Duration>,
}

impl Connection {
    /// Whether both ends may still go on with it. What was never answered is none yet, and what is closed or
    /// only waits for stragglers is none any more.
    pub fn is_live(&self) -> bool {
        self.replied && !matches!(self.state, TcpState::TimeWait | TcpState::Close)
    }
}

/// States of a TCP connection in conntrack (linux/netfilter/nf_conntrack_tcp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TcpState {
    None,
    SynSent,
    SynRecv,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Close,
    /// Both ends have sent a SYN.
    SynSent2,
    /// A number that this program does not know.
    Unknown(u8),
}

impl From<u8> for TcpState {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            other => Self::Unknown(other),
        }
    }
}

/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET.
const GET: u16 = 1 << 8 | 1;

/// Attributes of a conntrack entry.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMESTAMP: u16 = 20;
/// Attributes within these.
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_TIMESTAMP_START: u16 = 1;
/// IPS_SEEN_REPLY of linux/netfilter/nf_conntrack_common.h.
const SEEN_REPLY: u32 = 1 << 1;

const IPPROTO_TCP: u8 = 6;

/// struct nfgenmsg, before the attributes: family, version, resource.
const NFGENMSG: usize = 4;

/// Asks the kernel for all connections to these addresses.
pub(super) fn connections(socket: &mut Socket, vips: &[IpAddr]) -> Result<Vec<Connection>, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut found = Vec::new();
    // Both families.
    let nfgenmsg = [libc::AF_UNSPEC as u8, 0, 0, 0];
    socket.dump("list the connections", Object::Conntrack, GET, &nfgenmsg, &mut |payload| {
        let entry = payload.get(NFGENMSG..).and_then(|attributes| connection(attributes, now));
        found.extend(entry.filter(|c| vips.contains(&c.vip)));
    })?;
    Ok(found)
}

/// The TCP connection that an entry is about, if it is about one.
fn connection(attributes: &[u8], now: Duration) -> Option<Connection> {
    let original = attribute(attributes, CTA_TUPLE_ORIG)?;
    let protocol = attribute(original, CTA_TUPLE_PROTO)?;
    if attribute(protocol, CTA_PROTO_NUM)? != [IPPROTO_TCP] {
        return None;
    }
    let addresses = attribute(original, CTA_TUPLE_IP)?;
    let address = |v4, v6| -> Option<IpAddr> {
        match attribute(addresses, v4) {
            Some(bytes) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
            None => Some(Ipv6Addr::from(<[u8; 16]>::try_from(attribute(addresses, v6)?).ok()?).into()),
        }
    };
    let port =
        |kind| -> Option<u16> { Some(u16::from_be_bytes(attribute(protocol, kind)?.try_into().ok()?)) };
    let tcp = attribute(attributes, CTA_PROTOINFO).and_then(|info| attribute(info, CTA_PROTOINFO_TCP));
    let state = tcp.and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE)?.first().copied());
    let status = attribute(attributes, CTA_STATUS)?;
    let started = attribute(attributes, CTA_TIMESTAMP).and_then(|t| attribute(t, CTA_TIMESTAMP_START));
    let started = started.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
    Some(Connection {
        client: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        client_port: port(CTA_PROTO_SRC_PORT)?,
        vip: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        port: port(CTA_PROTO_DST_PORT)?,
        state: state.map_or(TcpState::None, TcpState::from),
        replied: u32::from_be_bytes(status.try_into().ok()?) & SEEN_REPLY != 0,
        // A clock that was set back in between makes nothing older than now.
        age: started.map(|ns| now.saturating_sub(Duration::from_nanos(ns))),
    })
}

/// The first attribute of that type: a list of (length with these four bytes, type, value), each filled up
/// to a multiple of four.
fn attribute(mut list: &[u8], kind: u16) -> Option<&[u8]> {
    const HEADER: usize = 4;
    // NLA_F_NESTED and NLA_F_NET_BYTEORDER stand in the same field.
    const TYPE: u16 = 0x3fff;
    loop {
        let (head, _) = list.split_first_chunk::<HEADER>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = list.get(HEADER..len)?;
        if u16::from_ne_bytes([head[2], head[3]]) & TYPE == kind {
            return Some(value);
        }
        list = list.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    // As Linux 6.18 sent them, without the header.
    const ESTABLISHED4: &str = "340001801400018008000100c000026508000200c00002351c0002800500010006000000060002009747000006000300 \
         00070000340002801400018008000100c000023508000200c00002651c00028005000100060000000600020000070000 \
         0600030097470000080003000000000e080008000000000008000c00114bdafe08000b0000000001080007000006977f \
         300004802c0001800500010003000000050002000a000000050003000a00000006000400230000000600050023000000 \
         100014800c00010018e9bcbdd4603c55";
    const TIME_WAIT6: &str = "4c0001802c0001801400030020010db80000000000000000000100011400040020010db8000000000000000000000053 \
         1c000280050001000600000006000200df0d000006000300000700004c0002802c0001801400030020010db800000000 \
         00000000000000531400040020010db80000000000000000000100011c00028005000100060000000600020000070000 \
         06000300df0d0000080003000000000e080008000000000008000c007d08995908000b00000000010800070000000077 \
         300004802c0001800500010007000000050002000a000000050003000a00000006000400270000000600050023000000 \
         100014800c00010018e9bcbdd465e1c5";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    /// When the first of them began, and a minute later.
    const START: Duration = Duration::from_nanos(0x18e9_bcbd_d460_3c55);
    const NOW: Duration = Duration::from_secs(START.as_secs() + 60);

    #[test]
    fn recorded_entries_are_read() {
        let established = Connection {
            client: "192.0.2.101".parse().unwrap(),
            client_port: 38727,
            vip: "192.0.2.53".parse().unwrap(),
            port: 7,
            state: TcpState::Established,
            replied: true,
            age: Some(NOW - START),
        };
        assert!(established.is_live());
        assert_eq!(connection(&bytes(ESTABLISHED4), NOW), Some(established));
        let waiting = connection(&bytes(TIME_WAIT6), NOW).unwrap();
        assert_eq!((waiting.client, waiting.client_port), ("2001:db8::1:1".parse().unwrap(), 57101));
        assert_eq!((waiting.vip, waiting.port), ("2001:db8::53".parse().unwrap(), 7));
        assert_eq!(waiting.state, TcpState::TimeWait);
        assert!(!waiting.is_live());
    }

    #[test]
    fn age_needs_a_clock_that_was_kept_and_not_set_back() {
        let entry = bytes(ESTABLISHED4);
        assert_eq!(connection(&entry, START / 2).unwrap().age, Some(Duration::ZERO));
        // Without the last attribute, the time stamp.
        assert_eq!(connection(&entry[..entry.len() - 16], NOW).unwrap().age, None);
    }

    #[test]
    fn what_was_never_answered_is_no_connection() {
        let mut entry = bytes(ESTABLISHED4);
        // Behind two tuples and a header, the last of four bytes.
        let status = 2 * 52 + 4 + 3;
        assert_eq!(entry[status], 14);
        entry[status] &= !(SEEN_REPLY as u8);
        assert!(!connection(&entry, NOW).unwrap().is_live());
    }

    #[test]
    fn entries_of_other_protocols_and_pieces_of_entries_are_not_misread() {
        let entry = bytes(ESTABLISHED4);
        let mut udp = entry.clone();
        let protocol = 4 + 20 + 4 + 4;
        assert_eq!(udp[protocol], 6);
        udp[protocol] = 17;
        assert_eq!(connection(&udp, NOW), None);
        for cut in 0..entry.len() {
            let _ = connection(&entry[..cut], NOW);
        }
        for n in 0..entry.len() {
            let mut wrong = entry.clone();
            wrong[n] = 0;
            let _ = connection(&wrong, NOW);
        }
    }

    #[test]
    fn live_is_what_may_go_on() {
        let entry = bytes(ESTABLISHED4);
        let state = entry.len() - 16 - 40 + 4;
        let live: Vec<u8> = (0..10)
            .filter(|number| {
                let mut entry = entry.clone();
                entry[state] = *number;
                let connection = connection(&entry, NOW).unwrap();
                assert_eq!(connection.state, TcpState::from(*number));
                connection.is_live()
            })
            .collect();
        assert_eq!(live, [0, 1, 2, 3, 4, 5, 6, 9]);
    }
}
