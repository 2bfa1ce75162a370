//! What must hold, one checker a file.

mod fence;
mod majority;
mod owners;
mod resets;
mod words;

use std::fmt;
use std::time::Duration;

use onemac_core::report::Report;
use onemac_core::view::Cluster;

use crate::clock::{At, MS, nanos};
use crate::config::{Config, DRIFT_MAX_PPM};
use crate::network::Apart;
use crate::world::{Host, World};

pub use self::owners::Owners;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: At,
    /// Which promise.
    pub property: &'static str,
    /// How.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.3} ms: {}: {}", self.at as f64 / MS as f64, self.property, self.text)
    }
}

/// What the checkers have to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Nothing that they did not see before.
    Nothing,
    /// The kernel of this host has changed.
    Kernel(usize),
    /// Time has passed.
    Time,
}

/// The checkers of the first phase.
#[derive(Debug, Default)]
pub struct Checks {
    apart: Apart,
    owners: Owners,
    resets: resets::Resets,
    majority: majority::Majority,
    found: Option<Violation>,
}

/// When two hosts are apart, see `docs/protocol.md`: a host may go on without the answers of another when it
/// has heard nothing of it for three quarters of a lease less two heartbeats; the other takes over when it has
/// heard nothing for an expiry. In true time, by clocks that run fast.
pub fn apart(config: &Config) -> Apart {
    let t = config.timing;
    let true_time = |d: Duration| nanos(d) * 1_000_000 / (1_000_000 + DRIFT_MAX_PPM);
    Apart { deaf: true_time((t.lease * 3 / 4).saturating_sub(t.heartbeat * 2)), mute: true_time(t.expiry()) }
}

impl Checks {
    /// The checkers of a run. `partitions` says whether the run may cut links at all; if not, nothing is put
    /// down to a partition.
    pub fn new(config: &Config, partitions: bool) -> Self {
        Checks {
            apart: apart(config),
            owners: Owners::new(config, partitions),
            // A kernel that refuses changes goes on resetting for a while after it should know better.
            resets: resets::Resets::new(owners::tail(config) * 2),
            majority: majority::Majority::new(config),
            found: None,
        }
    }

    /// See [`apart`].
    pub fn apart(&self) -> Apart {
        self.apart
    }

    /// Looks at a world after something has happened.
    pub fn look(&mut self, world: &World, moved: Moved) -> Result<(), Violation> {
        if let Some(found) = self.found.take() {
            return Err(found);
        }
        self.owners.look(world, moved)?;
        if moved != Moved::Nothing {
            self.resets.look(world)?;
        }
        let hosts = match moved {
            Moved::Nothing => return Ok(()),
            Moved::Kernel(host) => host..host + 1,
            Moved::Time => 0..world.hosts.len(),
        };
        for host in hosts {
            fence::look(world, host)?;
            words::look(world, host)?;
            self.majority.look(world, host)?;
        }
        Ok(())
    }

    /// Looks at what a host says, at the moment it says it.
    pub fn published(&mut self, host: &Host, number: usize, report: &Report, now: At, cluster: &Cluster) {
        let bad = words::published(host, number, report, now, cluster);
        self.found = self.found.take().or(bad);
    }

    /// How many times two owners were put down to a partition.
    pub fn partitions(&self) -> u64 {
        self.owners.partitions
    }
}
