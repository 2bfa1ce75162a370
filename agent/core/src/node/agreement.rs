//! The view, and who computes with it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use super::{Broken, Event, Node, Phase};
use crate::ownership::Table;
use crate::report::HostState;
use crate::time::Time;
use crate::view::{Member, View, ViewId};

/// How many sets of tables are kept: a host that flaps, or leaves and returns, costs no computation.
const TABLES_KEPT: usize = 4;

/// Ownership tables, the present ones first.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// The view that they were last computed for.
    of: Option<ViewId>,
    kept: Vec<(Shares, BTreeMap<String, Table>)>,
}

/// All that ownership depends on: weight, eligibility and what is drained by host.
type Shares = BTreeMap<String, (u8, bool, BTreeSet<String>)>;

impl Tables {
    /// Another definition: nothing that was computed holds any more.
    pub(super) fn forget(&mut self) {
        self.of = None;
        self.kept.clear();
    }

    pub(super) fn present(&self) -> Option<&BTreeMap<String, Table>> {
        self.kept.first().map(|(_, tables)| tables)
    }
}

impl Node {
    /// Moves to the view that follows from the living hosts, if it is another one. A joining host is a
    /// member that owns nothing: it agrees, so that what it decides later builds on it.
    pub(super) fn update_view(&mut self) {
        if !self.view_stale {
            return;
        }
        self.view_stale = false;
        let eligible = self.phase == Phase::Serving;
        let drained = self.drained.clone();
        let me = Member { incarnation: self.stamp.incarnation, weight: self.weight, eligible, drained };
        let mut members = BTreeMap::from([(self.me.clone(), me)]);
        for (name, peer) in self.peers.iter().filter(|(_, p)| p.alive) {
            let r = &peer.report;
            if r.definition == self.cluster.definition {
                let eligible = r.state.serves();
                let drained = r.drained.clone();
                let member = Member { incarnation: r.stamp.incarnation, weight: r.weight, eligible, drained };
                members.insert(name.clone(), member);
            }
        }
        if self.view.as_ref().is_some_and(|v| v.members == members) {
            return;
        }
        let view = View::new(&self.cluster, members);
        let hosts = view.members.keys().cloned().collect();
        self.note(Event::ViewChanged { view: view.id, hosts });
        self.view = Some(view);
        self.agreed = false;
        self.moves_stale = true;
        self.view_seq = self.stamp.seq + 1;
        self.voice.tell_all();
    }

    /// Computes the tables of the present view, unless they are at hand.
    pub(super) fn settle_tables(&mut self) {
        let Some(view) = self.view.as_ref().filter(|v| self.tables.of != Some(v.id)) else { return };
        self.tables.of = Some(view.id);
        let configured = self.cluster.hosts.iter().map(|(h, &w)| (h.clone(), (w, false, BTreeSet::new())));
        let mut shares: Shares = configured.collect();
        let present = view.members.iter();
        shares.extend(present.map(|(h, m)| (h.clone(), (m.weight, m.eligible, m.drained.clone()))));
        match self.tables.kept.iter().position(|(of, _)| *of == shares) {
            Some(i) => self.tables.kept[..=i].rotate_right(1),
            None => {
                self.tables.kept.insert(0, (shares, view.tables(&self.cluster)));
                self.tables.kept.truncate(TABLES_KEPT);
            }
        }
    }

    /// Whether every living host computes with our view and has answered our entry into it. A host of
    /// another definition computes with no view of ours: none may serve, and those that join must know that
    /// we do.
    pub(super) fn everyone_agrees(&self) -> bool {
        let Some(view) = &self.view else { return false };
        let entry = self.entry();
        self.peers.values().filter(|p| p.alive).all(|p| {
            let r = &p.report;
            let same = if r.definition == self.cluster.definition {
                r.view == Some(view.id)
            } else {
                r.state == HostState::Joining || self.broken(Broken::DefinitionsUnheeded)
            };
            same && p.answered >= Some(entry)
        })
    }

    /// The report whose answer says that our entry into the view is known.
    pub(super) fn entry(&self) -> u64 {
        if self.broken(Broken::OldAnswers) { 0 } else { self.view_seq }
    }

    /// Whether a look at all peers would come to what is known without it.
    pub(super) fn looked_enough(&self) -> bool {
        let stays = self.phase != Phase::Serving || self.stirred || self.outvoted_by().is_none();
        let agrees = || self.everyone_agrees() || self.broken(Broken::NoAgreement);
        stays && (self.agreement_stale || agrees() == self.agreed)
    }

    /// Whether this host may add slices now: its own lease runs.
    pub(super) fn may_acquire(&self, now: Time) -> bool {
        self.phase == Phase::Serving && self.lease.granted.is_some_and(|until| until > now)
    }

    /// Whether our view is a vote: everybody whom we hear and who may hold slices is in it.
    pub(super) fn hears_nobody_outside(&self, view: &View) -> bool {
        let outside = |(name, peer): (&String, &super::Peer)| {
            peer.alive && peer.report.state != HostState::Joining && !view.members.contains_key(name)
        };
        !self.peers.iter().any(outside) || self.broken(Broken::VotesAnyway)
    }

    /// Whether every living host has answered our report `seq` or a later one.
    pub(super) fn everyone_heard(&self, seq: u64) -> bool {
        self.peers.values().filter(|p| p.alive).all(|p| p.answered >= Some(seq))
    }
}
