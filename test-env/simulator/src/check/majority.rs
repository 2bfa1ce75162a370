//! With `partition: majority` only a side with most of the hosts holds anything: whoever accepts has had
//! news, not older than a lease, of so many hosts that no other side can have as many.

use onemac_core::node::Partition;

use super::Violation;
use crate::clock::{At, MS, nanos};
use crate::config::{Config, DRIFT_MAX_PPM};
use crate::world::{World, name};

#[derive(Debug, Default)]
pub(super) struct Majority {
    asked: bool,
    lease: At,
}

impl Majority {
    pub(super) fn new(config: &Config) -> Self {
        Majority {
            asked: config.partition == Partition::Majority,
            // In true time, by the slowest clock, and noticed as late as kernels do.
            lease: nanos(config.timing.lease) * 1_000_000 / (1_000_000 - DRIFT_MAX_PPM) + 12 * MS,
        }
    }

    pub(super) fn look(&self, world: &World, host: usize) -> Result<(), Violation> {
        if !self.asked || world.accepts(host).is_empty() {
            return Ok(());
        }
        let all = world.hosts.len();
        let since = world.now.saturating_sub(self.lease);
        let fresh = |other: usize| other == host || world.knowledge.known(host, other) >= since;
        let count = (0..all).filter(|&h| fresh(h)).count();
        // Host 0 is the first by name, for there are at most ten.
        if count * 2 > all || count * 2 == all && fresh(0) {
            return Ok(());
        }
        Err(Violation {
            at: world.now,
            property: "a minority holds nothing",
            text: format!("{} accepts, with news of {count} of {all} hosts", name(host)),
        })
    }
}
