//! Hosts that speak another version of the protocol: of their reports only who speaks, and what part it takes, can be
//! read.
//!
//! What cannot be read cannot be agreed on, so hosts of two versions never serve side by side:
//!
//! 1. Who joins waits for as long as a host of another version serves, or one of a newer version is about to.
//! 2. Who hears of another version serves only after it has said for an expiry that it is about to.
//! 3. Where both serve, since they could not hear each other before, the older version gives way.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use super::{Event, Node};
use crate::report::{Part, Stamp};
use crate::time::Time;

/// A host of another version.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Foreign {
    /// Its last word; none is believed that is not later.
    stamp: Stamp,
    /// When that came; none if it is too long ago.
    pub heard: Option<Time>,
    part: Part,
    newer: bool,
}

impl Node {
    /// A word of another version.
    pub(super) fn hear_foreign(&mut self, now: Time, host: String, stamp: Stamp, part: Part, newer: bool) {
        let known = self.foreign.get(&host);
        if host == self.me
            || !self.cluster.hosts.contains_key(&host)
            || known.is_some_and(|known| known.stamp >= stamp)
        {
            return;
        }
        self.foreign.insert(host, Foreign { stamp, heard: Some(now), part, newer });
    }

    /// Forgets what was heard too long ago, but not how far it went.
    pub(super) fn expire_foreign(&mut self, now: Time) {
        let expiry = self.expiry();
        for foreign in self.foreign.values_mut() {
            foreign.heard = foreign.heard.filter(|&heard| now.since(heard) < expiry);
        }
    }

    /// Configured hosts that speak another version now.
    pub(super) fn other_version(&self) -> impl Iterator<Item = (&String, &Foreign)> {
        self.foreign.iter().filter(|(_, foreign)| foreign.heard.is_some())
    }

    /// Whom a joining host has to wait for.
    pub(super) fn foreign_first(&self) -> Vec<String> {
        let first = |f: &Foreign| f.part == Part::Serves || f.newer && f.part == Part::Candidate;
        self.other_version().filter(|(_, f)| first(f)).map(|(host, _)| host.clone()).collect()
    }

    /// Whether hosts of another version take part now.
    pub(super) fn is_foreign_served(&self) -> bool {
        self.other_version().any(|(_, f)| f.part == Part::Serves)
    }

    /// Starts over if hosts of a newer version serve too.
    pub(super) fn yield_to_newer_version(&mut self, now: Time) -> bool {
        let newer = self.other_version().filter(|(_, f)| f.newer && f.part == Part::Serves);
        let hosts: Vec<String> = newer.map(|(host, _)| host.clone()).collect();
        if hosts.is_empty() {
            return false;
        }
        self.note(Event::NewerVersion { hosts });
        self.start_over(now);
        true
    }
}
