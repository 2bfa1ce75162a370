//! Packets and questions for the shared addresses that come by other devices than the service device: nobody has
//! judged them there, so they are dropped.

use super::{
    ND_SOLICIT, Plan, TABLE, VIPS4, VIPS6, accept, chain, drop, goto, hooked, rule, sets::fixed,
    tracking::RAW,
};
use crate::model::*;

/// Devices behind which there is nobody but this host's own.
pub(crate) const INSIDE: &str = "inside";
/// How many there can be; more stay closed.
pub const INSIDE_MAX: usize = 1024;
const OTHER_DEVICE: &str = "other_device";
const LOOPBACK: &str = "lo";

impl Plan<'_> {
    /// The table behind the devices.
    pub(super) fn arrival(&self) -> Table {
        let mut sets = self.vips_once_more();
        sets.push(Set {
            name: INSIDE.into(),
            key: KeyType::Device,
            // It changes with the host's devices; a set whose size is another would have to be made anew.
            size: Some(INSIDE_MAX as u32),
            timeout: Timeout::Never,
            data: None,
            filled: Filled::ByCommits,
            comment: "devices of this host's own containers and the like; the agent keeps it".into(),
            why: "Devices behind which there is nobody but what reaches this host alone.".into(),
            elements: self.inside(),
        });
        if self.tracked {
            sets.extend(self.untracked_set().into_iter().chain(self.gossip_set()));
        }
        let mut chains = vec![
            hooked(
                "arrival",
                Hook { place: Place::Prerouting, priority: RAW },
                "the shared addresses are served on one device only",
                "Before conntrack: by which device did it come?",
                self.other_devices(),
            ),
            chain(
                OTHER_DEVICE,
                "for a shared address, not judged by slice and lease",
                "For a shared address, by another device: other hosts may be reached by it as well.",
                self.other_device(),
            ),
        ];
        if self.tracked {
            chains.extend(self.tracking());
        }
        Table {
            family: Family::Inet,
            name: TABLE.into(),
            comment: "onemac: what comes by other devices, and connections that survive; see docs/ruleset.md"
                .into(),
            sets,
            chains,
        }
    }

    fn shared_device(&self) -> Value {
        Value::Name(self.wanted.shared.clone())
    }

    fn other_device(&self) -> Vec<Rule> {
        let mut rules = vec![rule(
            "The host's own use.",
            "",
            vec![is(Expr::InputName, Value::Name(LOOPBACK.into())), accept()],
        )];
        if !self.vips6.is_empty() {
            rules.push(rule(
                "Neighbour solicitations, judged on their way there. Nothing else goes on by the shared device: what \
                 does come by it met no rules on the service device, because somebody has just renamed that.",
                "",
                vec![
                    is(Expr::InputName, self.shared_device()),
                    is(Expr::Field(Field::Icmpv6Type), ND_SOLICIT),
                    accept(),
                ],
            ));
        }
        rules.extend([
            rule(
                "This host's own containers, if the answer goes back the same way.",
                "own containers",
                vec![
                    Statement::In(Expr::InputDevice, INSIDE.into()),
                    is(Expr::RoutedBack, Value::Exists),
                    accept(),
                ],
            ),
            rule(
                "Any other device may be on the same wire, or on another with several hosts.",
                "by another device",
                vec![Statement::Counter, drop()],
            ),
        ]);
        rules
    }

    /// The table for ARP, which has no other way to be judged on all devices.
    pub(super) fn questions_elsewhere(&self) -> Option<Table> {
        if self.vips4.is_empty() {
            return None;
        }
        let about_vips = || Statement::In(Expr::Field(Field::ArpDaddrIp), VIPS4.into());
        let asked = vec![
            rule(
                "The shared device answers what comes here, under the lease.",
                "",
                vec![is(Expr::InputName, Value::Name(self.wanted.device.clone())), about_vips(), drop()],
            ),
            rule(
                "Nobody else answers, or learns of those who claim the address.",
                "by another device",
                vec![
                    Statement::Compare(Expr::InputName, Op::Ne, self.shared_device()),
                    about_vips(),
                    Statement::Counter,
                    drop(),
                ],
            ),
        ];
        let said = vec![rule(
            "Guard: a shared address is never announced with another MAC, by no device.",
            "guard: wrong MAC announced",
            vec![
                Statement::In(Expr::Field(Field::ArpSaddrIp), VIPS4.into()),
                Statement::Compare(
                    Expr::Field(Field::ArpSaddrEther),
                    Op::Ne,
                    Value::Mac(self.wanted.cluster_mac),
                ),
                Statement::Counter,
                drop(),
            ],
        )];
        Some(Table {
            family: Family::Arp,
            name: TABLE.into(),
            comment: "onemac: one device alone speaks for the shared addresses; see docs/ruleset.md".into(),
            sets: self.vips_once_more().into_iter().filter(|set| set.name == VIPS4).collect(),
            chains: vec![
                hooked(
                    "asked",
                    Hook { place: Place::ArpInput, priority: 0 },
                    "one device answers for the shared addresses",
                    "Every ARP packet in, on all devices.",
                    asked,
                ),
                hooked(
                    "said",
                    Hook { place: Place::ArpOutput, priority: 0 },
                    "the shared addresses have one MAC",
                    "Every ARP packet that the kernel sends, on all devices.",
                    said,
                ),
            ],
        })
    }

    fn other_devices(&self) -> Vec<Rule> {
        let service = || Value::Name(self.wanted.device.clone());
        let elsewhere = |address, vips: &str| {
            rule(
                "What comes by the service device has been judged there.",
                "",
                vec![
                    Statement::Compare(Expr::InputName, Op::Ne, service()),
                    Statement::In(Expr::Field(address), vips.into()),
                    goto(OTHER_DEVICE),
                ],
            )
        };
        let mut rules = Vec::new();
        if !self.vips4.is_empty() {
            rules.push(elsewhere(Field::IpDaddr, VIPS4));
        }
        if !self.vips6.is_empty() {
            rules.push(elsewhere(Field::Ip6Daddr, VIPS6));
        }
        rules
    }

    fn inside(&self) -> Vec<Element> {
        let element = |index| Element { key: Key::DeviceIndex(index), timeout: None, data: None };
        self.wanted.inside.iter().copied().take(INSIDE_MAX).map(element).collect()
    }

    /// Sets belong to one table.
    fn vips_once_more(&self) -> Vec<Set> {
        let mut sets = Vec::new();
        if !self.vips4.is_empty() {
            let vips = self.vips4.iter().map(|a| Key::Ipv4(*a)).collect();
            let why = "The shared IPv4 addresses; sets belong to one table.";
            sets.push(fixed(VIPS4, KeyType::Ipv4, vips, "shared IPv4 addresses", why));
        }
        if !self.vips6.is_empty() {
            let vips = self.vips6.iter().map(|a| Key::Ipv6(*a)).collect();
            let why = "The shared IPv6 addresses; sets belong to one table.";
            sets.push(fixed(VIPS6, KeyType::Ipv6, vips, "shared IPv6 addresses", why));
        }
        sets
    }
}

fn is(left: Expr, right: Value) -> Statement {
    Statement::Compare(left, Op::Eq, right)
}
