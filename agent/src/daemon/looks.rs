//! Looks at the kernel's connections, while there are slices that have moved on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use onemac_core::jhash;
use onemac_core::node::{Look, Node};
use onemac_core::report::{Claims, Left};
use onemac_core::time::Time;
use onemac_core::view::DefinitionId;
use onemac_definition::Definition;
use onemac_rules::netlink::Connection;
use onemac_rules::netlink::Netfilter as Rules;
use tokio::sync::mpsc;

use super::Terms;
use crate::clock;
use crate::setup;

/// From a move to the first look, and from one look to the next. A look costs what it costs to list the
/// host's connections; a long one is followed by a longer pause.
const FIRST: Duration = Duration::from_millis(50);
const NEXT: Duration = Duration::from_secs(1);
const PAUSE: u32 = 10;

/// What was found of one slice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    pub connections: u32,
    pub oldest: Option<Duration>,
}

/// What a look has shown: living connections by service and slice.
type Seen = BTreeMap<(String, u32), Found>;

/// All clients with their ports, by service and slice, whether their connections are still living or not.
pub type Clients = BTreeMap<(String, u32), Vec<(IpAddr, u16)>>;

/// What came of a look, and when it began. Clients only if they were wanted.
type Looked = (Time, Option<(Seen, Option<(DefinitionId, Clients)>)>);

/// When to look, and what was seen last.
pub struct Looks {
    done: mpsc::UnboundedSender<Looked>,
    results: mpsc::UnboundedReceiver<Looked>,
    due: Option<Time>,
    /// No look is due before this, whoever waits for it.
    rested: Time,
    looking: bool,
    pub seen: Option<Seen>,
    failed: bool,
}

impl Looks {
    pub fn new() -> Self {
        let (done, results) = mpsc::unbounded_channel();
        Looks { done, results, due: None, rested: Time(0), looking: false, seen: None, failed: false }
    }

    /// When to look next.
    pub fn due(&self) -> Option<Time> {
        self.due.filter(|_| !self.looking)
    }

    /// Something has happened: is there anything to look for?
    pub fn consider(&mut self, node: &Node) {
        if node.moving().values().all(BTreeMap::is_empty) {
            self.due = None;
            self.seen = None;
        } else if self.due.is_none() && !self.looking {
            self.due = Some(clock::now() + FIRST);
        }
    }

    /// Somebody waits for the next look.
    pub fn hurry(&mut self) {
        self.due = self.due.map(|due| due.min(clock::now()).max(self.rested));
    }

    /// Looks, elsewhere: listing many connections takes a while.
    pub fn start(&mut self, terms: &Terms, with_clients: bool) {
        self.looking = true;
        self.due = None;
        let (definition, seed) = (terms.definition.clone(), terms.secrets.hash_seed());
        let id = setup::cluster(&definition, &terms.secrets).definition;
        let done = self.done.clone();
        tokio::task::spawn_blocking(move || {
            let at = clock::now();
            let seen = Rules::open().and_then(|mut rules| rules.connections(&definition.vips));
            let seen = match seen {
                Ok(connections) => {
                    let slice = |c: &Connection| place(&definition, seed, c);
                    let clients = with_clients.then(|| (id, clients(&connections, slice)));
                    Some((sort(&connections, slice), clients))
                }
                Err(error) => {
                    tracing::debug!("{error}");
                    None
                }
            };
            let _ = done.send((at, seen));
        });
    }

    /// What the core is to know of the next result.
    pub async fn result(&mut self, node: &Node) -> Option<(Look, Option<(DefinitionId, Clients)>)> {
        let (at, seen) = self.results.recv().await?;
        self.looking = false;
        let took = clock::now().since(at);
        // What has moved since the look began was not looked at.
        let unseen = node.moving().values().flat_map(BTreeMap::values).any(|&since| since >= at);
        let pause = if unseen { FIRST } else { NEXT };
        self.rested = clock::now() + took * PAUSE;
        self.due = Some(self.rested.max(clock::now() + pause));
        if seen.is_none() && !self.failed {
            tracing::warn!(
                "cannot list this host's connections (is nf_conntrack_netlink there?): slices that have moved \
                 stay open to them until the drain timeout"
            );
        }
        self.failed = seen.is_none();
        let (seen, clients) = seen?;
        let look = look(at, &seen, node);
        self.seen = Some(seen);
        Some((look, clients))
    }
}

/// Living connections by service and slice.
fn sort(connections: &[Connection], place: impl Fn(&Connection) -> (String, u32)) -> Seen {
    let mut seen = Seen::new();
    for connection in connections.iter().filter(|c| c.is_live()) {
        let found = seen.entry(place(connection)).or_default();
        found.connections += 1;
        found.oldest = found.oldest.max(connection.age);
    }
    seen
}

fn clients(connections: &[Connection], place: impl Fn(&Connection) -> (String, u32)) -> Clients {
    let mut clients = Clients::new();
    for connection in connections {
        clients.entry(place(connection)).or_default().push((connection.client, connection.client_port));
    }
    clients
}

/// Service and slice of a connection.
fn place(definition: &Definition, seed: u32, connection: &Connection) -> (String, u32) {
    let slice = jhash::slice_of(connection.client, definition.slices, seed);
    (service_of(definition, connection.port).to_owned(), slice)
}

/// The service that has a TCP port.
fn service_of(definition: &Definition, port: u16) -> &str {
    let has = |s: &&onemac_definition::Service| {
        s.protocols.contains(&onemac_definition::Protocol::Tcp)
            && s.ports.iter().any(|range| (range.first..=range.last).contains(&port))
    };
    definition.services.iter().find(has).map_or(crate::setup::DEFAULT_SERVICE, |s| s.name.as_str())
}

fn look(at: Time, seen: &Seen, node: &Node) -> Look {
    let mut alive = Claims::new();
    let mut left = Left::default();
    for ((service, slice), found) in seen {
        alive.entry(service.clone()).or_default().insert(*slice);
        if node.moving().get(service).is_some_and(|slices| slices.contains_key(slice)) {
            left.connections += found.connections;
            let age = found.oldest.map_or(0, |age| age.as_secs());
            left.oldest_s = left.oldest_s.max(u32::try_from(age).unwrap_or(u32::MAX));
        }
    }
    Look { at, alive, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look that took a second is followed by ten of pause, whoever asks.
    #[tokio::test]
    async fn haste_does_not_cut_the_pause_after_a_long_look_short() {
        let mut looks = Looks::new();
        let began = clock::now() - Duration::from_secs(1);
        looks.looking = true;
        looks.done.send((began, Some((Seen::new(), None)))).unwrap();
        let cluster = onemac_core::view::Cluster {
            name: "t".into(),
            definition: onemac_core::view::DefinitionId([1; 16]),
            slices: 16,
            hosts: [("a".to_string(), 1)].into(),
            services: ["default".to_string()].into(),
        };
        let timing = onemac_core::time::Timing {
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_millis(800),
        };
        let node = Node::new("a", cluster, timing, 1, clock::now());
        looks.result(&node).await.unwrap();
        let due = looks.due().unwrap();
        assert!(due.since(clock::now()) > Duration::from_secs(9));
        looks.hurry();
        assert!(looks.due().unwrap().since(clock::now()) > Duration::from_secs(1), "looks again at once");
    }
}
