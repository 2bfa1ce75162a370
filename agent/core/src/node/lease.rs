//! How long the kernel may go on accepting without hearing from its agent.
//!
//! A peer holds us for gone an expiry after it last heard us. So the lease must run from a moment that
//! is not later than that: the publication of a report that the peer has acknowledged. A peer without a
//! voice (dead, most likely) cannot acknowledge and is left out after [`SILENCE`]; should it live, deaf
//! and mute to us, that is a partition, and the policy for partitions applies.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::{Action, Node, Phase};
use crate::time::Time;

/// After so many heartbeats without a word a peer's acknowledgements are no longer waited for.
const SILENCE: u32 = 3;

/// What is known about our own heartbeats.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// When the last datagram with a heartbeat left.
    last_sent: Option<Time>,
    /// When our recent reports were published, by their number; no older than a lease, so at most as
    /// many as we publish in that time.
    published: VecDeque<(u64, Time)>,
    /// The end of the lease that the kernel was last given.
    granted: Option<Time>,
    /// When this host last woke from a sleep of more than two heartbeats.
    pub(super) woke: Option<Time>,
}

impl Lease {
    pub(super) fn sent(&mut self, at: Time) {
        self.last_sent = self.last_sent.max(Some(at));
    }

    pub(super) fn published(&mut self, seq: u64, now: Time, keep: Duration) {
        while self.published.front().is_some_and(|&(_, at)| now.since(at) > keep) {
            self.published.pop_front();
        }
        self.published.push_back((seq, now));
    }

    /// When report `seq` was published; `None` if that is longer ago than a lease.
    fn time_of(&self, seq: u64) -> Option<Time> {
        let i = self.published.binary_search_by_key(&seq, |&(s, _)| s).ok()?;
        self.published.get(i).map(|&(_, at)| at)
    }
}

impl Node {
    /// The end of the lease that this host may give its kernel at `now`, with a change.
    pub(super) fn grant_lease(&mut self, now: Time) -> Option<Time> {
        let until = self.lease_basis(now)? + self.timing.lease;
        self.lease.granted = self.lease.granted.max(Some(until));
        Some(until)
    }

    /// Prolongs the kernel's lease if a later heartbeat allows it. Many datagrams may carry one
    /// heartbeat, so half a heartbeat's gain is waited for.
    pub(super) fn renew_lease(&mut self, now: Time) {
        let Some(until) = self.lease_basis(now).map(|basis| basis + self.timing.lease) else { return };
        if self.lease.granted.is_none_or(|old| until >= old + self.timing.heartbeat / 2) {
            self.lease.granted = Some(until);
            self.actions.push_back(Action::Renew { lease_until: until });
        }
    }

    /// Whether the kernel has been left without a lease while it had slices. Such a lease is never taken
    /// up again: somebody may be taking over at this moment.
    pub(super) fn lease_lapsed(&self, now: Time) -> bool {
        let serves = matches!(self.phase, Phase::Serving | Phase::Leaving { .. });
        serves && !self.claims_nothing() && self.lease.granted.is_some_and(|until| now >= until)
    }

    /// The latest moment at which all that may take over from us are known to have heard us.
    fn lease_basis(&self, now: Time) -> Option<Time> {
        if !matches!(self.phase, Phase::Serving | Phase::Leaving { .. }) {
            return None;
        }
        let silence = self.timing.heartbeat * SILENCE;
        let mut basis = self.lease.last_sent?;
        for peer in self.peers.values() {
            if !peer.alive || now.since(peer.heard) > silence {
                continue;
            }
            let heard = peer.report.heard.get(&self.me);
            let Some(ours) = heard.filter(|stamp| stamp.incarnation == self.stamp.incarnation) else {
                // Who has never heard us may be deaf, and must not silence the whole cluster by that. But
                // if it is we who slept, it had no chance to hear us, and may be about to take over.
                if self.lease.woke.is_some_and(|woke| now.since(woke) < self.timing.expiry()) {
                    return None;
                }
                continue;
            };
            basis = basis.min(self.lease.time_of(ours.seq)?);
        }
        Some(basis)
    }
}
