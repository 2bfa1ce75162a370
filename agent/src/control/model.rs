//! What the agent says of itself, as JSON. Keys may be added, never renamed: other people's tools read
//! them (docs/configuration.md and the command line's contract).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::gossip::letter::Order;

/// `onemac status --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// This host's name.
    pub host: String,
    /// `joining`, `serving`, `draining`, `leaving` or `left`.
    pub state: String,
    /// The view that this host computes with.
    pub view: View,
    /// For how long the kernel would still accept if the agent died now.
    pub lease_ms: u64,
    /// Every configured host.
    pub hosts: Vec<Host>,
    /// Every service.
    pub services: Vec<Service>,
    /// What is not as it should be in the cluster, and what to do.
    pub problems: Vec<Problem>,
    /// The same, and what is wrong with this machine.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// What is as it should be, and good to know before something is done.
    #[serde(default)]
    pub notes: Vec<Warning>,
    /// The connections of the whole host; none where the kernel has no conntrack.
    #[serde(default)]
    pub conntrack: Option<Conntrack>,
    /// The life of this host.
    pub incarnation: u64,
    /// The run of the agent's program; grows with every start, also within one life.
    pub run: u64,
    /// The name of the definition that is in force.
    pub definition: String,
    /// A definition that waits for other hosts.
    pub staged: Option<Staged>,
    /// Slices that have moved on and may have connections left here.
    pub moving: Vec<Moving>,
    /// How many slices there are.
    pub slices: u32,
    /// The cluster MAC.
    pub mac: String,
    /// The shared addresses.
    pub vips: Vec<IpAddr>,
    /// The names of the secrets that this host accepts; the first is spoken to every host that accepts it.
    #[serde(default)]
    pub secrets: Vec<String>,
}

/// How full conntrack's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conntrack {
    /// Its entries.
    pub count: u64,
    /// How many there can be.
    pub max: u64,
}

/// A definition that comes into force when every living host has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Its name.
    pub definition: String,
    /// Who has not got it.
    pub waits_for: Vec<String>,
}

/// A slice that has moved on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Of which service.
    pub service: String,
    /// Its number.
    pub slice: u32,
    /// The connections that were found at the last look; none before the first.
    pub connections: Option<u32>,
    /// The age of the oldest in seconds; none if it is not known.
    pub oldest_s: Option<u64>,
    /// In how many seconds it is closed, whatever is left.
    pub closes_in_s: u64,
}

/// The view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its name; none while the host joins.
    pub id: Option<String>,
    /// Whether every host of it computes with it.
    pub agreed: bool,
}

/// A host as seen from this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// As in [`Status::state`], or `gone` (silent for longer than its lease lasts) or `unknown` (never
    /// heard).
    pub state: String,
    /// Whether it was heard within the expiry.
    pub alive: bool,
    /// Its weight.
    pub weight: u8,
    /// Time since its last word; none if there was none.
    pub heard_ms: Option<u64>,
    /// Time since its last frame on the service wire; none if there was none.
    #[serde(default)]
    pub wire_ms: Option<u64>,
    /// How many slices of each service it says that it accepts.
    pub slices: BTreeMap<String, u32>,
    /// How many slices have moved on and may have connections left there.
    #[serde(default)]
    pub moving: u32,
    /// Those connections, by its last look.
    #[serde(default)]
    pub connections: u32,
    /// The age of the oldest of them in seconds; 0 if it is not known.
    #[serde(default)]
    pub oldest_s: u32,
    /// The services that its operator has taken from it.
    #[serde(default)]
    pub drained: Vec<String>,
    /// The name of the secret that it last spoke to this host; none if it was not heard directly, or is this host.
    #[serde(default)]
    pub secret: Option<String>,
    /// The names of the secrets that it accepts, the one that it wants to speak first; empty if it has not said.
    #[serde(default)]
    pub secrets: Vec<String>,
}

/// A service on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Slices that this host's kernel accepts.
    pub owned: u32,
    /// Slices that have moved on and may have connections left here.
    pub moving: u32,
    /// Slices that are changing hands here.
    #[serde(default)]
    pub unsettled: u32,
    /// Whether the operator has taken it from this host.
    #[serde(default)]
    pub drained: bool,
    /// Whether this host may serve it.
    pub healthy: bool,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What.
    pub what: String,
    /// What to do about it.
    #[serde(rename = "do")]
    pub advice: String,
}

impl From<Problem> for Warning {
    fn from(Problem { what, advice }: Problem) -> Self {
        Warning { what, advice }
    }
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Of which host; none: this one.
    pub host: Option<String>,
    /// What.
    pub order: Order,
}

/// What came of a wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// In words.
    pub said: String,
}

/// `onemac owner --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The client that was asked about.
    pub client: IpAddr,
    /// For which service.
    pub service: String,
    /// Its slice.
    pub slice: u32,
    /// The host that owns the slice; none if no host is eligible.
    pub owner: Option<String>,
    /// The host that says it accepts the slice now; left out where no agent was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
}

/// `onemac slices --json`: for each service, for each slice in order.
pub type Slices = BTreeMap<String, Vec<Slice>>;

/// One slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Its number.
    pub slice: u32,
    /// The host that owns it by this host's view.
    pub owner: Option<String>,
    /// The hosts that say they accept it; one, or none while it moves.
    pub claimed_by: Vec<String>,
}
