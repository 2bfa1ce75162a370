//! What goes wrong, and when: a list that a seed stands for, so that a part of it can be tried alone.

mod dealt;
mod told;

pub use self::dealt::plan;
use crate::clock::At;

/// Some hosts: bit `i` is host `i`.
pub type Hosts = u64;

/// Something that goes wrong, or is done by an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent dies; its kernel goes on by itself.
    Kill {
        /// Which host.
        host: usize,
    },
    /// The agent is started where none runs.
    Start {
        /// Which host.
        host: usize,
        /// With what it starts.
        life: Life,
    },
    /// The agent is told to leave in order.
    Leave {
        /// Which host.
        host: usize,
    },
    /// An operator gives an order.
    Order {
        /// To which host.
        host: usize,
        /// Which.
        order: Order,
    },
    /// The agent does not run for a while, as by SIGSTOP or a busy machine.
    Pause {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
        /// Whether what it has asked of its kernel goes on meanwhile.
        kernel_goes_on: bool,
    },
    /// Nothing gets from some hosts to others for a while.
    Cut {
        /// From these.
        from: Hosts,
        /// To these.
        to: Hosts,
        /// For how long.
        ms: u64,
    },
    /// The network loses, doubles and delays from now on.
    Weather {
        /// So many of 1,000 datagrams are lost.
        loss: u64,
        /// So many of 1,000 come twice.
        doubles: u64,
        /// One in ten takes up to this long.
        slow_ms: u64,
    },
    /// A kernel is slow and refuses changes from now on.
    Kernel {
        /// Which host.
        host: usize,
        /// A change takes up to this long.
        slow_ms: u64,
        /// So many of 1,000 changes are refused.
        refuses: u64,
    },
    /// A kernel does nothing for a while.
    KernelStuck {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// The service device loses its carrier for a while; gossip may run elsewhere.
    Unplug {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
        /// Whether gossip runs over the same device.
        gossip_too: bool,
    },
    /// Nothing gets into a host for a while: no datagram, no frame of a client.
    Deaf {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// Nothing gets out of a host for a while; it hears.
    Mute {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// Clients' frames do not arrive at a host for a while; gossip does.
    Unreached {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
        /// Nor do the other hosts' frames on the service wire: gossip runs elsewhere.
        by_nobody: bool,
    },
    /// A kernel takes no renewal of its lease for a while, and does all else.
    NoRenewals {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// Single links are slow and lose datagrams for a while.
    Link {
        /// From these.
        from: Hosts,
        /// To these.
        to: Hosts,
        /// So many of 1,000 datagrams are lost.
        loss: u64,
        /// Each takes so much longer.
        late_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// Reports above a size do not get through for a while.
    Narrow {
        /// From these.
        from: Hosts,
        /// To these.
        to: Hosts,
        /// The largest that does, see [`crate::network::size`].
        bytes: u64,
        /// For how long.
        ms: u64,
    },
    /// What a host said long ago arrives once more, in the old order.
    Replay {
        /// Who said it.
        of: usize,
        /// Where it arrives.
        to: usize,
        /// For how long that goes on.
        ms: u64,
    },
    /// A host's wall clock jumps ahead: its kernel is silent until its agent has set another end of the lease.
    ///
    /// Back is no fault of its own. The core reads no wall clock, and the kernel holds the end of a lease also as a
    /// timeout, which knows none.
    WallClock {
        /// Which host.
        host: usize,
    },
    /// What an agent keeps for the next one cannot be written for a while.
    NoMemory {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
        /// Whether what was kept before is removed; if not, it stays.
        removed: bool,
    },
    /// A definition is put in place on a host, and staged if its agent runs.
    Stage {
        /// Which host.
        host: usize,
        /// Which definition; 0 is the first.
        definition: u8,
    },
    /// The agent ends if it runs, and one that speaks the next version of the protocol starts.
    Upgrade {
        /// Which host.
        host: usize,
    },
    /// The agent replaces itself and goes on with its life, as soon as nothing moves.
    Restart {
        /// Which host.
        host: usize,
    },
}

impl Fault {
    /// What the kinds of faults are called, by [`Fault::kind`].
    pub const KINDS: [&str; 22] = [
        "kill",
        "start",
        "leave",
        "order",
        "pause",
        "cut",
        "weather",
        "kernel",
        "stuck",
        "unplug",
        "deaf",
        "mute",
        "unreached",
        "no renewals",
        "link",
        "narrow",
        "replay",
        "wall clock",
        "no memory",
        "stage",
        "upgrade",
        "restart",
    ];

    /// Which kind of fault it is.
    pub fn kind(&self) -> usize {
        match self {
            Fault::Kill { .. } => 0,
            Fault::Start { .. } => 1,
            Fault::Leave { .. } => 2,
            Fault::Order { .. } => 3,
            Fault::Pause { .. } => 4,
            Fault::Cut { .. } => 5,
            Fault::Weather { .. } => 6,
            Fault::Kernel { .. } => 7,
            Fault::KernelStuck { .. } => 8,
            Fault::Unplug { .. } => 9,
            Fault::Deaf { .. } => 10,
            Fault::Mute { .. } => 11,
            Fault::Unreached { .. } => 12,
            Fault::NoRenewals { .. } => 13,
            Fault::Link { .. } => 14,
            Fault::Narrow { .. } => 15,
            Fault::Replay { .. } => 16,
            Fault::WallClock { .. } => 17,
            Fault::NoMemory { .. } => 18,
            Fault::Stage { .. } => 19,
            Fault::Upgrade { .. } => 20,
            Fault::Restart { .. } => 21,
        }
    }

    /// The hosts, any one of which can be said to be at fault; none if no single one can.
    pub fn culprits(&self, all: Hosts) -> Hosts {
        let one = |hosts: Hosts| if hosts.count_ones() == 1 { hosts } else { 0 };
        match *self {
            Fault::Weather { .. } => 0,
            Fault::Cut { from, to, .. } | Fault::Link { from, to, .. } | Fault::Narrow { from, to, .. } => {
                // Where only some hear it, the others do not agree on who lives. And a host that hears its clients and no
                // other host cannot know that the others live and hear it: it serves all, and they may not.
                if from | to == all { one(from) } else { 0 }
            }
            Fault::Replay { of, .. } => 1 << of,
            Fault::Kill { host }
            | Fault::Start { host, .. }
            | Fault::Leave { host }
            | Fault::Order { host, .. }
            | Fault::Pause { host, .. }
            | Fault::Kernel { host, .. }
            | Fault::KernelStuck { host, .. }
            | Fault::Unplug { host, .. }
            | Fault::Deaf { host, .. }
            | Fault::Mute { host, .. }
            | Fault::Unreached { host, .. }
            | Fault::NoRenewals { host, .. }
            | Fault::WallClock { host }
            | Fault::NoMemory { host, .. }
            | Fault::Stage { host, .. }
            | Fault::Upgrade { host }
            | Fault::Restart { host } => 1 << host,
        }
    }

    /// Whether it may keep two hosts from hearing each other.
    pub fn can_part(&self) -> bool {
        matches!(
            self,
            Fault::Cut { .. }
                | Fault::Unplug { gossip_too: true, .. }
                | Fault::Deaf { .. }
                | Fault::Mute { .. }
                | Fault::Link { .. }
                | Fault::Narrow { .. }
        )
    }

    /// Whether an operator does this to a healthy cluster, and nobody is to lose anything by it.
    pub fn is_order(&self) -> bool {
        match self {
            Fault::Leave { .. }
            | Fault::Order { .. }
            | Fault::Restart { .. }
            | Fault::Stage { .. }
            | Fault::Start { life: Life::Later, .. } => true,
            _ => false,
        }
    }

    /// For how long it lasts, if it ends by itself.
    pub fn lasts_ms(&self) -> u64 {
        match *self {
            Fault::Pause { ms, .. }
            | Fault::Cut { ms, .. }
            | Fault::KernelStuck { ms, .. }
            | Fault::Unplug { ms, .. }
            | Fault::Deaf { ms, .. }
            | Fault::Mute { ms, .. }
            | Fault::Unreached { ms, .. }
            | Fault::NoRenewals { ms, .. }
            | Fault::Link { ms, .. }
            | Fault::Narrow { ms, .. }
            | Fault::Replay { ms, .. }
            | Fault::NoMemory { ms, .. } => ms,
            _ => 0,
        }
    }
}

/// What an operator wants of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take nothing.
    Drain,
    /// Take its share again.
    Resume,
    /// Take so much.
    Weight(u8),
}

/// With what an agent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A greater incarnation than ever before.
    Later,
    /// A smaller one than before: the clock went back.
    Earlier,
    /// With what the last agent kept, and the next greater incarnation if that is of no use.
    Same,
    /// A greater one, and another cluster definition.
    OtherDefinition,
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it happens.
    pub at: At,
    /// What happens.
    pub fault: Fault,
}
