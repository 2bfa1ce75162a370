//! No flow ever has two owners: no slice is accepted by two kernels at one instant.
//!
//! With `partition: serve` one exception is made, and the numbers that bound it are those that
//! docs/protocol.md argues for: two hosts may both accept while they are apart ([`super::apart`]: neither
//! has news of the other, directly or by way of others), or until a lease after that has ended.

use onemac_core::node::Partition;

use super::{Moved, Violation};
use crate::clock::{At, nanos};
use crate::config::{Config, DRIFT_MAX_PPM};
use crate::mask::Mask;
use crate::world::{World, name};

/// For how long after a partition its effects are excused.
pub(super) fn tail(config: &Config) -> At {
    let t = config.timing;
    let lease = nanos(t.lease) * (1_000_000 + DRIFT_MAX_PPM) / (1_000_000 - DRIFT_MAX_PPM);
    // The first news after a partition may get lost a few times before it is understood.
    lease + 3 * nanos(t.heartbeat)
}

/// The checker.
#[derive(Debug, Default)]
pub struct Owners {
    excuses: bool,
    tail: At,
    /// Two hosts were seen to accept the same at the last look, and were excused.
    overlap: bool,
    /// How many times that came about.
    pub partitions: u64,
}

impl Owners {
    /// The checker of a run that may or may not cut links.
    pub fn new(config: &Config, partitions: bool) -> Self {
        Owners {
            excuses: partitions && config.partition == Partition::Serve,
            tail: tail(config),
            overlap: false,
            partitions: 0,
        }
    }

    pub(super) fn look(&mut self, world: &World, moved: Moved) -> Result<(), Violation> {
        let all = world.hosts.len();
        // An overlap can only begin where a kernel changes; but an excuse can end at any time.
        let first = match moved {
            _ if self.overlap => 0..all,
            // By what it sends on, a kernel that changes may make another host serve.
            Moved::Kernel(_) | Moved::Time => 0..all,
            Moved::Nothing => return Ok(()),
        };
        let accepts: Vec<Mask> = world.serves();
        let mut overlap = false;
        for a in first.filter(|&a| !accepts[a].is_empty()) {
            for b in (0..all).filter(|&b| b != a) {
                let both = accepts[a].and(&accepts[b]);
                if both.is_empty() {
                    continue;
                }
                overlap = true;
                if self.excuses && both.iter().all(|slice| self.is_excused(world, slice, a, b)) {
                    continue;
                }
                let slices: Vec<u32> = both.iter().collect();
                return Err(Violation {
                    at: world.now,
                    property: "never two owners",
                    text: format!("{} and {} both accept {slices:?}", name(a.min(b)), name(a.max(b))),
                });
            }
        }
        self.partitions += u64::from(overlap && !self.overlap);
        self.overlap = overlap;
        Ok(())
    }

    /// Whether those who decide that `a` and `b` serve a slice were apart: each host itself if it accepts the
    /// slice, else whoever sends it on to it.
    fn is_excused(&self, world: &World, slice: u32, a: usize, b: usize) -> bool {
        let (for_a, for_b) = (world.deciders(slice, a), world.deciders(slice, b));
        let apart = |x: usize, y: usize| x != y && world.knowledge.were_apart(x, y, world.now, self.tail);
        for_a.iter().all(|&x| for_b.iter().all(|&y| apart(x, y)))
    }
}
