//! Who is there: peers, their last words, the view.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Event, Hold, NAME_CONFLICTS_MAX, Node, Phase, Recipients};
use crate::report::{HostState, Report};
use crate::time::Time;
use crate::view::{DefinitionId, Member, View};

/// Another host, by its last word.
#[derive(Debug)]
pub(super) struct Peer {
    pub report: Report,
    /// When the last new report came in.
    pub heard: Time,
    /// Heard within the expiry.
    pub alive: bool,
}

impl Node {
    /// Takes in a peer's word, if it is news.
    pub(super) fn hear(&mut self, now: Time, report: Report) {
        if report.host == self.me {
            return self.hear_own_name(now, &report);
        }
        if !self.cluster.hosts.contains_key(&report.host) && report.definition == self.cluster.definition {
            return;
        }
        if self.peers.get(&report.host).is_some_and(|p| p.report.stamp >= report.stamp) {
            return;
        }
        let host = report.host.clone();
        let incarnation = report.stamp.incarnation;
        let alive = report.state != HostState::Left;
        let old = self.peers.insert(host.clone(), Peer { report, heard: now, alive });
        let same_life = |p: &Peer| p.alive && p.report.stamp.incarnation == incarnation;
        if !old.as_ref().is_some_and(same_life) {
            self.note(Event::HostAlive { host: host.clone(), incarnation });
        }
        // Whoever changes its view or its claims waits for us to say that we know.
        let news = match (&old, &self.peers[&host]) {
            (None, _) => true,
            (Some(o), n) => {
                (o.report.view, &o.report.claims, o.report.state, o.report.stamp.incarnation)
                    != (n.report.view, &n.report.claims, n.report.state, incarnation)
            }
        };
        if news && !matches!(self.phase, Phase::Starting | Phase::Left) {
            self.publish(Recipients::One(host));
        }
    }

    /// Our own name, from a life that we do not remember: the clock went back, or somebody else has it.
    fn hear_own_name(&mut self, now: Time, report: &Report) {
        let heard = report.stamp.incarnation;
        if heard <= self.stamp.incarnation || self.phase == Phase::Left {
            return;
        }
        self.name_conflicts += 1;
        self.note(Event::NameHeard { incarnation: heard });
        if self.name_conflicts <= NAME_CONFLICTS_MAX + 1 {
            self.begin(now, heard + 1);
        }
    }

    /// Time that this host slept through is not held against its peers: their words may be waiting in
    /// its sockets, or on the way because both sides slept.
    pub(super) fn excuse(&mut self, gap: Duration) {
        let slept = gap.saturating_sub(self.timing.heartbeat);
        if slept > self.timing.heartbeat {
            self.lease.woke = Some(self.last_step);
        }
        for peer in self.peers.values_mut() {
            peer.heard = (peer.heard + slept).min(self.last_step);
        }
    }

    /// Marks the hosts that have been silent for too long.
    pub(super) fn expire(&mut self, now: Time) {
        let expiry = self.timing.expiry();
        let mut gone = Vec::new();
        for (name, peer) in &mut self.peers {
            if peer.alive && now.since(peer.heard) >= expiry {
                peer.alive = false;
                gone.push((name.clone(), now.since(peer.heard).as_millis() as u64));
            }
        }
        for (host, silent_ms) in gone {
            self.note(Event::HostGone { host, silent_ms });
        }
        self.strangers.retain(|_, &mut at| now.since(at) < expiry);
    }

    /// Why a joining host must not serve yet.
    pub(super) fn reason_to_hold(&self, now: Time, since: Time) -> Option<Hold> {
        if self.name_conflicts > NAME_CONFLICTS_MAX {
            return Some(Hold::NameTaken);
        }
        if let Some(hosts) = self.outvoted_by() {
            return Some(Hold::Definition { hosts });
        }
        let others = || self.cluster.hosts.keys().filter(|h| **h != self.me);
        let missing: Vec<String> = others().filter(|h| !self.is_alive(h)).cloned().collect();
        if missing.is_empty() {
            return None;
        }
        if now.since(since) < self.timing.expiry() {
            return Some(Hold::Listening { missing });
        }
        if others().all(|h| !self.is_alive(h)) && !self.strangers.is_empty() {
            return Some(Hold::Secret { hosts: self.strangers.keys().cloned().collect() });
        }
        None
    }

    /// The hosts whose other definition keeps us from serving: those that serve by it already, or, where
    /// all start together, the larger party (a tie goes to the greater digest).
    fn outvoted_by(&self) -> Option<Vec<String>> {
        let mut parties: BTreeMap<DefinitionId, Vec<&Peer>> = BTreeMap::new();
        for peer in self.peers.values().filter(|p| p.alive && p.report.state != HostState::Left) {
            parties.entry(peer.report.definition).or_default().push(peer);
        }
        let ours = self.cluster.definition;
        let our_size = 1 + parties.get(&ours).map_or(0, Vec::len);
        let names = |party: &[&Peer]| party.iter().map(|p| p.report.host.clone()).collect();
        parties.iter().filter(|(id, _)| **id != ours).find_map(|(id, party)| {
            let serves = party.iter().any(|p| p.report.state != HostState::Joining);
            let we_serve =
                parties.get(&ours).is_some_and(|p| p.iter().any(|p| p.report.state != HostState::Joining));
            let wins = !we_serve && (serves || (party.len(), *id) > (our_size, ours));
            wins.then(|| names(party))
        })
    }

    /// Whether a configured host has been heard within the expiry.
    pub(super) fn is_alive(&self, host: &str) -> bool {
        self.peers.get(host).is_some_and(|p| p.alive)
    }

    /// Moves to the view that follows from the living hosts, if it is another one.
    pub(super) fn update_view(&mut self) {
        if !matches!(self.phase, Phase::Serving | Phase::Leaving { .. }) {
            return;
        }
        let eligible = self.phase == Phase::Serving;
        let me = Member { incarnation: self.stamp.incarnation, weight: self.weight, eligible };
        let mut members = BTreeMap::from([(self.me.clone(), me)]);
        for (name, peer) in self.peers.iter().filter(|(_, p)| p.alive) {
            let r = &peer.report;
            let takes_part = matches!(r.state, HostState::Serving | HostState::Leaving);
            if takes_part && r.definition == self.cluster.definition {
                let eligible = r.state == HostState::Serving;
                let member = Member { incarnation: r.stamp.incarnation, weight: r.weight, eligible };
                members.insert(name.clone(), member);
            }
        }
        if self.view.as_ref().is_some_and(|v| v.members == members) {
            return;
        }
        let view = View::new(&self.cluster, members);
        self.tables = view.tables(&self.cluster);
        let hosts = view.members.keys().cloned().collect();
        self.note(Event::ViewChanged { view: view.id, hosts });
        self.view = Some(view);
        self.agreed = false;
        self.view_seq = self.stamp.seq + 1;
        self.publish(Recipients::All);
    }

    /// Whether every host of the view computes with it and has heard that we do, and every host that is
    /// still joining has heard it too: when it turns to serve, it will not do so without us.
    pub(super) fn everyone_agrees(&self) -> bool {
        let Some(view) = &self.view else { return false };
        let knows = |p: &Peer| self.has_heard_us(&p.report, self.view_seq);
        let members_agree =
            view.members.keys().filter(|m| **m != self.me).all(|member| {
                self.peers.get(member).is_some_and(|p| p.report.view == Some(view.id) && knows(p))
            });
        let mut joining = self.peers.values().filter(|p| {
            let ours = p.report.definition == self.cluster.definition;
            p.alive && ours && p.report.state == HostState::Joining
        });
        members_agree && joining.all(knows)
    }

    /// Whether every living member of the view has heard our report `seq` or a later one.
    pub(super) fn everyone_heard(&self, seq: u64) -> bool {
        let view = self.view.iter().flat_map(|v| v.members.keys()).filter(|m| **m != self.me);
        view.filter_map(|m| self.peers.get(m)).all(|peer| !peer.alive || self.has_heard_us(&peer.report, seq))
    }

    pub(super) fn has_heard_us(&self, report: &Report, seq: u64) -> bool {
        report.heard.get(&self.me).is_some_and(|s| s.incarnation == self.stamp.incarnation && s.seq >= seq)
    }
}
