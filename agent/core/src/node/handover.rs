//! How slices move: released first, acquired only by agreement, the kernel before the word.

use alloc::collections::BTreeSet;
use alloc::string::String;

use super::{Action, Broken, Change, Event, Node, Phase};
use crate::report::Claims;
use crate::slices::SliceSet;
use crate::time::Time;

/// A kernel change on its way.
#[derive(Debug)]
pub(super) struct Pending {
    id: u64,
    target: Claims,
    acquired: u32,
    released: u32,
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
        self.claims = done.target;
        if self.phase == Phase::Starting {
            self.phase = Phase::Joining { since: now };
        } else {
            let owned = self.claims.values().map(SliceSet::len).sum();
            self.note(Event::SlicesMoved { acquired: done.acquired, released: done.released, owned });
        }
        self.voice.tell_all();
    }

    /// Tries a refused change again.
    pub(super) fn retry(&mut self, now: Time) {
        if self.retry_at.is_some_and(|t| now >= t) {
            self.retry_at = None;
            if self.phase == Phase::Starting {
                self.apply(Claims::new());
            }
        }
    }

    /// Releases and acquires what the view, the agreement and the others' claims allow.
    pub(super) fn hand_over(&mut self, now: Time, beat: bool) {
        self.retry(now);
        // In small clusters, as in most tests, what is left out is looked at all the same.
        debug_assert!(self.peers.len() > 20 || self.looked_enough(now), "{self:?}");
        let agreed = match self.agreement_stale {
            true => self.everyone_agrees() || self.broken(Broken::NoAgreement),
            false => self.agreed,
        };
        if agreed != self.agreed {
            self.agreed = agreed;
            self.moves_stale = true;
            if let Some(view) = self.view.as_ref().filter(|_| agreed) {
                let view = view.id;
                self.note(Event::Agreed { view });
            }
        }
        if self.serves() && (agreed || beat) {
            self.settle_tables();
        }
        if !self.moves_stale || self.pending.is_some() || self.retry_at.is_some() {
            return;
        }
        let may_acquire = agreed && self.may_acquire(now);
        self.moves_stale = agreed && !may_acquire;
        let services = self.cluster.services.iter();
        let target: Claims = services.map(|s| (s.clone(), self.target(s, may_acquire))).collect();
        if self.refused || target.iter().any(|(service, wanted)| *wanted != self.claimed(service)) {
            self.apply(target);
        }
    }

    /// What the kernel may accept of `service` now. Whatever somebody else claims too is given up at once,
    /// whosever it is: two owners harm more than none, and agreement will settle it.
    fn target(&self, service: &str, may_acquire: bool) -> SliceSet {
        let others = self.claimed_by_others(service);
        let claimed = self.claimed(service).minus(&others);
        if !self.agreed {
            return claimed;
        }
        let mine = self.mine(service);
        if may_acquire { mine.minus(&others) } else { claimed.and(&mine) }
    }

    fn claimed(&self, service: &str) -> SliceSet {
        self.claims.get(service).cloned().unwrap_or_default()
    }

    /// The slices that are ours by the tables.
    pub(super) fn mine(&self, service: &str) -> SliceSet {
        self.table(service).map(|t| t.slices_of(&self.me).collect()).unwrap_or_default()
    }

    /// What hosts that may still be alive claim, whatever view or definition they have.
    fn claimed_by_others(&self, service: &str) -> SliceSet {
        self.peers
            .values()
            .filter(|p| p.alive)
            .filter_map(|p| p.report.claims.get(service))
            .fold(SliceSet::new(), |all, c| all.or(c))
    }

    /// Whether every slice is claimed by a living host other than us, or nobody could claim it.
    pub(super) fn all_claimed(&self) -> bool {
        self.tables.present().into_iter().flatten().all(|(service, table)| {
            let others = self.claimed_by_others(service);
            (0..table.slices()).all(|s| table.owner(s).is_none() || others.contains(s))
        })
    }

    /// Sends a change on its way. What is to come counts as claimed from now on, what is to go until the
    /// kernel has answered.
    pub(super) fn apply(&mut self, target: Claims) {
        let (mut acquired, mut released) = (0, 0);
        let services: BTreeSet<String> = target.keys().chain(self.claims.keys()).cloned().collect();
        for service in services {
            let before = self.claimed(&service);
            let after = target.get(&service).cloned().unwrap_or_default();
            acquired += after.minus(&before).len();
            released += before.minus(&after).len();
            let claimed = if self.broken(Broken::WordsFirst) { after } else { before.or(&after) };
            self.claims.insert(service, claimed);
        }
        self.change_id += 1;
        self.retry_at = None;
        self.refused = false;
        self.actions.push_back(Action::Apply(Change {
            id: self.change_id,
            claims: target.clone(),
            lease_until: self.lease.granted,
        }));
        self.pending = Some(Pending { id: self.change_id, target, acquired, released });
    }
}
