//! What a part of a cluster may do that has lost the rest of it.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::view::Cluster;

/// What happens when a cluster falls apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partition {
    /// Each side serves whoever reaches it.
    #[default]
    Serve,
    /// Only a side with most of the configured hosts serves.
    Majority,
}

impl Partition {
    /// Whether the hosts for which `present` holds may serve without the others.
    ///
    /// Exactly half of the hosts may if the first one, by name, is among them: of two halves that is one.
    pub fn suffices(self, cluster: &Cluster, present: impl Fn(&String) -> bool) -> bool {
        if self == Partition::Serve {
            return true;
        }
        let count = cluster.hosts.keys().filter(|h| present(h)).count() * 2;
        let all = cluster.hosts.len();
        count > all || count == all && cluster.hosts.keys().next().is_some_and(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::DefinitionId;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn cluster(hosts: &[&str]) -> Cluster {
        Cluster {
            name: "test".into(),
            definition: DefinitionId([0; 16]),
            slices: 16,
            hosts: hosts.iter().map(|h| (h.to_string(), 1)).collect(),
            services: Vec::new(),
        }
    }

    #[test]
    fn any_two_sides_that_suffice_share_a_host() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        for size in 1..=names.len() {
            let cluster = cluster(&names[..size]);
            let side = |bits: u32| {
                Partition::Majority
                    .suffices(&cluster, |h| bits & (1 << names.iter().position(|n| n == h).unwrap()) != 0)
            };
            for one in 0..1u32 << size {
                for other in 0..1u32 << size {
                    assert!(!(side(one) && side(other)) || one & other != 0, "{one:b} {other:b} of {size}");
                }
                assert!(side(one) || side(!one & ((1 << size) - 1)), "nobody of {one:b} of {size}");
            }
        }
    }

    #[test]
    fn half_of_the_hosts_suffices_with_the_first_one() {
        let cluster = cluster(&["a", "b"]);
        assert!(Partition::Majority.suffices(&cluster, |h| h == "a"));
        assert!(!Partition::Majority.suffices(&cluster, |h| h == "b"));
        assert!(Partition::Serve.suffices(&cluster, |h| h == "b"));
    }
}
