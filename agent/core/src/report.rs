//! What a host tells the others about itself, in one piece.
//!
//! View and claims travel together, so that nobody sees the new view beside the old claims. A report is
//! self-contained: the newest one replaces all earlier ones, and losing any of them costs only time.

use alloc::collections::BTreeMap;
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
    /// Hands its share over and goes.
    Leaving,
    /// Gone in order: claims nothing and never will in this life.
    Left,
}

/// Orders the reports of one host: a later life beats an earlier one, then the later report wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Which life of the host; grows with every start, even if the clock does not.
    pub incarnation: u64,
    /// Counts the reports of this life.
    pub seq: u64,
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
    /// Where it stands.
    pub state: HostState,
    /// Its weight, 0..=100.
    pub weight: u8,
    /// For how long it has listened while it joins, in milliseconds rounded up; 0 in other states. Who
    /// joins without hearing anybody takes over an expiry after it began to listen.
    pub listening_ms: u64,
    /// The view that it computes with; none before its first.
    pub view: Option<ViewId>,
    /// What its kernel may accept.
    pub claims: Claims,
    /// The newest report that it has heard of each host: proof of what it knew when it said this.
    pub heard: BTreeMap<String, Stamp>,
}

impl Report {
    /// Whether any slice is claimed.
    pub fn claims_nothing(&self) -> bool {
        self.claims.values().all(SliceSet::is_empty)
    }
}
