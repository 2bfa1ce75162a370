//! The cluster as one host sees it, for people and their tools.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Hold, Node, Phase};
use crate::holding::{self, Holding};
use crate::ownership::Table;
use crate::report::{Claims, HostState, Left};
use crate::slices::SliceSet;
use crate::time::Time;
use crate::view::{DefinitionId, ViewId};

/// What one host knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where this host stands.
    pub state: HostState,
    /// Why it holds back, if it does.
    pub hold: Option<Hold>,
    /// The life of this host.
    pub incarnation: u64,
    /// The view that it computes with.
    pub view: Option<ViewId>,
    /// Whether every host of the view does.
    pub agreed: bool,
    /// Every configured host, this one included.
    pub hosts: Vec<HostStatus>,
    /// Every service.
    pub services: Vec<ServiceStatus>,
    /// Configured hosts whose datagrams failed authentication of late.
    pub strangers: Vec<String>,
    /// Configured hosts that speak another version of the protocol.
    pub other_version: Vec<String>,
}

/// One host as seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// By its last word; none if it was never heard.
    pub state: Option<HostState>,
    /// Heard within the expiry.
    pub alive: bool,
    /// Its weight.
    pub weight: u8,
    /// Time since its last word in milliseconds.
    pub heard_ms: Option<u64>,
    /// Whether it runs by our definition.
    pub same_definition: bool,
    /// Whether it computes with our view.
    pub same_view: bool,
    /// How many slices of each service it claims.
    pub slices: BTreeMap<String, u32>,
    /// How many slices that it does not accept may have connections there, over all services.
    pub moving: u32,
    /// Those connections, by its last look.
    pub left: Left,
    /// The services that its operator has taken from it.
    pub drained: BTreeSet<String>,
}

/// One service on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Slices that this host's kernel accepts.
    pub owned: u32,
    /// Slices that are this host's by the view and not yet accepted, or accepted and no longer its own, or still
    /// relayed to or by it.
    pub unsettled: u32,
    /// Slices that have moved on and may have connections left here.
    pub moving: u32,
    /// Whether the operator has taken it from this host.
    pub drained: bool,
}

impl Node {
    /// What this host knows at `now`.
    pub fn status(&self, now: Time) -> Status {
        let hosts = self.cluster.hosts.iter().map(|(name, &weight)| self.host_status(now, name, weight));
        let services = self.cluster.services.iter().map(|name| {
            let none = Holding::default();
            let held = self.held.get(name).unwrap_or(&none);
            let mine = self.mine(name);
            let moves = held.all_relayed().or(&held.incoming).or(&held.taking);
            let unsettled = held.accepted.minus(&mine).or(&mine.minus(&held.accepted)).or(&moves).len();
            let (owned, moving) = (held.accepted.len(), held.connections().len());
            let drained = self.drained.contains(name);
            ServiceStatus { name: name.clone(), owned, unsettled, moving, drained }
        });
        Status {
            state: self.state(),
            hold: self.hold.clone(),
            incarnation: self.stamp.incarnation,
            view: self.view.as_ref().map(|v| v.id),
            agreed: self.agreed,
            hosts: hosts.collect(),
            services: services.collect(),
            strangers: self.strangers.keys().cloned().collect(),
            other_version: self.other_version().map(|(host, _)| host.clone()).collect(),
        }
    }

    /// Whether a host has been heard within the expiry.
    pub fn hears(&self, host: &str) -> bool {
        self.is_alive(host)
    }

    /// The MAC address of a host's service device, by its last word.
    pub fn mac_of(&self, host: &str) -> Option<[u8; 6]> {
        self.peers.get(host).map(|p| p.report.mac).filter(|mac| *mac != [0; 6])
    }

    /// Whether nothing is on its way between this host's kernel and another's.
    pub fn is_settled(&self) -> bool {
        let still = |h: &Holding| h.all_relayed().is_empty() && h.incoming.is_empty() && h.taking.is_empty();
        self.phase == Phase::Serving && self.pending.is_none() && self.agreed && self.held.values().all(still)
    }

    /// The ownership table of a service, by the view that was last agreed or, where there is no agreement,
    /// the view at the last heartbeat; none while this host joins for the first time.
    pub fn table(&self, service: &str) -> Option<&Table> {
        self.tables.present()?.get(service)
    }

    /// Where this host stands.
    pub fn state(&self) -> HostState {
        match self.phase {
            Phase::Starting | Phase::Joining { .. } => HostState::Joining,
            Phase::Serving if self.is_drained() => HostState::Draining,
            Phase::Serving => HostState::Serving,
            Phase::Leaving { .. } => HostState::Leaving,
            Phase::Left => HostState::Left,
        }
    }

    /// Whether every living host computes with the view of this one and has answered its entry into it.
    pub fn agreed(&self) -> bool {
        self.agreed
    }

    /// The definition that is in force.
    pub fn definition(&self) -> DefinitionId {
        self.cluster.definition
    }

    /// Who claims what, this host included; only hosts that may be alive.
    pub fn claims(&self) -> BTreeMap<&str, Claims> {
        let peers = self.peers.iter().filter(|(_, p)| p.alive);
        let mut claims: BTreeMap<&str, _> =
            peers.map(|(n, p)| (n.as_str(), p.report.claims.clone())).collect();
        claims.insert(&self.me, self.own_claims());
        claims
    }

    /// The new flows that this host's kernel may accept.
    pub fn own_claims(&self) -> Claims {
        holding::pick(&self.held, |h| h.accepted.clone())
    }

    fn host_status(&self, now: Time, name: &str, weight: u8) -> HostStatus {
        let count = |c: &Claims| {
            let len = |s: &String| c.get(s).map_or(0, SliceSet::len);
            self.cluster.services.iter().map(|s| (s.clone(), len(s))).collect()
        };
        if name == self.me {
            return HostStatus {
                name: name.into(),
                state: Some(self.state()),
                alive: true,
                weight: self.weight,
                heard_ms: Some(0),
                same_definition: true,
                same_view: true,
                slices: count(&self.own_claims()),
                moving: self.held.values().map(|h| h.connections().len()).sum(),
                left: self.connections.left,
                drained: self.drained.clone(),
            };
        }
        let peer = self.peers.get(name);
        let alive = peer.is_some_and(|p| p.alive);
        HostStatus {
            name: name.into(),
            state: peer.map(|p| p.report.state),
            alive,
            weight: peer.map_or(weight, |p| p.report.weight),
            heard_ms: peer.map(|p| now.since(p.heard).as_millis() as u64),
            same_definition: peer.is_none_or(|p| p.report.definition == self.cluster.definition),
            same_view: peer.is_some_and(|p| {
                p.report.view.is_some() && p.report.view == self.view.as_ref().map(|v| v.id)
            }),
            slices: match peer {
                Some(p) if alive => count(&p.report.claims),
                _ => count(&Default::default()),
            },
            moving: peer.filter(|_| alive).map_or(0, |p| p.report.moving.values().map(SliceSet::len).sum()),
            left: peer.filter(|_| alive).map(|p| p.report.left).unwrap_or_default(),
            drained: peer.map(|p| p.report.drained.clone()).unwrap_or_default(),
        }
    }
}
