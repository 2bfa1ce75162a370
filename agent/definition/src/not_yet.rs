//! What a definition may say already and no code does yet.
//!
//! One row of [`TABLE`] for each such key. To make something work: build it, then delete its row.

use std::fmt;

use crate::model::{Definition, Service};
use crate::words::{Affinity, Link, Method, Mode};

/// A key whose value asks for something that is still to come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotYet {
    /// The key's path, such as `link` or `services[1].check`.
    pub key: String,
    /// One sentence: what is missing, and what to write until then.
    pub why: String,
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.why)
    }
}

/// A row: the paths at which a definition uses the thing, and the sentence.
type Row = (fn(&Definition) -> Vec<String>, &'static str);

const TABLE: &[Row] = &[
    (
        |d| top("link", d.link != Link::Unicast),
        "the link modes multicast and igmp are not built yet; use `unicast`",
    ),
    (
        |d| top("affinity", d.affinity != Affinity::Client),
        "the affinities network and client-port are not built yet; use `client`",
    ),
    (
        |d| services(d, "mode", |service| service.mode != Mode::Shared),
        "the modes single and off are not built yet; use `shared`",
    ),
    (
        |d| services(d, "check", |service| service.check.is_some()),
        "health checks are not built yet; leave the key out",
    ),
    (
        |d| services(d, "backends", |service| service.backends.is_some()),
        "director mode is not built yet; leave the key out",
    ),
    (
        server_ports,
        "a server's port has a meaning with the method nat only; use that method, or leave the key out",
    ),
];

fn top(key: &str, used: bool) -> Vec<String> {
    used.then(|| key.to_owned()).into_iter().collect()
}

fn services(definition: &Definition, key: &str, uses: fn(&Service) -> bool) -> Vec<String> {
    let indexed = definition.services.iter().enumerate();
    indexed.filter(|(_, service)| uses(service)).map(|(i, _)| format!("services[{i}].{key}")).collect()
}

/// Not a thing to come: only `nat` rewrites ports. The contract's own example has such a port beside
/// `method: direct`, so the definition may hold it, but nothing runs with a port that is ignored.
fn server_ports(definition: &Definition) -> Vec<String> {
    let mut keys = Vec::new();
    for (i, service) in definition.services.iter().enumerate() {
        let Some(backends) = service.backends.as_ref().filter(|backends| backends.method != Method::Nat)
        else {
            continue;
        };
        let with_port = backends.servers.iter().enumerate().filter(|(_, server)| server.port.is_some());
        keys.extend(with_port.map(|(j, _)| format!("services[{i}].backends.servers[{j}].port")));
    }
    keys
}

impl Definition {
    /// Every key that is set to a value whose behaviour is still to come. `run` and `plan` refuse a
    /// definition for which this is not empty, by these names; `check` accepts it.
    #[must_use]
    pub fn not_yet(&self) -> Vec<NotYet> {
        let row = |(uses, why): &Row| {
            let keys = uses(self).into_iter();
            keys.map(|key| NotYet { key, why: (*why).to_owned() }).collect::<Vec<_>>()
        };
        TABLE.iter().flat_map(row).collect()
    }
}
