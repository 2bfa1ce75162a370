//! Hosts that speak another version of the protocol: of their reports only who speaks, and whether it takes part,
//! can be read.
//!
//! What cannot be read cannot be agreed on, so hosts of two versions never serve side by side: whoever joins
//! waits for as long as a host of another version serves, or a newer one joins as well. Where both serve, since they
//! could not hear each other before, the older version gives way.

use alloc::string::String;
use alloc::vec::Vec;

use super::{Event, Node};
use crate::time::Time;

/// A host of another version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign {
    heard: Time,
    serves: bool,
    newer: bool,
}

impl Node {
    /// A word of another version.
    pub(super) fn hear_foreign(&mut self, now: Time, host: String, serves: bool, newer: bool) {
        self.foreign.insert(host, Foreign { heard: now, serves, newer });
    }

    /// Forgets what was heard too long ago.
    pub(super) fn expire_foreign(&mut self, now: Time) {
        let expiry = self.expiry();
        self.foreign.retain(|_, foreign| now.since(foreign.heard) < expiry);
    }

    /// Whom a joining host has to wait for.
    pub(super) fn foreign_first(&self) -> Vec<String> {
        let first = self.foreign.iter().filter(|(_, f)| f.serves || f.newer);
        first.map(|(host, _)| host.clone()).collect()
    }

    /// Starts over if hosts of a newer version serve too.
    pub(super) fn yield_to_newer_version(&mut self, now: Time) -> bool {
        let newer = self.foreign.iter().filter(|(_, f)| f.serves && f.newer);
        let hosts: Vec<String> = newer.map(|(host, _)| host.clone()).collect();
        if hosts.is_empty() {
            return false;
        }
        self.note(Event::NewerVersion { hosts });
        self.begin(now, self.stamp.incarnation + 1);
        true
    }
}
