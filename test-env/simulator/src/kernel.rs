//! A host's kernel as the protocol sees it: it holds claims and the end of a lease, works through changes
//! one by one, and goes on by itself.

use std::collections::VecDeque;

use onemac_core::node::Change;
use onemac_core::time::Time;

use crate::clock::At;
use crate::mask::Mask;

/// Something for the kernel to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// Hold exactly this.
    Apply(Change),
    /// End the lease then.
    Renew(Time),
    /// Forget everything: the agent has gone in order.
    Clear,
}

/// One host's kernel, with the queue of its agent in front of it.
#[derive(Debug, Default)]
pub struct Kernel {
    /// What it would accept.
    pub claims: Mask,
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
}

impl Kernel {
    /// What it accepts when the host's clock shows `now`.
    pub fn accepts(&self, now: Time) -> Mask {
        match now.0 < self.lease_until.0.saturating_add(self.late) && self.lease_until.0 > 0 {
            true => self.claims,
            false => Mask::default(),
        }
    }
}
