//! How long the kernel may go on accepting without hearing from its agent.
//!
//! A peer gives us up an expiry after it last heard us, or after it began to listen. So the lease must run
//! from a moment that is not later than that: the publication of a report that the peer has answered. It is
//! the agent's own word that the lease hangs on, never the kernel's answer.
//!
//! With [`Partition::Serve`] every living peer's answer counts. One that falls silent for good cannot
//! answer; when its last answer is about to run out, it is left out of the count if it kept answering
//! promptly until it fell silent ([`ANSWER_LATE`]), which tells a dead host from one that we do not reach.
//! Should it live, deaf and mute to us, that is a total partition, in which each side serves.
//!
//! With [`Partition::Majority`] the answers of any hosts count that suffice to serve without the others,
//! and nobody is left out.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use serde::Serialize;

use super::membership::Peer;
use super::{Action, Broken, Node, Partition};
use crate::time::Time;

/// A peer's last word must have answered one of ours that was at most so many heartbeats old: two let one
/// of our heartbeats or one answer get lost.
const ANSWER_LATE: u32 = 2;

/// For so many heartbeats we must have been awake ourselves before somebody's silence means anything.
const AWAKE: u32 = 2;

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
    /// When this host last woke from a sleep.
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
    pub(super) fn time_of(&self, seq: u64) -> Option<Time> {
        let i = self.published.binary_search_by_key(&seq, |&(s, _)| s).ok()?;
        self.published.get(i).map(|&(_, at)| at)
    }
}

/// What one peer's answers say about our lease.
enum Answer {
    /// It does not give us up for a lease and a margin after this lease would end.
    Until(Time),
    /// It is dead, or we are a cluster of our own.
    Silent,
    /// It lives, and may be about to take over.
    Unproven,
}

impl Node {
    /// Gives the kernel another end of the lease if the answers allow or demand it. Many datagrams may
    /// carry one heartbeat, so half a heartbeat's gain is waited for.
    pub(super) fn renew_lease(&mut self, now: Time) {
        if !self.serves() {
            return;
        }
        let until = match self.partition {
            Partition::Serve => self.until_all_may_miss_us(now),
            Partition::Majority => self.until_most_may_miss_us(now),
        };
        let Some(until) = until else { return };
        let granted = self.lease.granted;
        let earlier = self.partition == Partition::Serve && granted.is_some_and(|old| until < old);
        if earlier || granted.is_none_or(|old| until >= old + self.timing.heartbeat / 2) {
            self.lease.granted = Some(until);
            self.moves_stale |= granted.is_none();
            self.actions.push_back(Action::Renew { lease_until: until });
        }
    }

    /// Whether the kernel has been left without a lease. Such a lease is never taken up again, not even by
    /// a host that has no slices yet: somebody may be taking over at this moment.
    pub(super) fn lease_lapsed(&self, now: Time) -> bool {
        self.serves() && self.lease.granted.is_some_and(|until| now >= until)
    }

    /// The end of the lease by the answers of every living peer.
    fn until_all_may_miss_us(&self, now: Time) -> Option<Time> {
        let mut until = self.lease.last_sent? + self.timing.lease;
        for peer in self.peers.values().filter(|p| p.alive) {
            match self.answer(peer, now) {
                Answer::Until(end) => until = until.min(end),
                Answer::Silent => {}
                Answer::Unproven => return None,
            }
        }
        Some(until)
    }

    fn answer(&self, peer: &Peer, now: Time) -> Answer {
        if self.broken(Broken::NoAcknowledgements) {
            return Answer::Silent;
        }
        let Some(basis) = peer.basis else { return Answer::Unproven };
        let end = basis + self.timing.lease;
        if end > now + self.timing.lease / 4 {
            return Answer::Until(end);
        }
        let awake = self.lease.woke.is_none_or(|woke| now.since(woke) >= self.timing.heartbeat * AWAKE);
        let answered_promptly = peer.arrived.since(basis) <= self.timing.heartbeat * ANSWER_LATE;
        match awake && (answered_promptly || self.broken(Broken::SilenceIsDeath)) {
            true => Answer::Silent,
            false => Answer::Unproven,
        }
    }

    /// The end of the lease by the answers of the hosts that suffice to serve without the others. A host
    /// counts once it has answered without a gap for an expiry: by then nobody can still be relying on what
    /// it said before it heard us.
    fn until_most_may_miss_us(&self, now: Time) -> Option<Time> {
        let sent = self.lease.last_sent? + self.timing.lease;
        let mut ends: Vec<(Time, &str)> = Vec::new();
        for (name, peer) in &self.peers {
            let probation = now.since(peer.constant_since) < self.timing.expiry();
            let counts = peer.answered.is_some() && (!probation || self.broken(Broken::NoProbation));
            if let Some(basis) = peer.basis.filter(|_| counts) {
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
