//! No flow ever has two owners: no slice is accepted by two kernels at one instant.
//!
//! With `partition: serve` one exception is made: two hosts may both accept while they are apart, which is while both
//! run and neither has news of the other, directly or by way of others ([`crate::knowledge::Knowledge`]). It ends when
//! the first news has been read and the kernel of its reader has had the time to follow.

use onemac_core::node::Partition;

use super::{Moved, Violation};
use crate::clock::At;
use crate::config::Config;
use crate::mask::Mask;
use crate::world::{World, name};

/// The checker.
#[derive(Debug, Default)]
pub struct Owners {
    excuses: bool,
    /// Since when two hosts have been seen to accept the same, and were excused.
    overlap: Option<At>,
    excused: Excused,
}

/// What was put down to a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excused {
    /// How many times.
    pub times: u64,
    /// For how long in all.
    pub lasted: At,
}

impl Owners {
    /// The checker of a run that may or may not cut links.
    pub fn new(config: &Config, partitions: bool) -> Self {
        Owners {
            excuses: partitions && config.partition == Partition::Serve,
            overlap: None,
            excused: Excused::default(),
        }
    }

    /// What was put down to a partition until now.
    pub fn excused(&self) -> Excused {
        self.excused
    }

    pub(super) fn look(&mut self, world: &World, moved: Moved) -> Result<(), Violation> {
        let all = world.hosts.len();
        // An overlap can only begin where a kernel changes; but an excuse can end at any time.
        let first = match moved {
            _ if self.overlap.is_some() => 0..all,
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
        match (overlap, self.overlap) {
            (true, None) => {
                self.overlap = Some(world.now);
                self.excused.times += 1;
            }
            (false, Some(since)) => {
                self.excused.lasted += world.now - since;
                self.overlap = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether those who decide that `a` and `b` serve a slice were apart: each host itself if it accepts the
    /// slice, else whoever sends it on to it.
    fn is_excused(&self, world: &World, slice: u32, a: usize, b: usize) -> bool {
        let (for_a, for_b) = (world.deciders(slice, a), world.deciders(slice, b));
        let apart = |x: usize, y: usize| world.knowledge.is_excused(x, y, world.now);
        for_a.iter().all(|&x| for_b.iter().all(|&y| apart(x, y)))
    }
}
