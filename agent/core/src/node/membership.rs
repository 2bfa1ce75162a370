//! Who is there: the peers and their last words.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use serde::Serialize;

use super::memory::Known;
use super::{Broken, Event, Hold, NAME_CONFLICTS_MAX, Node, Phase, Recipients, STRANGER_INTERVAL};
use crate::report::{HostState, Report, Stamp};
use crate::time::Time;
use crate::view::DefinitionId;

/// Another host, by its last word.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Peer {
    pub report: Arc<Report>,
    /// When the last new report came in; time that we slept through since then moves it on.
    pub heard: Time,
    /// Since when it has been heard without a silence that means something.
    pub back: Time,
    /// Its last word answers this life of ours, and nothing older than it answered before. Else it comes from an agent that
    /// has hardly heard us yet: a newcomer, or one that goes on.
    pub knows_us: bool,
    /// Heard within the expiry.
    pub alive: bool,
    /// It was alive when our last life ended, and has not been since.
    lost: bool,
    /// Our newest report of this life that it has answered.
    pub answered: Option<u64>,
    /// When we published the newest report that it has answered: it gives us up an expiry later at the earliest.
    pub basis: Option<Time>,
    /// Since when its answers have come without a gap as long as a lease.
    pub constant_since: Time,
}

impl Peer {
    /// A host of which the last agent knew whether it lives. It has answered nothing yet.
    pub(super) fn by_memory(now: Time, report: Arc<Report>, alive: bool, known: Option<Known>) -> Self {
        let (basis, constant_since) = known.map_or((None, now), |k| (Some(k.basis), k.constant_since));
        Peer {
            report,
            heard: now,
            // It has spoken for long, as far as the last agent knew.
            back: Time::default(),
            knows_us: false,
            alive,
            lost: false,
            answered: None,
            basis,
            constant_since,
        }
    }
}

impl Node {
    /// Silence after which a host counts as gone.
    pub(super) fn expiry(&self) -> Duration {
        if self.broken(Broken::NoMargin) {
            return self.timing.lease;
        }
        if self.broken(Broken::BelieveAtOnce) {
            return self.timing.heartbeat * 2;
        }
        self.timing.expiry()
    }

    /// Takes in a peer's word, if it is news.
    pub(super) fn hear(&mut self, now: Time, report: Arc<Report>) {
        if report.host == self.me {
            return self.hear_of_later_life(now, report.stamp);
        }
        let of_us = report.heard.get(&self.me).copied();
        if let Some(stamp) = of_us {
            self.hear_of_later_life(now, stamp);
        }
        let old = self.peers.get(&report.host);
        let is_news = old.map_or_else(|| self.is_configured(&report.host), |o| o.report.stamp < report.stamp);
        if !is_news || !report.stamp.is_possible() {
            return;
        }
        let same_life = old.filter(|o| o.report.stamp.incarnation == report.stamp.incarnation);
        let answered = of_us.filter(|s| s.incarnation == self.stamp.incarnation).map(|s| s.seq);
        let basis = answered.and_then(|seq| self.lease.time_of(seq)).max(same_life.and_then(|o| o.basis));
        let constant_since = same_life
            .filter(|o| o.basis.is_some_and(|b| b + self.timing.lease > now))
            .map_or(now, |o| o.constant_since);
        // Who is deaf has begun a life, holds nothing, and will begin to listen anew.
        let deaf = report.deaf && report.state == HostState::Joining && !self.broken(Broken::DeafAwaited);
        let alive = report.state != HostState::Left && !deaf;
        let lost = report.deaf && old.is_some_and(|o| o.lost);
        let knows_us = answered.is_some() && answered >= same_life.and_then(|o| o.answered);
        let back = old.filter(|o| now.since(o.heard) < self.timing.silence()).map_or(now, |o| o.back);
        let was_alive = old.filter(|o| o.alive && deaf).map(|o| Arc::clone(&o.report));
        if let Some(before) = was_alive {
            self.bereave(now, &before);
        }
        self.take_in(
            now,
            Peer { report, heard: now, back, knows_us, alive, lost, answered, basis, constant_since },
        );
    }

    /// Whether a host of this name counts: by the definition, or by the one to come.
    fn is_configured(&self, host: &str) -> bool {
        let staged = self.staged.as_ref().is_some_and(|s| s.cluster.hosts.contains_key(host));
        staged || self.cluster.hosts.contains_key(host)
    }

    /// The service device has received frames of others. The listening of a newcomer begins with the first one.
    pub(super) fn hear_frame(&mut self, now: Time) {
        self.ears = now;
        if core::mem::take(&mut self.deaf)
            && let Phase::Joining { since } = &mut self.phase
        {
            *since = now;
            self.voice.tell_all();
        }
    }

    /// Ends a life that hears nothing while it holds several others alive. That one of them has died is likelier than that
    /// we are deaf; that all have at once is not.
    pub(super) fn end_deaf_life(&mut self, now: Time) -> bool {
        let deaf = !self.broken(Broken::DeafGoesOn)
            && self.serves()
            && now >= self.ears + self.timing.silence()
            && self.peers.values().filter(|p| p.alive && now >= p.back + self.timing.silence()).count() >= 2;
        if deaf {
            // Said before the kernel is empty: nobody need fear that we take over from it.
            self.deaf = true;
            self.publish(Recipients::All);
            self.note(Event::Deaf);
            self.start_over(now);
        }
        deaf
    }

    fn take_in(&mut self, now: Time, peer: Peer) {
        let r = &peer.report;
        let old = self.peers.get(&r.host);
        let reappears =
            old.is_none_or(|o| (o.alive, o.report.stamp.incarnation) != (peer.alive, r.stamp.incarnation));
        let other_standing = reappears
            || old.is_none_or(|o| {
                let standing = |r: &Report| (r.state, r.weight, r.definition, r.staged);
                standing(&o.report) != standing(r) || o.report.drained != r.drained
            });
        let other_claims = reappears
            || old.is_none_or(|o| {
                o.report.claims != r.claims
                    || o.report.ready != r.ready
                    || o.report.relayed != r.relayed
                    || o.report.moving != r.moving
            });
        let other_view = old.is_none_or(|o| o.report.view != r.view);
        let entry = Some(self.entry());
        let other_answer = old.is_none_or(|o| (o.answered >= entry) != (peer.answered >= entry));
        let first_answer = peer.answered.is_some() && old.is_none_or(|o| o.answered.is_none());
        // Whoever changes waits for us to say that we know, and so does one that comes back.
        let was_away = old.is_none_or(|o| now.since(o.heard) > self.timing.heartbeat * 2);
        if reappears && peer.alive {
            let event = Event::HostAlive { host: r.host.clone(), incarnation: r.stamp.incarnation };
            self.note(event);
        }
        if other_standing || other_claims || other_view || was_away {
            self.voice.tell(r.host.clone());
        }
        if other_claims {
            self.note_takers(&Arc::clone(&peer.report));
        }
        self.stirred |= other_standing || first_answer;
        self.agreement_stale |= other_view || other_answer;
        self.view_stale |= other_standing;
        self.moves_stale |= other_standing || other_claims;
        self.next_expiry = self.next_expiry.min(now + self.expiry());
        match self.peers.get_mut(&r.host) {
            Some(known) => *known = peer,
            None => drop(self.peers.insert(r.host.clone(), peer)),
        }
    }

    /// Our own name, from a life that we do not remember: the clock went back, or somebody else has it.
    fn hear_of_later_life(&mut self, now: Time, of_us: Stamp) {
        let later = of_us > self.stamp && of_us.is_possible();
        if !later || self.phase == Phase::Left || self.broken(Broken::NoIncarnations) {
            return;
        }
        let heard = of_us.incarnation;
        self.name_conflicts += 1;
        self.note(Event::NameHeard { incarnation: heard });
        if let Phase::Leaving { .. } = self.phase {
            self.stop();
        } else if self.name_conflicts <= NAME_CONFLICTS_MAX + 1 {
            self.begin(now, heard + 1);
        }
    }

    /// Forgets all about the peers but how far their words went: what they said before is no news in the
    /// next life either.
    pub(super) fn forget_peers(&mut self) {
        for peer in self.peers.values_mut() {
            peer.lost |= peer.alive;
            peer.alive = false;
            peer.answered = None;
            peer.basis = None;
        }
        self.strangers.clear();
    }

    /// Begins to listen.
    pub(super) fn listen(&mut self, now: Time) {
        self.phase = Phase::Joining { since: now };
        self.candidate_since = None;
    }

    /// Time that this host slept through is not held against its peers, nor does it count as listening:
    /// their words may be waiting in its sockets, or on the way because both sides slept.
    pub(super) fn excuse(&mut self, gap: Duration) {
        let slept = gap.saturating_sub(self.timing.heartbeat);
        if slept.is_zero() {
            return;
        }
        for peer in self.peers.values_mut() {
            peer.heard = (peer.heard + slept).min(self.last_step);
        }
        if slept > self.timing.heartbeat / 2 {
            // Being late now and then does not make anybody less deaf.
            self.ears = (self.ears + slept).min(self.last_step);
            // What was said meanwhile waits in our sockets, and answers should know it.
            self.next_heartbeat = self.next_heartbeat.max(self.last_step + self.timing.heartbeat / 10);
        }
        let foreign = self.foreign.values_mut().filter_map(|foreign| foreign.heard.as_mut());
        for time in foreign.chain(self.candidate_since.as_mut()) {
            *time = (*time + slept).min(self.last_step);
        }
        self.stirred = true;
        let listens = self.broken(Broken::SleepListens);
        if let Phase::Joining { since } = &mut self.phase
            && !listens
        {
            *since = (*since + slept).min(self.last_step);
        }
    }

    /// Marks the hosts that have been silent for too long.
    pub(super) fn expire(&mut self, now: Time) {
        let expiry = self.expiry();
        self.strangers.retain(|_, &mut at| now.since(at) < expiry + STRANGER_INTERVAL);
        self.expire_foreign(now);
        self.left_definition = self.left_definition.filter(|&(_, at)| now.since(at) < expiry);
        if now < self.next_expiry {
            return;
        }
        let mut gone = Vec::new();
        let mut next = now + expiry;
        for (name, peer) in self.peers.iter_mut().filter(|(_, p)| p.alive) {
            if now.since(peer.heard) >= expiry {
                peer.alive = false;
                gone.push((name.clone(), now.since(peer.heard).as_millis() as u64));
            } else {
                next = next.min(peer.heard + expiry);
            }
        }
        self.next_expiry = next;
        self.view_stale |= !gone.is_empty();
        self.moves_stale |= !gone.is_empty();
        for (host, silent_ms) in gone {
            if let Some(report) = self.peers.get(&host).map(|peer| Arc::clone(&peer.report)) {
                self.bereave(now, &report);
            }
            self.note(Event::HostGone { host, silent_ms });
        }
    }

    /// Whoever has not come back since our last life has died meanwhile.
    pub(super) fn miss(&mut self, now: Time) {
        let mut missed = Vec::new();
        for peer in self.peers.values_mut().filter(|peer| peer.lost) {
            peer.lost = false;
            missed.push(Arc::clone(&peer.report));
        }
        for report in missed {
            self.bereave(now, &report);
        }
    }

    /// Why a joining host must not serve yet.
    pub(super) fn reason_to_hold(&self, now: Time, since: Time) -> Option<Hold> {
        if self.name_conflicts > NAME_CONFLICTS_MAX {
            return Some(Hold::NameTaken);
        }
        if !self.link_up {
            return Some(Hold::NoLink);
        }
        if self.deaf {
            return Some(Hold::Deaf);
        }
        if let Some(hosts) = self.outvoted_by() {
            return Some(Hold::Definition { hosts });
        }
        let hosts = self.foreign_first();
        if !hosts.is_empty() {
            return Some(Hold::Version { hosts });
        }
        let others = || self.cluster.hosts.keys().filter(|h| **h != self.me);
        let missing: Vec<String> = others().filter(|h| !self.has_answered(h)).cloned().collect();
        if !missing.is_empty() && now.since(since) < self.listening() {
            return Some(Hold::Listening { missing });
        }
        if !missing.is_empty() && others().all(|h| !self.is_alive(h)) && !self.strangers.is_empty() {
            return Some(Hold::Secret { hosts: self.strangers.keys().cloned().collect() });
        }
        let present = |h: &String| *h == self.me || self.is_alive_by_our_definition(h);
        if !self.partition.suffices(&self.cluster, present) {
            return Some(Hold::Minority { missing });
        }
        if self.provable_lease(now).is_none() {
            return Some(Hold::Listening { missing });
        }
        let announced = self.candidate_since.is_some_and(|since| now.since(since) >= self.expiry());
        if self.other_version().next().is_some() && !announced {
            return Some(Hold::Listening { missing });
        }
        None
    }

    /// The hosts whose other definition keeps us from serving: those that serve by it already, or, where
    /// all start together or both have come to serve, the larger party (a tie goes to the greater digest).
    pub(super) fn outvoted_by(&self) -> Option<Vec<String>> {
        let ours = self.cluster.definition;
        if self.peers.values().all(|p| !p.alive || p.report.definition == ours) {
            return None;
        }
        let mut parties: BTreeMap<DefinitionId, Vec<&Peer>> = BTreeMap::new();
        let stays = |p: &&Peer| p.alive && !self.will_agree_on_definition(&p.report);
        for peer in self.peers.values().filter(stays) {
            parties.entry(peer.report.definition).or_default().push(peer);
        }
        let serves = |p: &Peer| p.report.state != HostState::Joining;
        let our_party = parties.remove(&ours).unwrap_or_default();
        let we_serve = self.serves() || our_party.iter().any(|p| serves(p));
        let our_size = 1 + our_party.len();
        let wins = |id: DefinitionId, party: &[&Peer]| {
            let larger = (party.len(), id) > (our_size, ours);
            match (we_serve, party.iter().any(|p| serves(p))) {
                (false, true) => true,
                (true, false) => false,
                _ => larger,
            }
        };
        let winner = parties.into_iter().find(|(id, party)| wins(*id, party))?.1;
        Some(winner.iter().map(|p| p.report.host.clone()).collect())
    }

    /// Starts over if a larger party with another definition serves too.
    pub(super) fn yield_to_other_definition(&mut self, now: Time) -> bool {
        let Some(hosts) = self.outvoted_by() else { return false };
        self.note(Event::Outvoted { hosts });
        self.start_over(now);
        true
    }

    /// Whether a host that is alive has answered this life.
    fn has_answered(&self, host: &str) -> bool {
        let heard = self.broken(Broken::HeardIsAnswered);
        self.peers.get(host).is_some_and(|p| p.alive && (p.answered.is_some() || heard))
    }

    /// For how long a host listens before it serves without somebody who has not answered it: whoever hears it within an
    /// expiry, and is not answered, has no lease any more an expiry later.
    pub(super) fn listening(&self) -> Duration {
        if self.broken(Broken::ShortListening) { self.expiry() } else { self.expiry() * 2 }
    }

    /// Whether a configured host has been heard within the expiry.
    pub(super) fn is_alive(&self, host: &str) -> bool {
        self.peers.get(host).is_some_and(|p| p.alive)
    }

    pub(super) fn is_alive_by_our_definition(&self, host: &str) -> bool {
        self.peers.get(host).is_some_and(|p| p.alive && p.report.definition == self.cluster.definition)
    }
}
