//! The doors of a host's core: what it is told, and what it wants done.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Event, Look, Memory, Staged};
use crate::holding::Holdings;
use crate::report::{Claims, Part, Report, Stamp};
use crate::time::Time;

/// What happens to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// An authenticated report has come in, by gossip or directly.
    /// Shared, for it is kept as it came.
    Heard(Arc<Report>),
    /// A datagram that carries our heartbeat has left the host.
    Sent {
        /// Read before the datagram was handed to the kernel.
        at: Time,
    },
    /// The kernel has answered the change with this number.
    Committed {
        /// The number in [`Change::id`].
        change: u64,
        /// Whether the kernel now holds exactly [`Change::slices`].
        ok: bool,
    },
    /// A datagram from the address of this configured host failed authentication. Once in
    /// [`STRANGER_INTERVAL`](super::STRANGER_INTERVAL) is enough.
    Stranger {
        /// The host that the definition gives this address to.
        host: String,
    },
    /// A genuine report of a configured host has come in that only another version of the protocol can read.
    OtherVersion {
        /// The host.
        host: String,
        /// Which report it is.
        stamp: Stamp,
        /// What part it takes.
        part: Part,
        /// Whether its version is a later one than ours.
        newer: bool,
    },
    /// The way by which clients' packets reach this host is interrupted or whole again: the service device has a
    /// carrier, and rules, devices and addresses are as wanted. A caller that does not watch it need not say so:
    /// it counts as whole until it is said not to be.
    Link {
        /// Whether it is whole.
        up: bool,
    },
    /// The operator wants this host to leave in order.
    Leave,
    /// The operator takes one service from this host, or all.
    Drain {
        /// Which one; none: all.
        service: Option<String>,
    },
    /// The operator gives one service back to this host, or all; a host that leaves stays.
    Resume {
        /// Which one; none: all.
        service: Option<String>,
    },
    /// The operator gives this host another weight, 0..=100.
    Weight(u8),
    /// The operator has another definition for this host. It comes into force when every living host has
    /// it, or takes the place of one that waits; the present definition takes a waiting one back.
    Stage(Box<Staged>),
    /// The kernel's connections were looked at.
    Looked(Look),
    /// An answer to [`Action::Ask`]: another host has listed its connections of these slices, and whoever makes
    /// the kernel do things knows the list.
    Listed {
        /// Who has.
        host: String,
        /// What it answered to.
        round: Stamp,
        /// Which slices; all that live there of each of them.
        slices: Claims,
    },
    /// The service device has this MAC address, by which others relay to us.
    Mac([u8; 6]),
    /// The service device has received frames of others since this was last said: at most once a heartbeat is enough.
    /// Whoever does not watch the device says it at every heartbeat.
    Frame,
    /// The kernel's lease certainly runs until this instant, for that is what was read back after a renewal.
    Renewed {
        /// On this host's monotonic clock.
        until: Time,
    },
}

/// What a host wants done. Actions must be carried out in the order in which they are returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Put the report where gossip spreads it; with `to`, also send it directly, now.
    Publish {
        /// Our word.
        report: Box<Report>,
        /// Who waits for it.
        to: Recipients,
    },
    /// Make the kernel do exactly this, then answer with [`Input::Committed`].
    Apply(Change),
    /// Let the kernel's lease end at this instant instead of earlier.
    Renew {
        /// On this host's monotonic clock.
        lease_until: Time,
    },
    /// Ask a host for a list of its connections of these slices, as clients' addresses and ports. The answer may be
    /// [`Input::Listed`], in pieces, and need not come: it is asked for again.
    Ask {
        /// Whom.
        host: String,
        /// To be repeated in the answer ([`super::Node::list_round`]).
        round: Stamp,
        /// Which slices.
        slices: Claims,
    },
    /// Keep this where a next run of the agent on this boot finds it, before anything else is done.
    Remember(Option<Box<Memory>>),
    /// Another definition is in force.
    Changed(Box<Staged>),
    /// Tell the operator what was decided.
    Note(Event),
    /// Everything has been handed over; end.
    Stop,
}

/// Who gets a report directly, besides gossip (which reaches those whom we cannot).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipients {
    /// One host, which waits for our word.
    One(String),
    /// All configured hosts.
    All,
}

/// A wanted kernel state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Names the change in the answer.
    pub id: u64,
    /// What the kernel is to do with the slices: all of it, not a difference.
    pub slices: Holdings,
    /// When the lease ends; `None`: there is no lease, the kernel accepts nothing.
    pub lease_until: Option<Time>,
}
