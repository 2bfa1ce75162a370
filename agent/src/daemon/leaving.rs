//! What a leave costs the others, where a part of the cluster may not serve alone.

use std::collections::BTreeSet;

use onemac_core::node::Partition;
use onemac_core::report::HostState;
use onemac_core::view::Cluster;

use super::driver::Driver;
use crate::clock;
use crate::control::model::Problem;
use crate::setup;

impl Driver {
    /// That nobody would serve if this host left now, and what to do first; none if somebody would, or nobody does now.
    pub(super) fn cost_of_leaving(&self) -> Option<Problem> {
        let me = &self.terms.host.name;
        let status = self.node.status(clock::now());
        if !status.state.serves() {
            return None;
        }
        let stays = |state| !matches!(state, HostState::Leaving | HostState::Left);
        let stay =
            status.hosts.into_iter().filter(|h| h.name != *me && h.alive && h.state.is_some_and(stays));
        let stay = stay.map(|h| h.name).collect();
        let cluster = setup::cluster(&self.terms.definition, &self.terms.secrets);
        cost(setup::partition(&self.terms.definition), &cluster, me, &stay)
    }
}

/// The same, where the hosts of `stay` live and stay.
fn cost(partition: Partition, cluster: &Cluster, me: &str, stay: &BTreeSet<String>) -> Option<Problem> {
    if stay.is_empty() || partition.suffices(cluster, |h| stay.contains(h)) {
        return None;
    }
    let names = |hosts: &[&str]| hosts.join(", ");
    let alive: Vec<&str> = stay.iter().map(String::as_str).collect();
    let what = format!(
        "if {me} leaves, nobody serves: with `partition: majority`, {} of {} hosts (without it there are {}) cannot \
         serve alone",
        alive.len(),
        cluster.hosts.len(),
        names(&alive)
    );
    let gone: Vec<&str> =
        cluster.hosts.keys().map(String::as_str).filter(|h| *h != me && !stay.contains(*h)).collect();
    let enough = |h: &&str| partition.suffices(cluster, |other| stay.contains(other) || other.as_str() == *h);
    let each: Vec<&str> = gone.iter().copied().filter(enough).collect();
    let first = if !each.is_empty() {
        format!("start one of these first: {}", names(&each))
    } else if !gone.is_empty() {
        format!("start more of these first: {}", names(&gone))
    } else {
        // Two hosts, of which the first leaves.
        "add a host".into()
    };
    let advice = format!("{first}; or take {me} out of the definition, and `onemac reload` on every host");
    Some(Problem { what, advice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemac_core::view::DefinitionId;

    fn said(hosts: &[&str], me: &str, stay: &[&str]) -> String {
        let cluster = Cluster {
            name: "test".into(),
            definition: DefinitionId([0; 16]),
            slices: 16,
            hosts: hosts.iter().map(|h| ((*h).to_owned(), 1)).collect(),
            services: Vec::new(),
        };
        let stay = stay.iter().map(|h| (*h).to_owned()).collect();
        assert_eq!(cost(Partition::Serve, &cluster, me, &stay), None);
        cost(Partition::Majority, &cluster, me, &stay).map_or(String::new(), |p| p.what + "; " + &p.advice)
    }

    #[test]
    fn a_leave_costs_something_where_those_who_stay_cannot_serve_alone() {
        assert_eq!(said(&["a", "b"], "b", &["a"]), "", "the first host counts for half");
        assert!(said(&["a", "b"], "a", &["b"]).ends_with(
            "1 of 2 hosts (without it there are b) cannot serve alone; add a host; or take a out of the definition, \
             and `onemac reload` on every host"
        ));
        assert_eq!(said(&["a", "b", "c"], "a", &["b", "c"]), "");
        assert!(said(&["a", "b", "c"], "b", &["c"]).contains("start one of these first: a;"));
        assert!(
            said(&["a", "b", "c", "d", "e"], "b", &["c"]).contains("start more of these first: a, d, e;")
        );
        assert!(
            said(&["a", "b", "c", "d"], "b", &["d"]).contains("start one of these first: a;"),
            "half with the first"
        );
        assert_eq!(said(&["a"], "a", &[]), "", "nobody stays, and that is no news");
    }
}
