//! What stories have in common.

use std::time::Duration;

use onemac_core::node::{Mutation, Partition};
use onemac_core::time::Timing;
use onemac_sim::check::Violation;
use onemac_sim::clock::MS;
use onemac_sim::config::{CONNECTIONS_END, Config, Kind};
use onemac_sim::fault::{Fault, Planned};
use onemac_sim::run::run;

/// A quiet cluster with the default timing.
pub fn config(hosts: usize, partition: Partition) -> Config {
    Config {
        seed: 1,
        hosts,
        slices: 16,
        services: vec!["default".into()],
        timing: Timing { heartbeat: Duration::from_millis(100), lease: Duration::from_millis(800) },
        partition,
        drift_ppm: 0,
        relays: false,
        reads_every_ms: 0,
        connections_end: CONNECTIONS_END,
        frames_every_ms: 100,
        kind: Kind::Wild,
        trouble_ms: 8000,
        mutation: None,
    }
}

/// A fault at a time in milliseconds.
pub fn at(ms: u64, fault: Fault) -> Planned {
    Planned { at: ms * MS, fault }
}

/// What breaks when the same faults meet other dice.
pub fn violations(
    seeds: u64,
    mutation: Option<Mutation>,
    plan: &[Planned],
    config: &Config,
) -> Vec<Violation> {
    let configs = (0..seeds).map(|seed| Config { seed, mutation, ..config.clone() });
    configs.filter_map(|config| run(&config, plan, false).violation).collect()
}
