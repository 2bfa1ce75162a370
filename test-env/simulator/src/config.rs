//! What a run is made of, besides its faults.

use std::time::Duration;

use onemac_core::node::{Mutation, Partition};
use onemac_core::time::Timing;

use crate::dice::Dice;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything with anybody.
    Wild,
    /// All is the fault of this host, and the others must not notice.
    Lone(usize),
    /// Nothing: an operator does what operators do.
    Operator,
}

/// The choices of one run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which run this is.
    pub seed: u64,
    /// How many hosts.
    pub hosts: usize,
    /// Slices of each service.
    pub slices: u32,
    /// The services.
    pub services: Vec<String>,
    /// The protocol's timing.
    pub timing: Timing,
    /// What a part of the cluster does.
    pub partition: Partition,
    /// How far from true a clock may run, in millionths, to either side.
    pub drift_ppm: u64,
    /// Whether hosts pass on what they have heard, besides speaking to everyone directly.
    pub relays: bool,
    /// An agent reads its socket no more often than this; zero: whatever comes is read at once. With hundreds
    /// of hosts the simulator is several times quicker if each has its turn with many datagrams.
    pub reads_every_ms: u64,
    /// So many of 1,000 times, one every 20 ms, all connections of a host have come to their ends.
    pub connections_end: u64,
    /// A frame of a client reaches all hosts so often, in milliseconds; 0: never.
    pub frames_every_ms: u64,
    /// What goes wrong.
    pub kind: Kind,
    /// For how long faults happen, in milliseconds from the beginning.
    pub trouble_ms: u64,
    /// A rule that is left out.
    pub mutation: Option<Mutation>,
}

/// The largest drift from true time that the protocol's margin covers between two clocks: a sixteenth of the
/// lease, so 3 % to either side.
pub const DRIFT_MAX_PPM: u64 = 30_000;

/// The usual [`Config::connections_end`].
pub const CONNECTIONS_END: u64 = 50;

impl Config {
    /// The run that a seed stands for. `hosts` and `partition` override the seed's own choice.
    pub fn of_seed(seed: u64, hosts: Option<usize>, partition: Option<Partition>) -> Self {
        let mut dice = Dice::new(seed, 1);
        let ms = Duration::from_millis;
        // The default, the fast one of the issue with healing below 600 ms, and what people might choose.
        let (heartbeat, lease) = dice.pick(&[(100, 800), (100, 800), (50, 250), (100, 500), (200, 3000)]);
        let hosts = hosts.unwrap_or(3 + dice.roll(7) as usize);
        let mut other = Dice::new(seed, 6);
        let kind = match other.roll(20) {
            0..10 => Kind::Wild,
            10..17 => Kind::Lone(other.roll(hosts as u64) as usize),
            _ => Kind::Operator,
        };
        let by_seed = if seed % 4 == 3 { Partition::Majority } else { Partition::Serve };
        Config {
            seed,
            hosts,
            slices: 16,
            services: (0..dice.between(1, 2)).map(|i| format!("service{i}")).collect(),
            timing: Timing { heartbeat: ms(heartbeat), lease: ms(lease) },
            partition: partition.unwrap_or(by_seed),
            drift_ppm: dice.pick(&[0, 500, DRIFT_MAX_PPM]),
            relays: dice.chance(900),
            reads_every_ms: 0,
            connections_end: Dice::new(seed, 5).pick(&[CONNECTIONS_END, CONNECTIONS_END, 5, 0]),
            frames_every_ms: other.pick(&[100, 100, 2000, 0]),
            kind,
            trouble_ms: dice.between(3, 9) * lease,
            mutation: None,
        }
        .after_a_start()
    }

    fn after_a_start(self) -> Self {
        // Where there is less to go wrong it need not take as long.
        let trouble_ms = if self.kind == Kind::Wild { self.trouble_ms } else { self.trouble_ms * 2 / 3 };
        Config { trouble_ms: trouble_ms + self.quiet_ms(), ..self }
    }

    /// For so long nothing goes wrong: what must not be lost must be there first.
    pub fn quiet_ms(&self) -> u64 {
        match self.kind {
            Kind::Wild => 0,
            Kind::Lone(_) | Kind::Operator => {
                100 + (self.timing.lease * 3 / 2 + self.timing.heartbeat * 4).as_millis() as u64
            }
        }
    }

    /// The same with a rule left out.
    pub fn broken(self, rule: Mutation) -> Self {
        Config { mutation: Some(rule), ..self }
    }
}
