//! What an operator is told: the core's knowledge, with advice.

use std::net::IpAddr;

use onemac_core::jhash;
use onemac_core::node::{Hold, HostStatus, Node, Status as CoreStatus};
use onemac_core::report::HostState;
use onemac_core::time::Time;
use onemac_core::view::DefinitionId;
use onemac_definition::Definition;

use super::driver::Driver;
use super::story;
use crate::clock;
use crate::control::model::{Host, Moving, Owner, Problem, Service, Slice, Slices, Staged, Status, View};
use crate::gossip::seal::Speaks;
use crate::kernel::conntrack;
use crate::secret::SecretId;

impl Driver {
    /// `onemac status`.
    pub(super) fn status(&self) -> Status {
        let now = clock::now();
        let core = self.node.status(now);
        let lease_ms = self.lease_until.map_or(0, |until| until.since(now).as_millis() as u64);
        let mut problems = self.problems(&core, lease_ms);
        problems.extend(self.secret_problems(&core));
        let speaks = self.voices.wire.speaks();
        let mut warnings = self.terms.warnings.list();
        warnings.extend(problems.iter().cloned().map(Into::into));
        Status {
            cluster: self.terms.definition.cluster.clone(),
            host: self.terms.host.name.clone(),
            state: word(core.state),
            view: View { id: core.view.map(|id| id.to_string()), agreed: core.agreed },
            lease_ms,
            problems,
            warnings,
            notes: self.cost_of_leaving().into_iter().map(Into::into).collect(),
            hosts: core.hosts.iter().map(|h| self.host_row(h, speaks.get(&h.name), now)).collect(),
            services: core.services.iter().map(service).collect(),
            conntrack: conntrack::table(),
            incarnation: core.incarnation,
            run: self.terms.run,
            definition: short(self.node.definition()),
            staged: self
                .node
                .staged()
                .map(|(id, waits)| Staged { definition: short(id), waits_for: waits.into_iter().collect() }),
            moving: self.moving(now),
            slices: self.terms.definition.slices,
            mac: self.terms.definition.mac.to_string(),
            vips: self.terms.definition.vips.clone(),
            secrets: names(&self.terms.secrets.ids()),
        }
    }

    fn host_row(&self, h: &HostStatus, speaks: Option<&Speaks>, now: Time) -> Host {
        let wire_heard = self.voices.words.frame_heard(&h.name);
        Host {
            wire_ms: wire_heard.map(|at| now.since(at).as_millis() as u64),
            secret: speaks.and_then(|s| s.last).map(|id| id.to_string()),
            secrets: speaks.map(|s| names(&s.accepts)).unwrap_or_default(),
            ..host(h)
        }
    }

    /// Slices that have moved on, and what lives there.
    fn moving(&self, now: Time) -> Vec<Moving> {
        let drain = self.terms.definition.timing.drain_timeout;
        let moving = self.node.moving().iter();
        let slices =
            moving.flat_map(|(service, slices)| slices.iter().map(move |(s, at)| (service, *s, *at)));
        slices
            .map(|(service, slice, since)| {
                let seen = self.looks.seen.as_ref();
                let found = seen.map(|s| s.get(&(service.clone(), slice)).copied().unwrap_or_default());
                Moving {
                    service: service.clone(),
                    slice,
                    connections: found.map(|f| f.connections),
                    oldest_s: found.and_then(|f| f.oldest).map(|age| age.as_secs()),
                    closes_in_s: drain.saturating_sub(now.since(since)).as_secs(),
                }
            })
            .collect()
    }

    /// `onemac owner`.
    pub(super) fn owner(&self, client: IpAddr, service: Option<String>) -> Result<Owner, String> {
        let known = crate::setup::services(&self.terms.definition);
        let service = service.unwrap_or_else(|| known.first().cloned().unwrap_or_default());
        if !known.contains(&service) {
            return Err(format!("no service `{service}`; the services are {}", known.join(", ")));
        }
        let slice = jhash::slice_of(client, self.terms.definition.slices, self.terms.secrets.hash_seed());
        let owner = self.node.table(&service).and_then(|t| t.owner(slice)).map(String::from);
        let claimed_by = claimants(&self.node, &service, slice).into_iter().next();
        Ok(Owner { client, service, slice, owner, claimed_by })
    }

    fn deaf(&self) -> String {
        let since = self.ears.heard().map_or("since this agent started".into(), |at| {
            format!("for {} s", clock::now().since(at).as_secs())
        });
        format!(
            "hears nothing: no frame of another host has come in by {} {since}, so this host serves nobody",
            self.footing.name
        )
    }

    fn problems(&self, core: &CoreStatus, lease_ms: u64) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |what: String, advice: &str| problems.push(Problem { what, advice: advice.into() });
        if let Some(hold) = &core.hold {
            let (what, advice) = story::explain(hold);
            let what = if *hold == Hold::Deaf { self.deaf() } else { what };
            add(what, &advice);
        }
        let others = || core.hosts.iter().filter(|h| h.name != self.terms.host.name);
        let names = |hosts: &mut dyn Iterator<Item = &HostStatus>| {
            hosts.map(|h| h.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        // What holds this host back has been said; the same hosts are not listed once more below.
        let told = |h: &HostStatus| match &core.hold {
            Some(Hold::Definition { hosts } | Hold::Secret { hosts } | Hold::Version { hosts }) => {
                hosts.contains(&h.name)
            }
            Some(Hold::Listening { missing } | Hold::Minority { missing }) => missing.contains(&h.name),
            _ => false,
        };
        let differing = names(&mut others().filter(|h| h.alive && !h.same_definition && !told(h)));
        if !differing.is_empty() {
            add(
                format!("other cluster definition on {differing}"),
                "compare the files (sha256sum) and the `seed` in the files of the secret, copy the right ones \
                 everywhere, restart those agents",
            );
        }
        for peer in others().filter(|h| !h.alive && h.state != Some(HostState::Left)) {
            if let Some(ms) = peer.heard_ms {
                add(
                    format!("{} is gone: silent for {} s", peer.name, ms / 1000),
                    "look at that machine, its agent and its network; the others have its share",
                );
            }
        }
        // Frames on the service wire are as frequent as heartbeats; a hundred missing ones are no accident.
        let deaf = |h: &&HostStatus| {
            let frame_heard = self.voices.words.frame_heard(&h.name);
            let silent = frame_heard
                .is_none_or(|at| clock::now().since(at) > self.terms.definition.timing.heartbeat * 100);
            h.alive && silent && core.state == HostState::Serving && self.lived_long()
        };
        let unseen = names(&mut others().filter(deaf));
        if !unseen.is_empty() {
            add(
                format!(
                    "{unseen} heard by gossip, but its frames do not arrive on {}",
                    self.terms.host.interface
                ),
                "the hosts do not share one layer-2 segment any more: look at the switch and the VLAN, for \
                 clients may not reach all hosts either",
            );
        }
        let stranger = |h: &HostStatus| core.strangers.contains(&h.name);
        let foreign = |h: &HostStatus| core.other_version.contains(&h.name);
        let unheard =
            names(&mut others().filter(|h| h.state.is_none() && !stranger(h) && !foreign(h) && !told(h)));
        if !unheard.is_empty() {
            add(
                format!("never heard since this agent started: {unheard}"),
                "start the agents there, or look for a firewall between the gossip addresses",
            );
        }
        let other_version = names(&mut others().filter(|h| foreign(h) && !told(h)));
        if !other_version.is_empty() {
            add(
                format!(
                    "another version of the protocol is spoken by {other_version}, waiting for this host to go"
                ),
                "upgrade every host to the same release",
            );
        }
        let strangers = names(&mut others().filter(|h| stranger(h) && !told(h)));
        if !strangers.is_empty() {
            add(
                format!("datagrams from {strangers} fail authentication"),
                "the secret file there differs from ours: copy the same one to every host, `onemac reload` there or \
                 restart those agents",
            );
        }
        if core.state == HostState::Serving && lease_ms == 0 {
            add(
                "the kernel's lease has run out: this host accepts nothing".into(),
                "our heartbeats do not leave or are not confirmed: check the gossip network and the log",
            );
        }
        if core.state == HostState::Serving && !core.agreed {
            let others: Vec<&str> =
                core.hosts.iter().filter(|h| h.alive && !h.same_view).map(|h| h.name.as_str()).collect();
            let with = if others.is_empty() { "everyone".into() } else { others.join(", ") };
            add(
                format!("no agreement yet with {with}: no slice is taken over until then"),
                "a moment's patience; if it stays, compare `onemac status` on those hosts",
            );
        }
        if let Some((_, waits)) = self.node.staged() {
            add(
                format!("a new definition waits for {}", waits.into_iter().collect::<Vec<_>>().join(", ")),
                "copy the file there and run `onemac reload` there; until then the old one is in force",
            );
        }
        let [forged, replayed, unknown, unreadable] = self.wire_counts();
        if replayed > 0 || unknown > 0 {
            add(
                format!(
                    "gossip refused so far: {forged} forged, {replayed} replayed, {unknown} from unknown \
                     addresses"
                ),
                "somebody else sends to the gossip port, or a host's `gossip` address is not the one it \
                 sends from",
            );
        }
        if unreadable > 0 {
            add(
                format!("{unreadable} genuine messages could not be read"),
                "run the same version of onemac on every host",
            );
        }
        problems
    }
}

fn names(ids: &[SecretId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// `onemac slices`.
pub(super) fn slices(node: &Node, definition: &Definition) -> Slices {
    let of_service = |name: &String| {
        let slice = |slice: u32| Slice {
            slice,
            owner: node.table(name).and_then(|t| t.owner(slice)).map(String::from),
            claimed_by: claimants(node, name, slice),
        };
        (0..definition.slices).map(slice).collect()
    };
    crate::setup::services(definition).into_iter().map(|name| (name.clone(), of_service(&name))).collect()
}

fn claimants(node: &Node, service: &str, slice: u32) -> Vec<String> {
    let claims = node.claims();
    let has = |c: &onemac_core::report::Claims| c.get(service).is_some_and(|s| s.contains(slice));
    claims.iter().filter(|(_, c)| has(c)).map(|(name, _)| (*name).to_string()).collect()
}

fn host(h: &HostStatus) -> Host {
    let state = match h.state {
        None => "unknown".into(),
        Some(HostState::Left) => "left".into(),
        Some(_) if !h.alive => "gone".into(),
        Some(state) => word(state),
    };
    Host {
        name: h.name.clone(),
        state,
        alive: h.alive,
        weight: h.weight,
        heard_ms: h.heard_ms,
        wire_ms: None,
        slices: h.slices.clone(),
        moving: h.moving,
        connections: h.left.connections,
        oldest_s: h.left.oldest_s,
        drained: h.drained.iter().cloned().collect(),
        secret: None,
        secrets: Vec::new(),
    }
}

fn service(s: &onemac_core::node::ServiceStatus) -> Service {
    Service {
        name: s.name.clone(),
        owned: s.owned,
        moving: s.moving,
        unsettled: s.unsettled,
        drained: s.drained,
        healthy: true,
    }
}

/// The first four bytes of a definition's name: enough to compare on the phone.
fn short(id: DefinitionId) -> String {
    id.0[..4].iter().map(|b| format!("{b:02x}")).collect()
}

fn word(state: HostState) -> String {
    format!("{state:?}").to_lowercase()
}
