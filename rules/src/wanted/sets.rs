//! The named sets and maps of the netdev table.

use std::time::Duration;

use super::{
    CAME_EARLY, CAME_FLOODED, CAME_RELAYED, ICMP_ERRORS, ND_ANNOUNCING, Plan, Service, TARGETS6, VIPS4,
    VIPS4_RAW, VIPS6,
    look::{IP4_DADDR, ND_TARGET},
};
use crate::model::*;

/// How many packets are remembered at once while a slice is taken over. What is beyond that is not.
const COPIES: u32 = 65_536;
/// For how long packets are remembered that came by themselves: the relayed copy comes some microseconds
/// later, from a busy host some milliseconds.
const FLOODED_FOR: Duration = Duration::from_secs(1);
/// For how long packets are remembered that came relayed. Hardly ever is the relayed copy first; and another
/// packet with the same fingerprint is taken for a copy, which does no harm as long as it is relayed too.
///
/// So the former owner should go on relaying for this long after the new one has begun to take.
pub const RELAYED_FOR: Duration = Duration::from_millis(100);

impl Plan<'_> {
    pub(super) fn sets(&self) -> Vec<Set> {
        let mut sets = Vec::new();
        if !self.vips4.is_empty() {
            let vips = self.vips4.iter().map(|a| Key::Ipv4(*a)).collect();
            sets.push(fixed(
                VIPS4,
                KeyType::Ipv4,
                vips,
                "shared IPv4 addresses",
                "The shared IPv4 addresses.",
            ));
            let raw = self.vips4.iter().map(|a| Key::Raw(a.octets().to_vec())).collect();
            let why = "The same as raw bytes, for the first look.";
            sets.push(fixed(VIPS4_RAW, KeyType::Raw(IP4_DADDR), raw, "vips4 as raw bytes", why));
            let errors = vec![
                Key::Named(3, "destination-unreachable"),
                Key::Named(11, "time-exceeded"),
                Key::Named(12, "parameter-problem"),
            ];
            let why = "ICMP messages that quote the packet they are about.";
            sets.push(fixed(ICMP_ERRORS, KeyType::IcmpType, errors, "these quote a packet", why));
        }
        if !self.vips6.is_empty() {
            let vips = self.vips6.iter().map(|a| Key::Ipv6(*a)).collect();
            sets.push(fixed(
                VIPS6,
                KeyType::Ipv6,
                vips,
                "shared IPv6 addresses",
                "The shared IPv6 addresses.",
            ));
            let targets = self.vips6.iter().map(|a| Key::Raw(a.octets().to_vec())).collect();
            let why = "The same as raw bytes: nft 1.0.6 has no name for the target of a solicitation.";
            sets.push(fixed(TARGETS6, KeyType::Raw(ND_TARGET), targets, "vips6 as raw bytes", why));
            let announcing =
                vec![Key::Named(135, "nd-neighbor-solicit"), Key::Named(136, "nd-neighbor-advert")];
            let why = "Neighbour discovery messages that tell others a link-layer address.";
            sets.push(fixed(
                ND_ANNOUNCING,
                KeyType::Icmpv6Type,
                announcing,
                "these announce a MAC address",
                why,
            ));
        }
        sets.extend(self.port_maps());
        for service in self.all() {
            sets.extend(self.slices(service));
        }
        for (name, time, comment, why) in [
            (
                CAME_EARLY,
                RELAYED_FOR,
                "packets that came by themselves before their slice was taken",
                "Fingerprints of packets that came by themselves, before their slice is taken over.",
            ),
            (
                CAME_FLOODED,
                FLOODED_FOR,
                "packets that came by themselves",
                "Fingerprints of packets that came by themselves, while their slice is taken over.",
            ),
            (
                CAME_RELAYED,
                RELAYED_FOR,
                "packets that came relayed",
                "Fingerprints of packets that another host has relayed.",
            ),
        ] {
            sets.push(Set {
                name: name.into(),
                key: KeyType::Mark,
                size: Some(COPIES),
                timeout: Timeout::All(time),
                data: None,
                filled: Filled::ByPackets,
                comment: comment.into(),
                why: why.into(),
                elements: Vec::new(),
            });
        }
        sets.extend(self.elsewhere());
        sets.push(self.lease());
        sets
    }

    /// The maps of one service.
    fn slices(&self, service: &Service) -> [Set; 2] {
        let all = 0..self.wanted.slices;
        let map = |name, data, comment: &str, why: &str, elements| Set {
            name,
            key: KeyType::Slice { of: self.wanted.slices },
            size: Some(self.wanted.slices),
            timeout: Timeout::Never,
            data: Some(data),
            filled: Filled::ByCommits,
            comment: comment.into(),
            why: why.into(),
            elements,
        };
        [
            map(
                service.slices_map(),
                DataType::Verdict,
                "slices of the client space: goto leased is ours, drop is another host's, the rest is on the move",
                "What becomes of each slice's packets. Complete: what is not in it is dropped, and counted.",
                all.clone().map(|n| service.slice_element(n)).collect(),
            ),
            map(
                service.relays_map(),
                DataType::Mac,
                "slices that are relayed: the host that takes them over",
                "Of slices that are just being handed over: the MAC address of the host that takes them.",
                all.filter_map(|n| service.relay_element(n)).collect(),
            ),
        ]
    }
}

/// A set that stays as it is made.
pub(super) fn fixed(name: &str, key: KeyType, keys: Vec<Key>, comment: &str, why: &str) -> Set {
    Set {
        name: name.into(),
        key,
        size: Some(room_for(keys.len())),
        timeout: Timeout::Never,
        data: None,
        filled: Filled::ByCommits,
        comment: comment.into(),
        why: why.into(),
        elements: keys.into_iter().map(|key| Element { key, timeout: None, data: None }).collect(),
    }
}

/// Room to spare: the kernel makes its buckets by the declared size, and fuller ones mean longer look-ups.
pub(super) fn room_for(elements: usize) -> u32 {
    (2 * elements).next_power_of_two().max(64) as u32
}
