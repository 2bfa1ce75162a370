//! What a host tells the others about itself, in one piece.
//!
//! View and claims travel together, so that nobody sees the new view beside the old claims. A report is
//! self-contained: the newest one replaces all earlier ones, and losing any of them costs only time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::slices::SliceSet;
use crate::view::{DefinitionId, ViewId};

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Listening, accepting nothing yet.
    Joining,
    /// Takes its share.
    Serving,
    /// Stays, but its operator has taken all services from it: it keeps the connections that it has.
    Draining,
    /// Hands its share over and goes.
    Leaving,
    /// Gone in order: claims nothing and never will in this life.
    Left,
}

/// What part a host takes in serving: what hosts of other versions of the protocol can know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// None, and it will take none until something changes there.
    None,
    /// It is about to serve.
    Candidate,
    /// It may accept new flows.
    Serves,
}

/// Orders the reports of one host: a later life beats an earlier one, then the later report wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Which life of the host; grows with every start, even if the clock does not.
    pub incarnation: u64,
    /// Counts the reports of this life.
    pub seq: u64,
}

/// No life has a greater number: no clock gives it, and what is added to it must not overflow.
pub const INCARNATION_MAX: u64 = (1 << 62) - 1;

impl Stamp {
    /// Whether a host may say so.
    pub fn is_possible(self) -> bool {
        self.incarnation <= INCARNATION_MAX
    }
}

/// Slices that a kernel may accept right now, by service. A superset of the truth while a change is on
/// its way into the kernel, never a subset.
pub type Claims = BTreeMap<String, SliceSet>;

/// One host's word about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The host's name.
    pub host: String,
    /// Which report this is.
    pub stamp: Stamp,
    /// The definition that the host runs by.
    pub definition: DefinitionId,
    /// The MAC address of its service device: where others send what they relay to it.
    pub mac: [u8; 6],
    /// Where it stands.
    pub state: HostState,
    /// Its weight, 0..=100.
    pub weight: u8,
    /// Whether it has received no frame of another host in this life, or none for too long and ends this life:
    /// it takes nothing more. A host that joins begins to listen with the first frame.
    pub deaf: bool,
    /// Whether it joins and nothing holds it back but listening.
    pub candidate: bool,
    /// The view that it computes with; none before its first, and none while it hears a host that may hold slices and
    /// is not in that view.
    pub view: Option<ViewId>,
    /// The services that its operator has taken from it.
    pub drained: BTreeSet<String>,
    /// The definition that it is ready to change to, once all are.
    pub staged: Option<DefinitionId>,
    /// What its kernel may accept.
    pub claims: Claims,
    /// What its kernel may send on to others, by the host that gets it.
    pub relayed: BTreeMap<String, Claims>,
    /// What its kernel certainly accepts if it is sent on to it, and does not accept otherwise.
    pub ready: Claims,
    /// Slices that it does not accept, but of which connections may live there.
    pub moving: Claims,
    /// How many connections of those slices it has found, and the age of the oldest in seconds.
    pub left: Left,
    /// The newest report that it has heard of each host: proof of what it knew when it said this.
    pub heard: BTreeMap<String, Stamp>,
}

impl Report {
    /// What part the host takes.
    pub fn part(&self) -> Part {
        let holds = || !self.relayed.is_empty() || self.claims.values().any(|slices| !slices.is_empty());
        match self.state {
            HostState::Serving | HostState::Draining => Part::Serves,
            HostState::Leaving if holds() => Part::Serves,
            HostState::Joining if self.candidate => Part::Candidate,
            HostState::Joining | HostState::Leaving | HostState::Left => Part::None,
        }
    }

    /// A report that says nothing but who speaks and where it stands.
    pub fn plain(host: String, stamp: Stamp, definition: DefinitionId, state: HostState) -> Self {
        Report {
            host,
            stamp,
            definition,
            mac: [0; 6],
            state,
            weight: 1,
            deaf: false,
            candidate: false,
            view: None,
            drained: BTreeSet::new(),
            staged: None,
            claims: Claims::new(),
            relayed: BTreeMap::new(),
            ready: Claims::new(),
            moving: Claims::new(),
            left: Left::default(),
            heard: BTreeMap::new(),
        }
    }
}

/// Connections of slices that have moved on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// How many.
    pub connections: u32,
    /// The age of the oldest in seconds; 0 if it is not known.
    pub oldest_s: u32,
}

impl HostState {
    /// Whether the host takes part: it takes what the view gives it.
    pub fn serves(self) -> bool {
        matches!(self, HostState::Serving | HostState::Draining)
    }
}
