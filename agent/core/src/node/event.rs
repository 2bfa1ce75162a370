//! What is worth telling an operator.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::view::ViewId;

/// A decision or an observation, for the log and for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A life begins; the kernel accepts nothing.
    Started {
        /// Its number.
        incarnation: u64,
    },
    /// The host could take its share but must not.
    Holding {
        /// Why.
        why: Hold,
    },
    /// A host is heard for the first time, or again.
    HostAlive {
        /// Its name.
        host: String,
        /// Which life of it.
        incarnation: u64,
    },
    /// A host has been silent for longer than its lease can last.
    HostGone {
        /// Its name.
        host: String,
        /// For how long it has been silent.
        silent_ms: u64,
    },
    /// The host computes with another view.
    ViewChanged {
        /// The view's name.
        view: ViewId,
        /// Its hosts.
        hosts: Vec<String>,
    },
    /// Every host of the view computes with it.
    Agreed {
        /// The view's name.
        view: ViewId,
    },
    /// Slices were added to and taken out of the kernel.
    SlicesMoved {
        /// How many came.
        acquired: u32,
        /// How many went.
        released: u32,
        /// How many there are now.
        owned: u32,
    },
    /// The kernel refused a change; it will be tried again.
    KernelRefused,
    /// This process did not run for longer than its lease lasts.
    Stalled {
        /// For how long.
        gap_ms: u64,
    },
    /// The peers did not confirm our heartbeats in time; the kernel has stopped accepting by itself.
    LeaseLapsed,
    /// No frame of anybody has come in by the service device for long; starting over.
    Deaf,
    /// A larger part of the cluster serves by another definition; starting over.
    Outvoted {
        /// Its hosts.
        hosts: Vec<String>,
    },
    /// Hosts that speak a newer version of the protocol serve too; starting over.
    NewerVersion {
        /// Their names.
        hosts: Vec<String>,
    },
    /// Somebody with our name and a later life was heard.
    NameHeard {
        /// The life that was heard.
        incarnation: u64,
    },
    /// The agent was started anew, and goes on with the life of the last one.
    GoesOn {
        /// Its number.
        incarnation: u64,
    },
    /// The operator has changed what this host takes.
    Ordered {
        /// Its weight from now on.
        weight: u8,
        /// The services that are taken from it.
        drained: Vec<String>,
    },
    /// All hosts have the new definition; it is in force.
    DefinitionChanged,
    /// A host that was leaving stays.
    Stays,
    /// The hand-over begins.
    Leaving,
    /// The host has gone in order.
    Left,
}

/// Why a host that could serve does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum Hold {
    /// Not all configured hosts have been heard, and an expiry has not passed yet.
    Listening {
        /// Who is missing.
        missing: Vec<String>,
    },
    /// These hosts run by another definition.
    Definition {
        /// Their names.
        hosts: Vec<String>,
    },
    /// These hosts speak another version of the protocol, and come first.
    Version {
        /// Their names.
        hosts: Vec<String>,
    },
    /// These hosts speak, but not with our secret, and nobody else does.
    Secret {
        /// Their names.
        hosts: Vec<String>,
    },
    /// Too few of the configured hosts are heard to serve without the others (`partition: majority`).
    Minority {
        /// Who is missing.
        missing: Vec<String>,
    },
    /// The service device has no carrier.
    NoLink,
    /// No frame of another host has come in by the service device.
    Deaf,
    /// Another machine uses our name.
    NameTaken,
}
