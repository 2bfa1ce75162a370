//! What goes out: the agent's renewals of the lease, the mask, and the guards of the shared addresses.

use super::{EGRESS, ND_ANNOUNCING, Plan, VIPS4, VIPS6, drop, rule};
use crate::model::*;

/// After other programs' chains: nothing that they do goes unmasked.
const EGRESS_PRIORITY: i32 = 500;

/// The link-layer address in the first option after it (RFC 4861, 4.6.1): 2 bytes of type and length.
const ND_LINK_ADDRESS: RawField = RawField { base: Base::Network, offset: 66, len: 6 };

impl Plan<'_> {
    pub(super) fn egress(&self) -> Chain {
        let cluster_mac = Value::Mac(self.wanted.cluster_mac);
        let mut rules = vec![self.renewal()];
        if !self.vips4.is_empty() {
            rules.push(rule(
                "Guard: a shared address is never announced with this host's own MAC.",
                "guard: wrong MAC announced",
                vec![
                    Statement::In(Expr::Field(Field::ArpSaddrIp), VIPS4.into()),
                    Statement::Compare(Expr::Field(Field::ArpSaddrEther), Op::Ne, cluster_mac.clone()),
                    Statement::Counter,
                    drop(),
                ],
            ));
        }
        if !self.vips6.is_empty() {
            rules.push(rule(
                "The same guard for neighbour discovery: the link-layer address in its first option.",
                "guard: wrong MAC announced",
                vec![
                    Statement::In(Expr::Field(Field::Icmpv6Type), ND_ANNOUNCING.into()),
                    Statement::In(Expr::Field(Field::Ip6Saddr), VIPS6.into()),
                    Statement::Compare(
                        Expr::Raw(ND_LINK_ADDRESS),
                        Op::Ne,
                        Value::Raw(self.wanted.cluster_mac.0.to_vec()),
                    ),
                    Statement::Counter,
                    drop(),
                ],
            ));
        }
        rules.push(self.mask_rule(
            "The mask: no frame leaves with the shared MAC as its source, or the switch learns where it is.",
        ));
        Chain {
            name: EGRESS.into(),
            hook: Some(Hook { place: Place::Egress(self.wanted.device.clone()), priority: EGRESS_PRIORITY }),
            comment: "every frame out: the switch must not learn the shared MAC".into(),
            why: "Every frame that the service device sends, after everything else.".into(),
            rules,
        }
    }

    /// The mask once more, where the kernel hooks it by the shared device. On Linux 6.18, not on 6.12, chains follow names: who
    /// renames the service device takes the other one off it, until the agent has made it anew.
    pub(super) fn mask(&self) -> Option<Chain> {
        self.wanted.second_mask.then(|| Chain {
            name: "mask".into(),
            hook: Some(Hook { place: Place::Egress(self.wanted.shared.clone()), priority: EGRESS_PRIORITY }),
            comment: "every frame out of the shared device: masked whatever the service device is called"
                .into(),
            why: "Every frame that the shared device sends, before it comes to the service device.".into(),
            rules: vec![self.mask_rule("The mask, for when somebody renames the service device.")],
        })
    }

    fn mask_rule(&self, why: &str) -> Rule {
        rule(
            why,
            "mask the shared MAC",
            vec![
                Statement::Compare(
                    Expr::Field(Field::EtherSaddr),
                    Op::Eq,
                    Value::Mac(self.wanted.cluster_mac),
                ),
                Statement::SetMac(Field::EtherSaddr, self.wanted.device_mac),
            ],
        )
    }
}
