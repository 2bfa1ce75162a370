//! The kernel settings that the shared address needs, as a table: path, value, reason. The agent reads,
//! compares, writes, and restores.
//!
//! Only what has a reason is here. What was left out on purpose, and why, is in docs/ruleset.md.

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Path below /proc/sys, with slashes: device names may contain dots.
    pub path: String,
    /// What to write if what is there is not accepted.
    pub value: u32,
    /// What may stay as it is, `value` among it: someone may have chosen to be stricter.
    pub accepted: &'static [u32],
    /// The same setting for all devices, where the kernel acts on the larger of the two.
    pub combined_with: Option<String>,
    /// Whether the kernel may lack it, which is no error.
    pub optional: bool,
    /// Why.
    pub reason: &'static str,
}

impl Sysctl {
    /// Whether the kernel acts as wanted, from the value of the setting and, where there is one, of
    /// [`combined_with`](Self::combined_with).
    ///
    /// If it does not although `own` is the wanted value, the setting for all devices is in the way, and
    /// that one is not the agent's to change.
    pub fn is_met(&self, own: u32, all: Option<u32>) -> bool {
        self.accepted.contains(&own.max(all.unwrap_or(0)))
    }
}

/// The settings for a service device and the macvlan device on it that holds the shared addresses, in the
/// order in which they are to be made.
///
/// `tracked` says whether connections of any service are followed.
pub fn wanted(device: &str, shared_device: &str, has_v4: bool, has_v6: bool, tracked: bool) -> Vec<Sysctl> {
    let mut table = Vec::new();
    if tracked {
        table.push(Sysctl {
            path: "net/netfilter/nf_conntrack_timestamp".into(),
            value: 1,
            accepted: &[1],
            combined_with: None,
            // It appears with conntrack, which the rules bring.
            optional: true,
            reason: "an operator who waits for connections to end is told how old they are",
        });
    }
    if has_v4 {
        table.push(combined(
            V4,
            device,
            "arp_ignore",
            1,
            // Not 3: it answers for addresses of other devices unless they have scope host.
            &[1, 2, 8],
            "the service device must not answer for a shared address with its own MAC: answer only for \
             addresses of the device that was asked",
        ));
        table.push(Sysctl {
            combined_with: None,
            // For all devices: replies may leave by any, also by one that comes later.
            ..combined(
                V4,
                "all",
                "arp_announce",
                2,
                &[2],
                "a reply from a shared address must not make any device ask for its router in the shared \
                 address's name: the router would learn that device's MAC for it, or, since the rules drop such \
                 questions, there would be no answer",
            )
        });
    }
    // Also without an IPv4 VIP: these keep the device from speaking for the host's own addresses.
    table.push(combined(
        V4,
        shared_device,
        "arp_ignore",
        1,
        // Not 2: a /32 has no neighbours in its subnet, so nobody would be answered.
        &[1],
        "the shared device sees every broadcast too: it must not answer for the host's own addresses with \
         the shared MAC",
    ));
    table.push(combined(
        V4,
        shared_device,
        "arp_filter",
        0,
        &[0],
        "replies leave by the service device, so with the filter the shared device would answer nobody",
    ));
    table.push(combined(
        V4,
        shared_device,
        "proxy_arp",
        0,
        &[0],
        "on a host that is an ARP proxy the shared device would answer for everybody, with the shared MAC",
    ));
    table.push(Sysctl {
        // The kernel asks only the device that a packet came in by.
        combined_with: None,
        ..combined(
            V4,
            shared_device,
            "forwarding",
            0,
            &[0],
            "should the rules be gone (nft flush ruleset), hosts that are routers must still not forward \
             what was flooded to all of them",
        )
    });
    if has_v4 {
        table.push(combined(
            V4,
            shared_device,
            "rp_filter",
            2,
            &[2],
            "questions come in by the shared device, and the routes back are by the service device: after the \
             strict check no ARP request would be answered; 2 overrides a strict setting for all devices",
        ));
    }
    if !has_v6 {
        table.push(single(
            shared_device,
            "disable_ipv6",
            1,
            "without a shared IPv6 address the device has nothing to say in IPv6: no link-local address, no \
             multicast listener reports",
        ));
        return table;
    }
    let v6 = [
        ("disable_ipv6", 0, "where new devices start without IPv6, the shared address could not be set"),
        (
            "addr_gen_mode",
            1,
            "all hosts have the same MAC, so all would make the same link-local address and find each other \
             out as duplicates",
        ),
        (
            "accept_ra",
            0,
            "the same for addresses from router advertisements; and a route by this device is never right",
        ),
        ("accept_dad", 0, "all hosts hold the same addresses on purpose: no duplicate is to be detected"),
        (
            "dad_transmits",
            0,
            "the same where conf/all/accept_dad demands detection: with no probes to send it ends at once",
        ),
        (
            "forwarding",
            0,
            "advertisements for a shared address must not call it a router on some hosts and not on others",
        ),
    ];
    for (name, value, reason) in v6 {
        table.push(single(shared_device, name, value, reason));
    }
    table
}

const V4: &str = "ipv4";
const V6: &str = "ipv6";

fn path(family: &str, device: &str, name: &str) -> String {
    format!("net/{family}/conf/{device}/{name}")
}

/// A setting that the kernel combines with the one for all devices by taking the larger (for switches: by
/// "or", which is the same).
fn combined(
    family: &str,
    device: &str,
    name: &str,
    value: u32,
    accepted: &'static [u32],
    reason: &'static str,
) -> Sysctl {
    Sysctl {
        path: path(family, device, name),
        value,
        accepted,
        combined_with: Some(path(family, "all", name)),
        optional: false,
        reason,
    }
}

/// An IPv6 setting that stands alone and must be exactly this.
fn single(device: &str, name: &str, value: u32, reason: &'static str) -> Sysctl {
    Sysctl {
        path: path(V6, device, name),
        value,
        accepted: if value == 0 { &[0] } else { &[1] },
        combined_with: None,
        optional: false,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(table: &[Sysctl], path: &str) -> Sysctl {
        table.iter().find(|s| s.path == path).unwrap_or_else(|| panic!("no {path}")).clone()
    }

    #[test]
    fn every_value_is_accepted_and_every_path_is_there_once() {
        for (v4, v6, tracked) in [(true, true, true), (true, false, false), (false, true, true)] {
            let table = wanted("eth0.7", "onemac0", v4, v6, tracked);
            for (n, setting) in table.iter().enumerate() {
                assert!(setting.is_met(setting.value, Some(0)), "{setting:?}");
                assert!(!setting.reason.contains("  "), "{setting:?}");
                assert!(table[n + 1..].iter().all(|s| s.path != setting.path), "{setting:?} twice");
            }
        }
    }

    #[test]
    fn a_stricter_choice_stays_and_a_laxer_one_does_not() {
        let table = wanted("eth0", "onemac0", true, true, false);
        let ignore = find(&table, "net/ipv4/conf/eth0/arp_ignore");
        assert!(ignore.is_met(2, None) && ignore.is_met(8, None) && ignore.is_met(0, Some(1)));
        assert!(!ignore.is_met(0, Some(0)));
        assert!(!ignore.is_met(1, Some(3)), "3 for all devices answers for every device's addresses");
        let filter = find(&table, "net/ipv4/conf/onemac0/rp_filter");
        assert!(filter.is_met(2, Some(1)) && !filter.is_met(0, Some(1)) && !filter.is_met(1, Some(0)));
    }

    #[test]
    fn without_ipv6_it_is_switched_off() {
        let table = wanted("eth0", "onemac0", true, false, false);
        let v6: Vec<&str> =
            table.iter().map(|s| s.path.as_str()).filter(|p| p.starts_with("net/ipv6")).collect();
        assert_eq!(v6, ["net/ipv6/conf/onemac0/disable_ipv6"]);
    }

    #[test]
    fn without_ipv4_the_service_device_is_left_alone() {
        let table = wanted("eth0", "onemac0", false, true, false);
        assert!(table.iter().all(|s| !s.path.contains("/eth0/")), "{table:#?}");
        find(&table, "net/ipv4/conf/onemac0/arp_ignore");
    }
}
