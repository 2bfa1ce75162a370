//! A host's kernel as the protocol sees it: it holds slices and the end of a lease, works through changes
//! one by one, and goes on by itself.

use std::collections::{BTreeMap, VecDeque};

use onemac_core::holding::{self, Holding, Holdings};
use onemac_core::node::Change;
use onemac_core::slices::SliceSet;
use onemac_core::time::Time;

use crate::clock::{At, MS};
use crate::mask::Mask;
use crate::world::index;

/// Connections that live on other hosts: by host and slice, when the newest one began. All older ones are meant
/// too, whether they live or not.
pub type Elsewhere = BTreeMap<(usize, u32), At>;

/// Something for the kernel to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// Hold exactly this, as was decided then, and of the slices of which the host is the heir, be silent to these
    /// connections.
    Apply(Change, Elsewhere, At),
    /// End the lease then.
    Renew(Time),
    /// Forget everything: the agent has gone in order.
    Clear,
}

/// What a kernel does with slices.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// As it was told.
    pub told: Holdings,
    /// New flows are accepted.
    pub accepted: Mask,
    /// Of these, connections that are not known here are reset.
    pub resets: Mask,
    /// Of these, they are reset unless they are known to live elsewhere.
    pub heir: Mask,
    /// Of these, nothing is reset because somebody else has connections.
    pub silent: Mask,
    /// Connections that are known to live elsewhere.
    pub elsewhere: Elsewhere,
    /// What others send on is accepted.
    pub incoming: Mask,
    /// What is sent on, and to whom.
    pub relayed: Vec<(usize, Mask)>,
    /// Connections are accepted, new flows are not.
    pub connections: Mask,
}

impl Holds {
    /// The same as quick masks.
    pub fn of(told: &Holdings, elsewhere: Elsewhere, services: &[String], slices: u32) -> Self {
        let mask = |set: &dyn Fn(&Holding) -> SliceSet| Mask::of(&holding::pick(told, set), services, slices);
        let mut hosts: Vec<&String> = told.values().flat_map(|h| h.relayed.keys()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let to = |host: &String| mask(&|h| h.relayed.get(host).cloned().unwrap_or_default());
        Holds {
            accepted: mask(&|h| h.accepted.clone()),
            resets: mask(&|h| h.accepted.minus(&h.shared).minus(&h.taking)),
            heir: mask(&|h| h.accepted.and(&h.heir).minus(&h.taking)),
            silent: mask(&|h| h.accepted.and(&h.shared).minus(&h.heir).minus(&h.taking)),
            elsewhere,
            incoming: mask(&|h| h.incoming.clone()),
            relayed: hosts.into_iter().filter_map(|host| Some((index(host)?, to(host)))).collect(),
            connections: mask(&|h| h.connections()),
            told: told.clone(),
        }
    }
}

/// One host's kernel, with the queue of its agent in front of it.
#[derive(Debug, Default)]
pub struct Kernel {
    /// What it would do.
    pub holds: Holds,
    /// When that was decided.
    pub decided: At,
    /// Until when, on the host's clock.
    pub lease_until: Time,
    /// By how many nanoseconds it notices the end of a lease too late.
    pub late: u64,
    /// What the agents of this host have asked for, with the number of the agent.
    pub queue: VecDeque<(u64, Work)>,
    /// Takes up to so many milliseconds for a change.
    pub slow_ms: u64,
    /// Refuses so many of 1,000 changes.
    pub refuses: u64,
    /// Does nothing before this.
    pub stuck_until: At,
    /// Takes no renewal before this.
    pub no_renewals_until: At,
    /// The wall clock has jumped: it is silent until it is told another end of the lease.
    pub jumped: bool,
    /// Slices of which connections live here.
    pub alive: Mask,
    /// When the newest connection of each slice began, living or not.
    pub began: Vec<At>,
}

impl Kernel {
    /// Whether it does anything at all when the host's clock shows `now`.
    pub fn is_open(&self, now: Time) -> bool {
        now.0 < self.lease_until.0.saturating_add(self.late) && self.lease_until.0 > 0 && !self.jumped
    }

    /// Whether it has yet to learn what was decided since.
    pub fn is_behind(&self) -> bool {
        self.queue.iter().any(|(_, work)| matches!(work, Work::Apply(..)))
    }

    /// From `now` on, so long at most until it has done what it is asked for, if it does not refuse.
    pub fn takes(&self, now: At) -> At {
        let one = (self.slow_ms + 1) * MS;
        self.stuck_until.saturating_sub(now) + one * (self.queue.len() as u64 + 2)
    }

    /// When the newest connection of a slice began.
    pub fn newest(&self, slice: u32) -> At {
        self.began.get(slice as usize).copied().unwrap_or_default()
    }

    /// Connections of these slices begin.
    pub fn connect(&mut self, served: &Mask, now: At) {
        self.alive = self.alive.or(served);
        for slice in served.iter() {
            if self.began.len() <= slice as usize {
                self.began.resize(slice as usize + 1, 0);
            }
            self.began[slice as usize] = now;
        }
    }

    /// The new flows that it accepts by itself when the host's clock shows `now`.
    pub fn accepts(&self, now: Time) -> Mask {
        if self.is_open(now) { self.holds.accepted } else { Mask::default() }
    }
}
