//! Connections that stay where they are while their slices move.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::Node;
use crate::holding::Holdings;
use crate::report::{Claims, Left};
use crate::slices::SliceSet;
use crate::time::Time;

/// Which connections are followed, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The services whose connections the kernels know. Slices of other services move at once.
    pub services: BTreeSet<String>,
    /// After this time a slice that has moved on is closed, whatever still lives there.
    pub drain_timeout: Duration,
}

/// What a look at the kernel's connections has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// When the look began, on this host's clock.
    pub at: Time,
    /// Slices with living connections, whether they are ours or not.
    pub alive: Claims,
    /// The connections of slices that have moved on.
    pub left: Left,
}

/// What is known about the connections of this host.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Connections {
    follow: Follow,
    /// Since when the kernel accepts nothing but connections of a slice.
    since: BTreeMap<String, BTreeMap<u32, Time>>,
    /// Slices that were closed to all but connections, and have none left.
    ended: BTreeMap<String, SliceSet>,
    pub(super) left: Left,
}

impl Connections {
    pub(super) fn new(follow: Follow) -> Self {
        let (since, ended) = (BTreeMap::new(), BTreeMap::new());
        Connections { follow, since, ended, left: Left::default() }
    }

    pub(super) fn follows(&self, service: &str) -> bool {
        self.follow.services.contains(service)
    }

    pub(super) fn change(&mut self, follow: Follow) {
        self.follow = follow;
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        self.follow.drain_timeout
    }

    /// Slices of which nothing is left.
    pub(super) fn ended(&self, service: &str) -> SliceSet {
        self.ended.get(service).cloned().unwrap_or_default()
    }

    /// The kernel now holds this.
    pub(super) fn settled(&mut self, now: Time, held: &Holdings) {
        self.since.retain(|service, _| held.contains_key(service));
        self.ended.clear();
        for (service, held) in held {
            // What still takes new flows by relay can not end; what is relayed on may.
            let closed = held.moving.or(&held.all_relayed()).minus(&held.accepted).minus(&held.incoming);
            let since = self.since.entry(service.clone()).or_default();
            since.retain(|&slice, _| closed.contains(slice));
            for slice in closed.iter() {
                since.entry(slice).or_insert(now);
            }
        }
        if self.since.values().all(BTreeMap::is_empty) {
            self.left = Left::default();
        }
    }

    /// Takes in a look; says whether a slice has ended.
    fn looked(&mut self, look: &Look) -> bool {
        self.left = look.left;
        let mut news = false;
        for (service, since) in &self.since {
            let alive = look.alive.get(service);
            let over = |slice: u32, at: Time| at < look.at && alive.is_none_or(|a| !a.contains(slice));
            for (&slice, _) in since.iter().filter(|&(&slice, &at)| over(slice, at)) {
                news |= self.ended.entry(service.clone()).or_default().insert(slice);
            }
        }
        news
    }

    /// Gives up what has been moving for too long; says whether there was any.
    pub(super) fn forget(&mut self, now: Time) -> bool {
        let mut news = false;
        for (service, since) in &self.since {
            for (&slice, _) in since.iter().filter(|&(_, &at)| now.since(at) >= self.follow.drain_timeout) {
                news |= self.ended.entry(service.clone()).or_default().insert(slice);
            }
        }
        news
    }

    /// When the next slice will have been moving for too long.
    pub(super) fn deadline(&self) -> Option<Time> {
        let open = self.since.iter().flat_map(|(service, since)| {
            let ended = self.ended.get(service);
            since.iter().filter(move |&(&slice, _)| ended.is_none_or(|e| !e.contains(slice)))
        });
        open.map(|(_, &at)| at + self.follow.drain_timeout).min()
    }
}

impl Node {
    /// Slices that are closed to all but connections, since when: a caller should look at the kernel's
    /// connections now and then while there are any, and say what it saw ([`super::Input::Looked`]).
    pub fn moving(&self) -> &BTreeMap<String, BTreeMap<u32, Time>> {
        &self.connections.since
    }

    /// A look at the kernel's connections.
    pub(super) fn looked(&mut self, look: &Look) {
        let before = self.connections.left;
        self.moves_stale |= self.connections.looked(look);
        if (before.connections == 0) != (look.left.connections == 0) {
            self.voice.tell_all();
        }
    }
}
