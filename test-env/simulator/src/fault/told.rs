//! Faults in words.

use std::fmt;

use super::{Fault, Hosts, Life, Order, Planned};
use crate::clock::MS;

/// The names of some hosts.
struct Names(Hosts);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            (0..64).filter(|i| self.0 & (1 << i) != 0).map(|i| format!("ns{i}")).collect();
        write!(f, "{}", names.join(" "))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill { host } => write!(f, "the agent of ns{host} dies"),
            Fault::Start { host, life: Life::Later } => write!(f, "ns{host} starts"),
            Fault::Start { host, life: Life::Earlier } => {
                write!(f, "ns{host} starts with an incarnation smaller than before")
            }
            Fault::Start { host, life: Life::OtherDefinition } => {
                write!(f, "ns{host} starts with another definition")
            }
            Fault::Start { host, life: Life::Same } => write!(f, "ns{host} starts with what was kept"),
            Fault::Leave { host } => write!(f, "ns{host} is told to leave"),
            Fault::Order { host, order: Order::Drain } => write!(f, "ns{host} is drained"),
            Fault::Order { host, order: Order::Resume } => write!(f, "ns{host} is to resume"),
            Fault::Order { host, order: Order::Weight(weight) } => {
                write!(f, "ns{host} is given the weight {weight}")
            }
            Fault::Pause { host, ms, kernel_goes_on } => {
                let kernel = if *kernel_goes_on { ", its kernel works on" } else { "" };
                write!(f, "the agent of ns{host} stops for {ms} ms{kernel}")
            }
            Fault::Cut { from, to, ms } => {
                write!(f, "nothing gets from {} to {} for {ms} ms", Names(*from), Names(*to))
            }
            Fault::Weather { loss, doubles, slow_ms } => write!(
                f,
                "the network loses {loss} and doubles {doubles} of 1000 datagrams, slow ones take {slow_ms} ms"
            ),
            Fault::Kernel { host, slow_ms, refuses } => write!(
                f,
                "the kernel of ns{host} takes up to {slow_ms} ms and refuses {refuses} of 1000 changes"
            ),
            Fault::KernelStuck { host, ms } => write!(f, "the kernel of ns{host} does nothing for {ms} ms"),
            Fault::Unplug { host, ms, gossip_too } => {
                let gossip = if *gossip_too { "and gossip" } else { "but keeps gossip" };
                write!(f, "ns{host} loses its service link for {ms} ms {gossip}")
            }
            Fault::Deaf { host, ms } => write!(f, "nothing gets into ns{host} for {ms} ms"),
            Fault::Mute { host, ms } => write!(f, "nothing gets out of ns{host} for {ms} ms"),
            Fault::Unreached { host, ms, by_nobody } => {
                let who = if *by_nobody { "nobody's" } else { "no client's" };
                write!(f, "{who} frames reach ns{host} for {ms} ms")
            }
            Fault::NoRenewals { host, ms } => {
                write!(f, "the kernel of ns{host} takes no renewal for {ms} ms")
            }
            Fault::Link { from, to, loss, late_ms, ms } => write!(
                f,
                "from {} to {} {loss} of 1000 are lost and all take {late_ms} ms longer, for {ms} ms",
                Names(*from),
                Names(*to)
            ),
            Fault::Narrow { from, to, bytes, ms } => write!(
                f,
                "from {} to {} no report above {bytes} bytes gets through for {ms} ms",
                Names(*from),
                Names(*to)
            ),
            Fault::Replay { of, to, ms } => {
                write!(f, "what ns{of} said long ago arrives at ns{to} again, for {ms} ms")
            }
            Fault::WallClock { host } => write!(f, "the wall clock of ns{host} jumps ahead"),
            Fault::NoMemory { host, ms, removed } => {
                let old = if *removed { "removed" } else { "kept" };
                write!(f, "ns{host} can keep nothing for {ms} ms, what it had kept is {old}")
            }
            Fault::Stage { host, definition } => {
                write!(f, "definition {definition} is put in place on ns{host}")
            }
            Fault::Upgrade { host } => write!(f, "ns{host} starts with the next version"),
            Fault::Restart { host } => write!(f, "ns{host} is to restart"),
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} ms  {}", self.at as f64 / MS as f64, self.fault)
    }
}
