//! What outlives an agent: enough for the next one to go on with the same life.
//!
//! An agent that is started anew while the lease of the last one still runs in the kernel is, for its
//! peers, a host that was silent for a moment. It keeps its life, its view and what its kernel accepts. It
//! has forgotten what its peers have answered, so its lease does not grow, and it acquires nothing, before
//! they all have answered again; if they do not in time, the lease ends and a new life begins.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;

use serde::{Deserialize, Serialize};

use super::membership::Peer;
use super::{Action, Broken, Event, Follow, Node, Partition, Phase};
use crate::holding::Holdings;
use crate::report::{Claims, HostState, Report, Stamp};
use crate::time::{Time, Timing};
use crate::view::{Cluster, DefinitionId, Member, View};

/// Report numbers that are set aside at once; what is kept is the last of them, so that no number is used
/// twice. Enough for a quarter of an hour of heartbeats.
const NUMBERS: u64 = 10_000;

/// All that a host is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its name, one of `cluster.hosts`; a host that is not has weight 0.
    pub host: String,
    /// The MAC address of its service device.
    pub mac: [u8; 6],
    /// What the hosts have in common.
    pub cluster: Cluster,
    /// Its durations.
    pub timing: Timing,
    /// What to do when the cluster falls apart. All hosts must choose alike, so the choice belongs into the
    /// definition's digest.
    pub partition: Partition,
    /// Which connections are followed.
    pub follow: Follow,
    /// The number of its life, unless it goes on with an earlier one. Greater than that of any earlier
    /// life; if peers know better, the node picks a greater one itself.
    pub incarnation: u64,
    /// What its kernel does already.
    pub leftover: Holdings,
    /// The end of the lease that its kernel has.
    pub lease_until: Option<Time>,
    /// What the last agent on this boot kept.
    pub memory: Option<Box<Memory>>,
}

/// What an agent keeps for the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The life.
    pub incarnation: u64,
    /// No report of this life has a number as great as this.
    pub seq_limit: u64,
    /// The definition that it ran by.
    pub definition: DefinitionId,
    /// The weight that it had.
    pub weight: u8,
    /// The services that its operator had taken from it.
    pub drained: BTreeSet<String>,
    /// The hosts of the view that it computed with, itself among them.
    pub members: BTreeMap<String, Member>,
    /// The last words of hosts that had gone by then: gossip may repeat them.
    pub gone: BTreeMap<String, Stamp>,
    /// Slices of which connections have died with a host.
    pub orphaned: Claims,
    /// Until when that matters.
    pub orphaned_until: Time,
    /// What was known of each peer's answers when the agent was replaced in order; empty otherwise.
    pub known: BTreeMap<String, Known>,
}

/// What is known of one peer's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// When the newest report was published that it has answered.
    pub basis: Time,
    /// Since when its answers have come without a gap as long as a lease.
    pub constant_since: Time,
}

impl Node {
    /// Whether this life can go on where the last agent left it.
    pub(super) fn can_go_on(&self, now: Time, memory: &Memory, lease_until: Option<Time>) -> bool {
        memory.definition == self.cluster.definition
            && memory.members.contains_key(&self.me)
            && lease_until.is_some_and(|until| until > now)
            && !self.broken(Broken::NoGuards)
    }

    /// Goes on with the life of the last agent.
    pub(super) fn go_on(&mut self, now: Time, memory: Memory, lease_until: Option<Time>) {
        let Memory { incarnation, seq_limit, weight, drained, members, gone, known, .. } = memory;
        self.orphans.go_on(seq_limit, memory.orphaned, memory.orphaned_until);
        self.stamp = Stamp { incarnation, seq: seq_limit };
        self.phase = Phase::Serving;
        self.weight = weight;
        self.drained = drained;
        (self.lease.granted, self.lease.confirmed) = (lease_until, lease_until);
        self.deaf = false;
        self.connections.settled(now, &self.held);
        for (name, member) in members.iter().filter(|(name, _)| **name != self.me) {
            let report = Arc::new(self.stand_in(name, member));
            self.peers.insert(name.clone(), Peer::by_memory(now, report, true, known.get(name).copied()));
        }
        for (name, stamp) in gone {
            let report = Report::plain(name.clone(), stamp, self.cluster.definition, HostState::Left);
            self.peers.insert(name, Peer::by_memory(now, Arc::new(report), false, None));
        }
        self.next_expiry = now + self.expiry();
        self.view_seq = seq_limit + 1;
        self.view = Some(View::new(&self.cluster, members));
        self.settle_tables();
        self.view_stale = true;
        self.voice.tell_all();
        self.note(Event::GoesOn { incarnation });
    }

    /// What a host of the remembered view may have said: nothing that anything is decided by.
    fn stand_in(&self, host: &str, member: &Member) -> Report {
        let state = if member.eligible { HostState::Serving } else { HostState::Leaving };
        let stamp = Stamp { incarnation: member.incarnation, seq: 0 };
        let plain = Report::plain(host.into(), stamp, self.cluster.definition, state);
        Report { weight: member.weight, drained: member.drained.clone(), ..plain }
    }

    fn gone(&self) -> BTreeMap<String, Stamp> {
        let gone = self.peers.iter().filter(|(_, p)| !p.alive);
        gone.map(|(name, p)| (name.clone(), p.report.stamp)).collect()
    }

    /// Has kept what the next agent needs, before anybody hears of it.
    pub(super) fn remember(&mut self) {
        let view = self.view.as_ref().filter(|_| self.phase == Phase::Serving);
        let Some(view) = view else {
            if self.remembered.take().is_some() {
                self.actions.push_back(Action::Remember(None));
            }
            return;
        };
        if let Some(known) = &self.remembered
            && known.incarnation == self.stamp.incarnation
            && known.seq_limit > self.stamp.seq
            && known.definition == self.cluster.definition
            && known.weight == self.weight
            && known.drained == self.drained
            && known.members == view.members
            && known.orphaned == *self.orphans.slices()
            && known.orphaned_until == self.orphans.until()
        {
            return;
        }
        let memory = Box::new(self.memory(view));
        self.remembered = Some(memory.clone());
        self.actions.push_back(Action::Remember(Some(memory)));
    }

    /// What an agent that takes this one's place right now goes on with, if it can: all that is kept otherwise, and what is
    /// known of the peers' answers.
    pub fn checkpoint(&self) -> Option<Box<Memory>> {
        let mut memory = self.remembered.clone()?;
        if self.broken(Broken::RestartForgets) {
            return Some(memory);
        }
        memory.known = self
            .peers
            .iter()
            .filter(|(_, p)| p.alive)
            .filter_map(|(name, p)| {
                Some((name.clone(), Known { basis: p.basis?, constant_since: p.constant_since }))
            })
            .collect();
        Some(memory)
    }

    fn memory(&self, view: &View) -> Memory {
        Memory {
            incarnation: self.stamp.incarnation,
            seq_limit: self.stamp.seq + NUMBERS,
            definition: self.cluster.definition,
            weight: self.weight,
            drained: self.drained.clone(),
            members: view.members.clone(),
            gone: self.gone(),
            orphaned: self.orphans.slices().clone(),
            orphaned_until: self.orphans.until(),
            known: BTreeMap::new(),
        }
    }
}
