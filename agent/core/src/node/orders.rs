//! What an operator changes while the cluster runs.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;

use serde::{Deserialize, Serialize};

use super::{Action, Event, Follow, Node, Phase};
use crate::report::Report;
use crate::view::{Cluster, DefinitionId};

/// Another definition, with all of it that the core knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// What the hosts have in common.
    pub cluster: Cluster,
    /// Which connections are followed.
    pub follow: Follow,
}

impl Node {
    /// Takes a service from this host, or all of them.
    pub(super) fn drain(&mut self, service: Option<String>) {
        let before = self.drained.clone();
        match service {
            Some(service) => drop(self.drained.insert(service)),
            None => self.drained.extend(self.cluster.services.iter().cloned()),
        }
        self.orders_changed(before != self.drained);
    }

    /// Gives a service back to this host, or all of them. A host that leaves stays.
    pub(super) fn resume(&mut self, service: Option<String>) {
        let before = self.drained.clone();
        match &service {
            Some(service) => drop(self.drained.remove(service)),
            None => self.drained.clear(),
        }
        let stays = service.is_none() && matches!(self.phase, Phase::Leaving { .. });
        if stays {
            self.phase = Phase::Serving;
            self.empty_seq = None;
            self.note(Event::Stays);
            if self.is_foreign_served() {
                // Hosts of another version have taken over meanwhile.
                self.start_over(self.last_step);
            }
        }
        self.orders_changed(stays || before != self.drained);
    }

    pub(super) fn change_weight(&mut self, weight: u8) {
        let changed = self.weight != weight.min(100);
        self.weight = weight.min(100);
        self.orders_changed(changed);
    }

    fn orders_changed(&mut self, changed: bool) {
        if changed {
            self.view_stale = true;
            self.voice.tell_all();
            let drained = self.drained.iter().cloned().collect();
            self.note(Event::Ordered { weight: self.weight, drained });
        }
    }

    /// Whether the operator has taken every service from this host.
    pub(super) fn is_drained(&self) -> bool {
        !self.cluster.services.is_empty() && self.cluster.services.iter().all(|s| self.drained.contains(s))
    }

    /// Keeps another definition until all have it.
    pub(super) fn stage(&mut self, staged: Staged) {
        let before = self.staged_id();
        self.staged = (staged.cluster.definition != self.cluster.definition).then(|| Box::new(staged));
        if self.staged_id() != before {
            self.voice.tell_all();
        }
    }

    fn staged_id(&self) -> Option<DefinitionId> {
        self.staged.as_ref().map(|s| s.cluster.definition)
    }

    /// The definition that waits for the others, and who has not got it.
    pub fn staged(&self) -> Option<(DefinitionId, BTreeSet<String>)> {
        let id = self.staged_id()?;
        let peers = self.peers.values().filter(|p| p.alive && !has(&p.report, id));
        Some((id, peers.map(|p| p.report.host.clone()).collect()))
    }

    /// Whether a host of another definition is on its way to ours, or we to its. When we have just changed, whoever runs
    /// by what we have left follows, whether we have heard it say so or not: whoever changed first has.
    pub(super) fn will_agree_on_definition(&self, report: &Report) -> bool {
        report.staged == Some(self.cluster.definition)
            || self.staged_id() == Some(report.definition)
            || self.left_definition.is_some_and(|(id, _)| id == report.definition)
    }

    /// Changes to the staged definition if every living host has it. Whoever changes first is followed at
    /// once: by its report the others see that all had it.
    pub(super) fn try_to_change(&mut self) {
        let Some((id, waiting)) = self.staged() else { return };
        let leads =
            |p: &super::membership::Peer| p.alive && p.report.definition == id && p.report.state.serves();
        if !waiting.is_empty() && !self.peers.values().any(leads) {
            return;
        }
        let Some(staged) = self.staged.take() else { return };
        let weight = |cluster: &Cluster| cluster.hosts.get(&self.me).copied();
        let (before, after) = (weight(&self.cluster), weight(&staged.cluster));
        if let Some(weight) = after.filter(|_| after != before) {
            self.weight = weight;
        }
        self.left_definition = Some((self.cluster.definition, self.last_step));
        self.cluster = staged.cluster.clone();
        self.connections.change(staged.follow.clone());
        self.drained.retain(|s| staged.cluster.services.contains(s));
        self.voice.know(self.cluster.hosts.len());
        self.tables.forget();
        self.orphans.forget_lists(self.stamp.seq + 1);
        self.view = None;
        self.view_stale = true;
        self.moves_stale = true;
        self.agreed = false;
        self.voice.tell_all();
        self.note(Event::DefinitionChanged);
        self.actions.push_back(Action::Changed(staged));
        if after.is_none() {
            self.leave(self.last_step);
        }
    }
}

fn has(report: &Report, id: DefinitionId) -> bool {
    report.definition == id || report.staged == Some(id)
}
