//! Many runs, and what came of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use onemac_core::node::{Mutation, Partition};

use crate::check::{Excused, Violation};
use crate::clock::At;
use crate::config::Config;
use crate::fault::plan;
use crate::run::{healing_bound, run};
use crate::world::Counts;

/// Which runs.
#[derive(Clone, Debug)]
pub struct Series {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// How many hosts, if not by seed.
    pub hosts: Option<usize>,
    /// What a part of the cluster does, if not by seed.
    pub partition: Option<Partition>,
    /// A rule that is left out.
    pub mutation: Option<Mutation>,
    /// On how many threads.
    pub threads: usize,
    /// After so many violations no more runs are begun.
    pub enough: usize,
}

impl Series {
    /// The run of a seed.
    pub fn config(&self, seed: u64) -> Config {
        let config = Config::of_seed(seed, self.hosts, self.partition);
        Config { mutation: self.mutation, ..config }
    }
}

/// What came of the runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many runs there were.
    pub runs: u64,
    /// What happened in them.
    pub counts: Counts,
    /// Simulated time in all.
    pub lasted: u128,
    /// What was put down to a partition.
    pub excused: Excused,
    /// From the end of faults until everyone was served, in thousandths of the bound; sorted.
    pub healed: Vec<u32>,
    /// The longest such time.
    pub slowest: At,
    /// Broken promises by seed, in order.
    pub violations: Vec<(u64, Violation)>,
}

/// Runs them all; `progress` is called now and then with the number of runs done.
pub fn run_all(series: &Series, progress: impl Fn(u64) + Sync) -> Summary {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Summary::default());
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= series.seeds {
                return;
            }
            let seed = series.from + n;
            let config = series.config(seed);
            let outcome = run(&config, &plan(&config), false);
            let Ok(mut total) = total.lock() else { return };
            total.runs += 1;
            total.counts.faults.iter_mut().zip(outcome.counts.faults).for_each(|(all, more)| *all += more);
            total.counts.judged += outcome.counts.judged;
            total.counts.datagrams += outcome.counts.datagrams;
            total.counts.commits += outcome.counts.commits;
            total.counts.asks += outcome.counts.asks;
            total.counts.lists += outcome.counts.lists;
            total.counts.late_lists += outcome.counts.late_lists;
            total.lasted += u128::from(outcome.lasted);
            total.excused.times += outcome.excused.times;
            total.excused.lasted += outcome.excused.lasted;
            if let Some(healed) = outcome.healed {
                total.healed.push((healed * 1000 / healing_bound(&config)) as u32);
                total.slowest = total.slowest.max(healed);
            }
            if let Some(violation) = outcome.violation {
                total.violations.push((seed, violation));
                if total.violations.len() >= series.enough {
                    next.store(series.seeds, Ordering::Relaxed);
                }
            }
            progress(total.runs);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..series.threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut total = total.into_inner().unwrap_or_default();
    total.violations.sort_by_key(|(seed, _)| *seed);
    total.healed.sort_unstable();
    total
}
