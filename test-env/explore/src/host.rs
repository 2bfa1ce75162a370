//! A host: an agent that comes and goes, and a kernel that stays.

use std::collections::VecDeque;

use onemac_core::holding::Holdings;
use onemac_core::node::{Memory, Node};
use onemac_core::slices::SliceSet;
use onemac_core::time::Time;
use serde::Serialize;

/// The only service.
pub const SERVICE: &str = "dns";

/// Something for the kernel to do.
#[derive(Clone, Debug, Serialize)]
pub enum Work {
    /// Hold exactly this.
    Apply {
        /// Whether the agent that runs asked for it, and for nothing since.
        wanted: bool,
        /// The number of the change.
        id: u64,
        /// What.
        slices: Holdings,
        /// The end of the lease.
        lease_until: Option<Time>,
    },
    /// End the lease then.
    Renew(Time),
}

/// What a kernel does, and what it was asked for, in order, with the tick in which it was.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// What it does with slices.
    pub holds: Holdings,
    /// Until when, by the common clock.
    pub lease_until: Time,
    /// What it is to do.
    pub queue: VecDeque<(u64, Work)>,
}

impl Kernel {
    /// Whether it does anything at all. It is late with the end of a lease by less than half a heartbeat, for which there
    /// is the margin: at the very instant it still accepts.
    pub fn is_open(&self, now: Time) -> bool {
        now <= self.lease_until
    }

    /// A set of slices, if it does anything.
    pub fn open(&self, now: Time, set: impl Fn(&onemac_core::holding::Holding) -> SliceSet) -> SliceSet {
        self.holds.get(SERVICE).filter(|_| self.is_open(now)).map(set).unwrap_or_default()
    }
}

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its agent; none while none runs.
    pub node: Option<Node>,
    /// Its kernel.
    pub kernel: Kernel,
    /// The change that the agent asked for last.
    pub asked: u64,
    /// The agent knows its kernel: it has confirmed what this agent asked for first.
    pub knows_kernel: bool,
    /// The agent is stopped.
    pub paused: bool,
    /// What its kernel has answered meanwhile.
    pub answers: VecDeque<(u64, bool)>,
    /// The agent's timer has fired since the last tick.
    pub woken: bool,
    /// What the last agent kept for the next.
    pub memory: Option<Box<Memory>>,
    /// The newest of its lives.
    pub incarnation: u64,
}

impl Host {
    /// A host that has never run.
    pub fn new() -> Self {
        Host {
            node: None,
            kernel: Kernel::default(),
            asked: 0,
            knows_kernel: false,
            paused: false,
            answers: VecDeque::new(),
            woken: false,
            memory: None,
            incarnation: 0,
        }
    }

    /// The agent, if it runs and is not stopped.
    pub fn awake(&self) -> Option<&Node> {
        self.node.as_ref().filter(|_| !self.paused)
    }

    /// Whether the agent's timer is due.
    pub fn is_due(&self, now: Time) -> bool {
        !self.woken && self.awake().is_some_and(|node| node.next_deadline() <= now)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}
