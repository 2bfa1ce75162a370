//! How long the kernel may go on accepting without hearing from its agent.
//!
//! A peer gives us up an expiry after it last heard us, or after it began to listen. So the lease must run
//! from a moment that is not later than that: the publication of a report that the peer has answered. It is
//! the agent's own word that the lease hangs on, never the kernel's answer.
//!
//! With [`Partition::Serve`] the answers of every living peer count that has been heard within half a lease. Who is
//! silent for longer is dead, or lives and neither hears us nor is heard: that is a partition, in which each side serves.
//! Who is heard and does not answer may be about to take over: the lease ends before it does.
//!
//! With [`Partition::Majority`] the answers of any hosts count that suffice to serve without the others,
//! and nobody is left out.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use serde::Serialize;

use super::membership::Peer;
use super::{Action, Broken, Node, Partition};
use crate::report::HostState;
use crate::time::Time;

/// What is known about our own heartbeats.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Lease {
    /// When the last datagram with a heartbeat left.
    last_sent: Option<Time>,
    /// When our recent reports were published, by their number; no older than a lease, so at most as
    /// many as we publish in that time.
    published: VecDeque<(u64, Time)>,
    /// The end of the lease that the kernel was last given.
    pub(super) granted: Option<Time>,
    /// The end of the lease that the kernel is known to have.
    pub(super) confirmed: Option<Time>,
}

impl Lease {
    pub(super) fn sent(&mut self, at: Time) {
        self.last_sent = self.last_sent.max(Some(at));
    }

    /// What was asked for in an earlier life says nothing of this one.
    pub(super) fn renewed(&mut self, until: Time) {
        self.confirmed = self.granted.map(|_| until);
    }

    pub(super) fn published(&mut self, seq: u64, now: Time, keep: Duration) {
        while self.published.front().is_some_and(|&(_, at)| now.since(at) > keep) {
            self.published.pop_front();
        }
        self.published.push_back((seq, now));
    }

    /// When report `seq` was published; `None` if that is longer ago than a lease.
    pub(super) fn time_of(&self, seq: u64) -> Option<Time> {
        let i = self.published.binary_search_by_key(&seq, |&(s, _)| s).ok()?;
        self.published.get(i).map(|&(_, at)| at)
    }
}

impl Node {
    /// Gives the kernel another end of the lease if the answers allow or demand it. Many datagrams may
    /// carry one heartbeat, so half a heartbeat's gain is waited for.
    pub(super) fn renew_lease(&mut self, now: Time) {
        if !self.serves() {
            return;
        }
        let Some(until) = self.provable_lease(now) else { return };
        let granted = self.lease.granted;
        let earlier = self.partition == Partition::Serve
            && granted.is_some_and(|old| until < old)
            && !self.broken(Broken::LeaseNeverShrinks);
        if earlier || granted.is_none_or(|old| until >= old + self.timing.heartbeat / 2) {
            self.lease.granted = Some(until);
            self.lease.confirmed = self.lease.confirmed.or(Some(until));
            self.moves_stale |= granted.is_none();
            self.actions.push_back(Action::Renew { lease_until: until });
        }
    }

    /// The end of the lease that the answers prove.
    pub(super) fn provable_lease(&self, now: Time) -> Option<Time> {
        match self.partition {
            Partition::Serve => self.until_all_may_miss_us(now),
            Partition::Majority => self.until_most_may_miss_us(now),
        }
    }

    /// Whether the kernel has been left without a lease. Such a lease is never taken up again, not even by
    /// a host that has no slices yet: somebody may be taking over at this moment.
    pub(super) fn lease_lapsed(&self, now: Time) -> bool {
        self.lease_end().is_some_and(|until| now >= until)
    }

    /// When the kernel's lease ends, as far as is known: a renewal that the kernel has not taken is none.
    pub(super) fn lease_end(&self) -> Option<Time> {
        let confirmed = match self.broken(Broken::RenewalsUnconfirmed) {
            true => self.lease.granted,
            false => self.lease.confirmed,
        };
        self.lease.granted.min(confirmed).filter(|_| self.serves())
    }

    /// The end of the lease by the answers of every living peer.
    fn until_all_may_miss_us(&self, now: Time) -> Option<Time> {
        let mut until = self.lease.last_sent? + self.timing.lease;
        for peer in self.peers.values().filter(|p| self.counts(p, now)) {
            until = until.min(self.proven_by(peer).or(self.lease.granted)?);
        }
        Some(until)
    }

    /// Until when a peer that has answered does not take over; none if it has not yet, or has forgotten us, for then it
    /// listens for long enough. So does one that joins: it shortens nothing.
    fn proven_by(&self, peer: &Peer) -> Option<Time> {
        let end = peer.basis.filter(|_| peer.knows_us)? + self.timing.lease;
        let joins = peer.report.state == HostState::Joining;
        Some(if joins { self.lease.granted.map_or(end, |old| old.max(end)) } else { end })
    }

    /// Whether a peer may take over from us without our hearing of it in time.
    fn counts(&self, peer: &Peer, now: Time) -> bool {
        let silence = match self.broken(Broken::SilenceIsDeath) {
            true => self.timing.heartbeat,
            false => self.timing.silence(),
        };
        let may_take_over = peer.alive && (!peer.report.deaf || self.broken(Broken::DeafAwaited));
        // Where it would have taken over before it was heard again, its first word may be that of a host that died since. It
        // may have heard us for a heartbeat or two longer than it could tell us.
        let would_have = self.timing.expiry() + self.timing.heartbeat * 2;
        let late = peer.basis.is_none_or(|basis| peer.back >= basis + would_have);
        let speaks = !late || peer.heard.since(peer.back) >= self.timing.heartbeat / 2;
        may_take_over && speaks && now.since(peer.heard) < silence && !self.broken(Broken::NoAcknowledgements)
    }

    /// The end of the lease by the answers of the hosts that suffice to serve without the others. A host
    /// counts once it has answered without a gap for an expiry: by then nobody can still be relying on what
    /// it said before it heard us.
    fn until_most_may_miss_us(&self, now: Time) -> Option<Time> {
        let sent = self.lease.last_sent? + self.timing.lease;
        let mut ends: Vec<(Time, &str)> = Vec::new();
        for (name, peer) in &self.peers {
            let probation = now.since(peer.constant_since) < self.timing.expiry();
            if let Some(basis) = peer.basis.filter(|_| !probation || self.broken(Broken::NoProbation)) {
                ends.push((basis + self.timing.lease, name));
            }
        }
        ends.sort_unstable_by(|a, b| b.cmp(a));
        for n in 0..=ends.len() {
            let present = |h: &alloc::string::String| *h == self.me || ends[..n].iter().any(|(_, e)| e == h);
            if self.partition.suffices(&self.cluster, present) {
                let until = ends[..n].last().map_or(sent, |&(end, _)| end.min(sent));
                return Some(until).filter(|&t| t > now);
            }
        }
        None
    }
}
