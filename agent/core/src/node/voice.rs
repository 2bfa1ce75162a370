//! When and to whom this host speaks.
//!
//! All that happens in one step is said in one report. Every heartbeat goes to everyone; news go out at
//! once, while they last: in a storm of news (hundreds of hosts that start at one moment) the rest waits
//! for the next heartbeat, which says it all anyway.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;

use serde::Serialize;

use super::handover::relayed;
use super::{Action, Node, Phase, Recipients};
use crate::holding;
use crate::report::{Claims, Report};

/// How many datagrams of news a host sends between two heartbeats: sixteen heartbeats' worth, but in a large
/// cluster not more than a socket's buffer holds while its reader is busy with the same storm. A death costs
/// each host two heartbeats' worth: it says its new view, and answers everyone else's.
fn news_max(peers: usize) -> usize {
    (peers * 16).min(1000.max(peers * 2))
}

/// What is to be said at the end of the step.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Voice {
    to_all: bool,
    heartbeat: bool,
    to: BTreeSet<String>,
    peers: usize,
    /// Datagrams of news that may still be sent before the next heartbeat.
    left: usize,
}

impl Voice {
    pub(super) fn new(hosts: usize) -> Self {
        let peers = hosts.saturating_sub(1);
        Voice { peers, left: news_max(peers), ..Voice::default() }
    }

    /// The cluster has another size.
    pub(super) fn know(&mut self, hosts: usize) {
        self.peers = hosts.saturating_sub(1);
    }

    /// There is news for everyone.
    pub(super) fn tell_all(&mut self) {
        self.to_all = true;
    }

    /// This host waits for our word.
    pub(super) fn tell(&mut self, host: String) {
        self.to.insert(host);
    }

    /// It is time for a heartbeat.
    pub(super) fn beat(&mut self) {
        self.heartbeat = true;
        self.left = news_max(self.peers);
    }

    /// Forgets what was to be said.
    pub(super) fn hush(&mut self) {
        self.to_all = false;
        self.heartbeat = false;
        self.to.clear();
    }
}

impl Node {
    /// Says what is to be said.
    pub(super) fn speak(&mut self) {
        if matches!(self.phase, Phase::Starting | Phase::Left) {
            return self.voice.hush();
        }
        let all = self.voice.heartbeat || self.voice.to_all && self.voice.left >= self.voice.peers;
        if all {
            if !self.voice.heartbeat {
                self.voice.left -= self.voice.peers;
            }
            self.publish(Recipients::All);
        } else {
            while self.voice.left > 0
                && let Some(host) = self.voice.to.pop_first()
            {
                self.voice.left -= 1;
                self.publish(Recipients::One(host));
            }
        }
        self.voice.hush();
    }

    /// Says where we stand.
    pub(super) fn publish(&mut self, to: Recipients) {
        self.stamp.seq += 1;
        self.lease.published(self.stamp.seq, self.last_step, self.timing.lease);
        let report = self.report();
        self.remember();
        self.actions.push_back(Action::Publish { report: Box::new(report), to });
    }

    /// Where we stand.
    pub(super) fn report(&self) -> Report {
        // Also of those that are gone: one that comes back must see that we stopped hearing it.
        let heard = self.peers.iter().map(|(n, p)| (n.clone(), p.report.stamp));
        Report {
            host: self.me.clone(),
            stamp: self.stamp,
            definition: self.cluster.definition,
            mac: self.mac,
            state: self.state(),
            weight: self.weight,
            deaf: self.deaf,
            candidate: self.candidate_since.is_some(),
            view: self.view.as_ref().filter(|v| self.hears_nobody_outside(v)).map(|v| v.id),
            drained: self.drained.clone(),
            staged: self.staged.as_ref().map(|s| s.cluster.definition),
            claims: holding::pick(&self.held, |h| h.accepted.clone()),
            relayed: relayed(&self.held),
            ready: filled(&self.ready),
            moving: filled(&holding::pick(&self.held, |h| h.connections())),
            left: self.connections.left,
            heard: heard.collect(),
        }
    }
}

/// Without the services of which there is nothing to say.
fn filled(claims: &Claims) -> Claims {
    claims.iter().filter(|(_, slices)| !slices.is_empty()).map(|(s, c)| (s.clone(), c.clone())).collect()
}
