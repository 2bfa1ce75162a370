//! How slices move: released first, acquired only by agreement, the kernel before the word.
//!
//! A planned move goes by way of a relay, so that no packet meets two closed doors: see [`crate::holding`].
//! Where the new owner does not get ready in time, or the old one is gone, the move is a plain release and
//! a plain acquisition, and what arrives between the two is lost.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use core::time::Duration;

use serde::Serialize;

use super::{Action, Broken, Change, Event, Node, Phase};
use crate::holding::{self, Holding, Holdings};
use crate::report::{Claims, Report};
use crate::slices::SliceSet;
use crate::time::Time;

/// For so long a slice is sent on to its new owner after that has taken it. Its kernel remembers for as long
/// what came sent on, and would take another packet with the same first bytes for a copy if it came alone
/// (`onemac_rules::RELAYED_FOR`).
const RELAY_TAIL: Duration = Duration::from_millis(100);

/// A kernel change on its way.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pending {
    id: u64,
    pub(super) target: Holdings,
    acquired: u32,
    released: u32,
}

/// What the living peers say of one service.
#[derive(Default)]
struct Others {
    claims: SliceSet,
    /// What they relay to somebody else than us: as good as that host's claims.
    relayed_elsewhere: SliceSet,
    /// What they relay to us.
    relayed_to_us: SliceSet,
    /// Slices of which connections may live there.
    moving: SliceSet,
}

impl Node {
    /// The kernel has answered.
    pub(super) fn committed(&mut self, now: Time, change: u64, ok: bool) {
        if self.pending.as_ref().is_none_or(|p| p.id != change) {
            return;
        }
        let Some(done) = self.pending.take() else { return };
        self.moves_stale = true;
        if !ok {
            self.note(Event::KernelRefused);
            self.refused = true;
            self.retry_at = Some(now + self.timing.heartbeat);
            return;
        }
        self.held = done.target;
        self.ready = holding::pick(&self.held, |h| h.incoming.clone());
        for (service, handed) in &mut self.handed {
            *handed = handed.and(&self.held.get(service).map(Holding::all_relayed).unwrap_or_default());
        }
        self.connections.settled(now, &self.held);
        if self.phase == Phase::Starting {
            self.listen(now);
        } else if done.acquired + done.released > 0 {
            let owned = self.held.values().map(|h| h.accepted.len()).sum();
            self.note(Event::SlicesMoved { acquired: done.acquired, released: done.released, owned });
        }
        self.voice.tell_all();
    }

    /// Tries a refused change again.
    pub(super) fn retry(&mut self, now: Time) {
        if self.retry_at.is_some_and(|t| now >= t) {
            self.retry_at = None;
            if self.phase == Phase::Starting {
                self.apply(self.only_connections());
            }
        }
    }

    /// For how long a slice stays with its old owner while the new one gets ready to take it. It costs nobody
    /// anything but balance; whoever may not acquire because of an old word can an expiry later.
    fn patience(&self) -> Duration {
        self.expiry() * 3 / 2
    }

    /// Releases and acquires what the view, the agreement and the others' claims allow.
    pub(super) fn hand_over(&mut self, now: Time, beat: bool) {
        self.retry(now);
        // In small clusters, as in most tests, what is left out is looked at all the same.
        debug_assert!(self.peers.len() > 20 || self.looked_enough(), "{self:?}");
        let agreed = match self.agreement_stale {
            true => self.everyone_agrees() || self.broken(Broken::NoAgreement),
            false => self.agreed,
        };
        if agreed != self.agreed {
            self.agreed = agreed;
            self.moves_stale = true;
            if let Some(view) = self.view.as_ref().filter(|_| agreed) {
                let view = view.id;
                self.patient_until = Some(now + self.patience());
                self.note(Event::Agreed { view });
            }
        }
        if self.patient_until.is_some_and(|t| now >= t) {
            self.patient_until = None;
            self.moves_stale = true;
        }
        self.moves_stale |= self.connections.forget(now);
        self.end_relays(now);
        if self.serves() && (agreed || beat) {
            self.settle_tables();
        }
        if !self.moves_stale || self.pending.is_some() || self.retry_at.is_some() {
            return;
        }
        let may_acquire = agreed && self.may_acquire(now);
        self.moves_stale = agreed && !may_acquire;
        let services = self.cluster.services.iter();
        let target: Holdings = services.map(|s| (s.clone(), self.target(s, may_acquire))).collect();
        if self.refused || target != self.held {
            self.apply(target);
        }
        self.ask_for_lists(now);
    }

    /// Who has taken what we send on is sent it for a little longer: see [`RELAY_TAIL`].
    fn end_relays(&mut self, now: Time) {
        match self.relay_until {
            _ if self.handed.values().all(SliceSet::is_empty) => self.relay_until = None,
            None => self.relay_until = Some(now + RELAY_TAIL),
            // Stays in the past until the kernel has ended it.
            Some(until) if now >= until => self.moves_stale = true,
            Some(_) => {}
        }
        self.relays_on = self.relay_until.is_some_and(|until| now < until);
    }

    /// Somebody claims slices. What we send on of these is in other hands from now on, whatever comes next.
    pub(super) fn note_takers(&mut self, report: &Report) {
        for (service, held) in &self.held {
            let Some(claims) = report.claims.get(service) else { continue };
            let taken = held.all_relayed().and(claims);
            if !taken.is_empty() {
                let handed = self.handed.entry(service.clone()).or_default();
                *handed = handed.or(&taken);
            }
        }
    }

    fn handed(&self, service: &str) -> SliceSet {
        let handed = self.handed.get(service).filter(|_| !self.broken(Broken::HandedForgotten));
        handed.cloned().unwrap_or_default()
    }

    /// What the kernel is to do with the slices of `service` now.
    fn target(&self, service: &str, may_acquire: bool) -> Holding {
        let none = Holding::default();
        let held = self.held.get(service).unwrap_or(&none);
        let others = self.others(service);
        // Whatever somebody else claims too is given up at once, whosever it is: two owners harm more than
        // none, and agreement will settle it.
        let accepted = held.accepted.minus(&others.claims);
        let mut next = Holding { accepted, ..Holding::default() };
        // Who relays to us must not do so in vain.
        next.incoming = held.incoming.and(&others.relayed_to_us);
        if self.agreed {
            let mine = self.mine(service);
            let free = mine.minus(&others.claims).minus(&others.relayed_elsewhere);
            let leaving = next.accepted.minus(&mine);
            next.accepted = if may_acquire { free } else { next.accepted.and(&mine) };
            self.send_off(service, &leaving, held, &others.claims, &mut next);
            if may_acquire {
                // Who claims a slice and relays it to us as well is in the middle of a change; if that is one
                // of taking it back, it must not meet an open door.
                let mut changing = others.relayed_to_us.minus(&held.incoming);
                if self.broken(Broken::ChangingUnheeded) {
                    changing = SliceSet::new();
                }
                let served = others.claims.or(&others.relayed_elsewhere);
                next.incoming = next.incoming.or(&mine.and(&served).minus(&changing));
            }
        }
        self.keep_relaying(service, held, &mut next);
        // What is sent on to us while we send it on ourselves goes the same way.
        next.incoming = next.incoming.minus(&next.accepted).minus(&next.all_relayed());
        next.taking = next.accepted.and(&others.relayed_to_us);
        if self.connections.follows(service) {
            let shared = if self.agreed { others.moving } else { others.moving.or(&held.shared) };
            if !self.broken(Broken::ResetsAll) {
                next.shared = next.accepted.and(&shared);
                next.heir = self.heir(service, &next.shared.minus(&next.taking));
                next.listed = self.lists_for(service, &next.heir);
            }
            let lived_here = held.accepted.or(&held.connections());
            next.moving = lived_here.minus(&next.accepted).minus(&self.connections.ended(service));
        }
        next
    }

    /// Finds a way for slices that are no longer ours: relayed if their owner is ready, kept for a while if
    /// it may get ready, released otherwise.
    ///
    /// What we relay and nobody claims is as much ours to send off as what we accept: by the agreement, its
    /// former next owner does not take it any more.
    fn send_off(
        &self,
        service: &str,
        leaving: &SliceSet,
        held: &Holding,
        claimed: &SliceSet,
        next: &mut Holding,
    ) {
        let undecided = held.all_relayed().minus(&held.accepted).minus(&self.handed(service));
        let all = leaving.or(&undecided.minus(claimed).minus(&next.accepted));
        let Some(table) = self.table(service).filter(|_| !all.is_empty()) else { return };
        for slice in all.iter() {
            let Some(owner) = table.owner(slice).and_then(|name| self.peers.get(name)) else { continue };
            if !owner.alive {
                continue;
            }
            if is_ready(&owner.report, service, slice) {
                next.relayed.entry(owner.report.host.clone()).or_default().insert(slice);
            } else if self.patient_until.is_some() && leaving.contains(slice) {
                next.accepted.insert(slice);
            }
        }
    }

    /// Goes on relaying to those who are ready, until somebody else is whom the view names.
    fn keep_relaying(&self, service: &str, held: &Holding, next: &mut Holding) {
        let table = self.table(service).filter(|_| self.agreed && self.patient_until.is_none());
        let handed = self.handed(service);
        for (to, slices) in &held.relayed {
            let Some(peer) = self.peers.get(to).filter(|p| p.alive) else { continue };
            let open = slices.minus(&next.accepted).minus(&next.all_relayed());
            for slice in open.iter() {
                let still_theirs = table.is_none_or(|t| t.owner(slice) == Some(to.as_str()));
                let ready = is_ready(&peer.report, service, slice);
                // Who claims it and is ready still asks its kernel for it.
                let on = match handed.contains(slice) {
                    true => claims(&peer.report, service, slice) && (ready || self.relays_on),
                    false => still_theirs && ready,
                };
                if on {
                    next.relayed.entry(to.clone()).or_default().insert(slice);
                }
            }
        }
    }

    /// The slices that are ours by the tables.
    pub(super) fn mine(&self, service: &str) -> SliceSet {
        self.table(service).map(|t| t.slices_of(&self.me).collect()).unwrap_or_default()
    }

    /// What hosts that may still be alive say, whatever view or definition they have.
    fn others(&self, service: &str) -> Others {
        let mut all = Others::default();
        let add = |to: &mut SliceSet, claims: &Claims| {
            if let Some(slices) = claims.get(service).filter(|slices| !slices.is_empty()) {
                *to = to.or(slices);
            }
        };
        for report in self.peers.values().filter(|p| p.alive).map(|p| &p.report) {
            add(&mut all.claims, &report.claims);
            add(&mut all.moving, &report.moving);
            for (to, claims) in &report.relayed {
                let ours = *to == self.me;
                if ours || !self.broken(Broken::RelaysUnheeded) {
                    add(if ours { &mut all.relayed_to_us } else { &mut all.relayed_elsewhere }, claims);
                }
            }
        }
        all
    }

    /// Whether every slice is claimed by a living host other than us, or nobody could claim it.
    pub(super) fn all_claimed(&self) -> bool {
        self.tables.present().into_iter().flatten().all(|(service, table)| {
            let others = self.others(service).claims;
            (0..table.slices()).all(|s| table.owner(s).is_none() || others.contains(s))
        })
    }

    /// All that an earlier life, or this one until now, may have left in the kernel: nothing but its
    /// connections.
    pub(super) fn only_connections(&self) -> Holdings {
        let keep = |(service, held): (&String, &Holding)| {
            let moving = held.accepted.or(&held.connections());
            let moving = if self.connections.follows(service) { moving } else { SliceSet::new() };
            (service.clone(), Holding { moving, ..Holding::default() })
        };
        self.held.iter().map(keep).collect()
    }

    /// Sends a change on its way. What is to come counts as held from now on, what is to go until the
    /// kernel has answered.
    pub(super) fn apply(&mut self, target: Holdings) {
        let none = Holding::default();
        let (mut acquired, mut given_up) = (0, Claims::new());
        let services: BTreeSet<String> = target.keys().chain(self.held.keys()).cloned().collect();
        for service in services {
            let before = self.held.get(&service).unwrap_or(&none);
            let after = target.get(&service).unwrap_or(&none);
            acquired += after.accepted.minus(&before.accepted).len();
            let still = after.incoming.or(&after.taking);
            let gone = before.accepted.minus(&after.accepted);
            if !gone.is_empty() {
                given_up.insert(service.clone(), gone);
            }
            let both = if self.broken(Broken::WordsFirst) { after.clone() } else { before.or(after) };
            self.held.insert(service.clone(), both);
            if let Some(ready) = self.ready.get_mut(&service) {
                *ready = ready.and(&still);
            }
        }
        let released = given_up.values().map(SliceSet::len).sum();
        self.orphans.given_up(&given_up, self.stamp.seq + 1);
        self.change_id += 1;
        self.retry_at = None;
        self.refused = false;
        self.actions.push_back(Action::Apply(Change {
            id: self.change_id,
            slices: target.clone(),
            lease_until: self.lease.granted,
        }));
        self.pending = Some(Pending { id: self.change_id, target, acquired, released });
    }
}

fn claims(report: &Report, service: &str, slice: u32) -> bool {
    report.claims.get(service).is_some_and(|claims| claims.contains(slice))
}

fn is_ready(report: &Report, service: &str, slice: u32) -> bool {
    report.ready.get(service).is_some_and(|ready| ready.contains(slice))
}

/// What this host's kernel may send on, by the host that gets it.
pub(super) fn relayed(held: &Holdings) -> BTreeMap<String, Claims> {
    let mut by_host: BTreeMap<String, Claims> = BTreeMap::new();
    for (service, holding) in held {
        for (to, slices) in holding.relayed.iter().filter(|(_, slices)| !slices.is_empty()) {
            by_host.entry(to.clone()).or_default().insert(service.clone(), slices.clone());
        }
    }
    by_host
}
