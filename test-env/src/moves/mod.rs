//! What an operator does to a cluster, as data: a random script that a seed repeats, and one who carries it out.
//!
//! [`Script::random`] draws moves that are possible one after another and never leave the cluster without a host
//! that may serve. [`Operator`] types each of them at the program's command line and waits until all hosts have
//! carried it out and are of one mind. What that does to connections is for [`crate::tcp`] to judge.

mod model;
mod operator;

use std::fmt;

pub use model::{Model, Script};
pub use operator::{Done, Operator};

/// One thing to do. Hosts are told by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// `onemac drain --host`: no new connections.
    Drain(u8),
    /// `onemac resume --host`.
    Resume(u8),
    /// `onemac weight HOST N`.
    Weight(u8, u32),
    /// Drain, wait until its connections are gone, SIGTERM. Its clients end their connections and open others.
    Leave(u8),
    /// The agent of a host that left starts again.
    Join(u8),
    /// The definition is replaced on all hosts, then `onemac reload` on each that has an agent.
    Reload(Change),
    /// `onemac restart`: the agent executes its program again.
    Restart(u8),
    /// The same with another program in its place.
    Upgrade(u8),
    /// SIGKILL, and a start at once.
    Crash(u8),
}

/// What a new definition has different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The weight of a host.
    Weight(u8, u32),
    /// A second shared address of each family, or no longer.
    MoreVips(bool),
    /// A host that has left is no member any more.
    Remove(u8),
    /// It is one again, and may join.
    Add(u8),
}

/// A kind of move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`Move::Drain`].
    Drain,
    /// [`Move::Resume`].
    Resume,
    /// [`Move::Weight`].
    Weight,
    /// [`Move::Leave`].
    Leave,
    /// [`Move::Join`].
    Join,
    /// [`Move::Reload`].
    Reload,
    /// [`Move::Restart`].
    Restart,
    /// [`Move::Upgrade`].
    Upgrade,
    /// [`Move::Crash`].
    Crash,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Drain,
        Self::Resume,
        Self::Weight,
        Self::Leave,
        Self::Join,
        Self::Reload,
        Self::Restart,
        Self::Upgrade,
        Self::Crash,
    ];

    /// Whether nobody may notice it at all. A crash is no operator's plan.
    #[must_use]
    pub fn is_planned(self) -> bool {
        self != Self::Crash
    }
}

impl Move {
    /// Its kind.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Drain(_) => Kind::Drain,
            Self::Resume(_) => Kind::Resume,
            Self::Weight(..) => Kind::Weight,
            Self::Leave(_) => Kind::Leave,
            Self::Join(_) => Kind::Join,
            Self::Reload(_) => Kind::Reload,
            Self::Restart(_) => Kind::Restart,
            Self::Upgrade(_) => Kind::Upgrade,
            Self::Crash(_) => Kind::Crash,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Drain => "drain",
            Self::Resume => "resume",
            Self::Weight => "weight",
            Self::Leave => "leave",
            Self::Join => "join",
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::Crash => "crash",
        })
    }
}

impl fmt::Display for Move {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Drain(host) | Self::Resume(host) | Self::Leave(host) | Self::Join(host) => {
                write!(out, "{kind} h{host}")
            }
            Self::Restart(host) | Self::Upgrade(host) | Self::Crash(host) => write!(out, "{kind} h{host}"),
            Self::Weight(host, weight) => write!(out, "{kind} h{host} {weight}"),
            Self::Reload(Change::Weight(host, weight)) => write!(out, "{kind}, h{host} has weight {weight}"),
            Self::Reload(Change::MoreVips(true)) => write!(out, "{kind}, two more addresses"),
            Self::Reload(Change::MoreVips(false)) => write!(out, "{kind}, two addresses fewer"),
            Self::Reload(Change::Remove(host)) => write!(out, "{kind}, without h{host}"),
            Self::Reload(Change::Add(host)) => write!(out, "{kind}, h{host} is a member"),
        }
    }
}
