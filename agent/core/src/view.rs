//! The view: the hosts that one host holds alive, with all that ownership depends on, and its name.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::ownership::{self, Candidate, Table};

/// What every host of a cluster has in common, by its definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's name.
    pub name: String,
    /// Digest of everything in the definition that the hosts must have in common.
    pub definition: DefinitionId,
    /// Number of slices of the client hash space.
    pub slices: u32,
    /// The configured hosts and their weights, 0..=100.
    pub hosts: BTreeMap<String, u8>,
    /// The names of the services, each with an ownership table of its own.
    pub services: alloc::vec::Vec<String>,
}

/// Names a cluster definition: 16 bytes of BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DefinitionId(pub [u8; 16]);

/// Names a view: 16 bytes of BLAKE3 over all that ownership depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ViewId(pub [u8; 16]);

impl fmt::Display for ViewId {
    /// The first four bytes in hex: enough for two people to compare on the phone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which life of the host this is.
    pub incarnation: u64,
    /// Its weight, 0..=100.
    pub weight: u8,
    /// Whether it takes slices: false while it leaves.
    pub eligible: bool,
    /// The services of which it takes none all the same.
    pub drained: BTreeSet<String>,
}

/// The hosts that one host computes with. Equal views have equal names and equal ownership everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// The view's name.
    pub id: ViewId,
    /// Its hosts.
    pub members: BTreeMap<String, Member>,
}

impl View {
    /// The view of `members` in `cluster`.
    pub fn new(cluster: &Cluster, members: BTreeMap<String, Member>) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"onemac/view/2");
        hasher.update(&cluster.definition.0);
        for (name, member) in &members {
            hasher.update(&[name.len() as u8]);
            hasher.update(name.as_bytes());
            hasher.update(&member.incarnation.to_le_bytes());
            hasher.update(&[member.weight, u8::from(member.eligible), member.drained.len() as u8]);
            for service in &member.drained {
                hasher.update(&[service.len() as u8]);
                hasher.update(service.as_bytes());
            }
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        View { id: ViewId(id), members }
    }

    /// The ownership table of every service in this view.
    pub fn tables(&self, cluster: &Cluster) -> BTreeMap<String, Table> {
        cluster.services.iter().map(|s| (s.clone(), self.table(cluster, s))).collect()
    }

    fn table(&self, cluster: &Cluster, service: &str) -> Table {
        let configured =
            cluster.hosts.iter().map(|(name, &weight)| (name.clone(), Candidate { weight, eligible: false }));
        let mut hosts: BTreeMap<String, Candidate> = configured.collect();
        for (name, member) in &self.members {
            let eligible = member.eligible && !member.drained.contains(service);
            hosts.insert(name.clone(), Candidate { weight: member.weight, eligible });
        }
        ownership::table(&cluster.name, service, &hosts, cluster.slices)
    }
}
