//! MAC addresses, and the one that `mac: auto` stands for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::words::Link;

/// A 48-bit MAC address, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

/// A text that is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address; expected six pairs of hex digits such as `02:bf:c0:00:02:35`")]
pub struct MacParseError(String);

impl MacAddr {
    /// An address from its six octets.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six octets in the order of the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether the group bit is set (broadcast included).
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether the address is locally administered, that is, not a manufacturer's.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }

    /// The address that `mac: auto` stands for, as Windows NLB builds it: `02:bf` (unicast) or `03:bf`
    /// (multicast) and the four octets of the first IPv4 VIP, or `01:00:5e:7f` (igmp) and its last two.
    /// A cluster without an IPv4 VIP uses the last four octets of its first IPv6 VIP in the same places.
    ///
    /// `None` only for an empty list.
    #[must_use]
    pub fn auto(link: Link, vips: &[IpAddr]) -> Option<Self> {
        let first = vips.iter().find(|vip| vip.is_ipv4()).or(vips.first())?;
        let [a, b, c, d] = match first {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                [a, b, c, d]
            }
        };
        Some(Self(match link {
            Link::Unicast => [0x02, 0xbf, a, b, c, d],
            Link::Multicast => [0x03, 0xbf, a, b, c, d],
            Link::Igmp => [0x01, 0x00, 0x5e, 0x7f, c, d],
        }))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = MacParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || MacParseError(text.to_owned());
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or_else(refuse)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        pairs.next().is_none().then_some(Self(octets)).ok_or_else(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_follows_the_first_v4_vip_wherever_it_stands() {
        let vips = ["2001:db8::a1b2:c3d4".parse().unwrap(), "192.0.2.53".parse().unwrap()];
        let auto = |link| MacAddr::auto(link, &vips).unwrap().to_string();
        assert_eq!(auto(Link::Unicast), "02:bf:c0:00:02:35");
        assert_eq!(auto(Link::Multicast), "03:bf:c0:00:02:35");
        assert_eq!(auto(Link::Igmp), "01:00:5e:7f:02:35");
    }

    #[test]
    fn auto_of_a_v6_only_cluster_uses_the_last_four_octets() {
        let vips = ["2001:db8::a1b2:c3d4".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let auto = |link| MacAddr::auto(link, &vips).unwrap().to_string();
        assert_eq!(auto(Link::Unicast), "02:bf:a1:b2:c3:d4");
        assert_eq!(auto(Link::Igmp), "01:00:5e:7f:c3:d4");
        assert_eq!(MacAddr::auto(Link::Unicast, &[]), None);
    }

    #[test]
    fn only_six_colon_separated_pairs_are_a_mac() {
        assert_eq!("02:BF:c0:00:02:35".parse::<MacAddr>().unwrap().to_string(), "02:bf:c0:00:02:35");
        for wrong in
            ["", "02", "02:bf:c0:00:02", "02:bf:c0:00:02:35:01", "2:bf:c0:00:02:35", "+2:bf:c0:00:02:35"]
        {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong}");
        }
    }
}
