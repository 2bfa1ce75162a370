//! What must hold, one checker a file.

mod fence;
mod majority;
mod owners;
mod resets;
pub mod share;
mod words;

use std::fmt;
use std::time::Duration;

use onemac_core::report::Report;
use onemac_core::view::Cluster;

use crate::clock::{At, MS, nanos};
use crate::config::{Config, DRIFT_MAX_PPM};
use crate::fault::Planned;
use crate::knowledge::Apart;
use crate::world::{Host, World};

pub use self::owners::Excused;
use self::owners::Owners;

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
    majority: majority::Majority,
    /// What one host's fault, or an operator, may cost.
    pub share: share::Share,
    found: Option<Violation>,
}

/// Two hosts are apart when one of them has had no news of the other for half a lease, for so long it waits for
/// answers; and the other has had none of it for an expiry, when it gives it up. In true time, by clocks that run
/// fast.
fn apart(config: &Config) -> Apart {
    let t = config.timing;
    let true_time = |d: Duration| nanos(d) * 1_000_000 / (1_000_000 + DRIFT_MAX_PPM);
    Apart { deaf: true_time(t.lease / 2), mute: true_time(t.expiry()) }
}

impl Checks {
    /// The checkers of a run with this plan.
    pub fn new(config: &Config, plan: &[Planned]) -> Self {
        Checks {
            apart: apart(config),
            owners: Owners::new(config, plan.iter().any(|p| p.fault.can_part())),
            majority: majority::Majority::new(config),
            share: share::Share::new(config, plan),
            found: None,
        }
    }

    /// What makes a partition.
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
            resets::look(world)?;
        }
        if moved == Moved::Time {
            self.share.look(world)?;
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

    /// What was put down to a partition.
    pub fn excused(&self) -> Excused {
        self.owners.excused()
    }
}
