//! From files to what an agent runs by: the definition, the secret, and all that is derived from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use onemac_core::node::{Follow, Partition};
use onemac_core::time::Timing;
use onemac_core::view::{Cluster, DefinitionId};
use onemac_definition::{Definition, Host, Protocol, Track};

use crate::failure::{Failure, Result};
use crate::secret::Secrets;

/// The service of a definition without `services`.
pub const DEFAULT_SERVICE: &str = "default";

/// Reads and validates the definition in `file`.
pub fn load_definition(file: &Path) -> Result<Definition> {
    let text = fs::read_to_string(file).map_err(|e| {
        Failure::usage(format_args!("cannot read the cluster definition {}: {e}", file.display()))
    })?;
    onemac_definition::parse(&file.display().to_string(), &text).map_err(Failure::usage)
}

/// Refuses, by name, what the definition asks for and this version cannot do yet.
pub fn refuse_what_is_to_come(file: &Path, definition: &Definition) -> Result<()> {
    let missing = definition.not_yet();
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(|n| format!("{}: {n}", file.display())).collect();
    Err(Failure::usage(lines.join("\n")))
}

/// Where the secret of a definition is.
pub fn secret_path(file: &Path, definition: &Definition) -> PathBuf {
    file.parent().unwrap_or(Path::new(".")).join(&definition.secret_file)
}

/// The host that `--host`, or else the machine's name, picks from the definition.
pub fn pick_host<'a>(definition: &'a Definition, wanted: Option<&str>) -> Result<&'a Host> {
    let machine = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let short = machine.split('.').next().unwrap_or_default();
    let found = match wanted {
        Some(name) => definition.host(name),
        None => definition.host(&machine).or_else(|| definition.host(short)),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = definition.hosts.iter().map(|h| h.name.as_str()).collect();
        let who = match wanted {
            Some(name) => format!("no host `{name}`"),
            None => format!("no host has this machine's name `{machine}` (or say --host)"),
        };
        Failure::usage(format_args!("{who} in the definition; its hosts are {}", names.join(", ")))
    })
}

/// Reads a list of host names such as `--alive ns1,ns2`; `None` means all.
pub fn alive_hosts(definition: &Definition, alive: Option<&[String]>) -> Result<Vec<String>> {
    let Some(names) = alive else {
        return Ok(definition.hosts.iter().map(|h| h.name.clone()).collect());
    };
    names.iter().map(|n| pick_host(definition, Some(n)).map(|h| h.name.clone())).collect()
}

/// The service names of a definition. What no service takes (other ports, ARP, ICMP) is the service `default`,
/// last if it is not written down.
pub fn services(definition: &Definition) -> Vec<String> {
    let mut names: Vec<String> = definition.services.iter().map(|s| s.name.clone()).collect();
    if !names.iter().any(|name| name == DEFAULT_SERVICE) {
        names.push(DEFAULT_SERVICE.into());
    }
    names
}

/// The services as the kernel's rules know them, with nothing accepted yet.
pub fn kernel_services(definition: &Definition) -> Vec<onemac_rules::Service> {
    let followed = follow(definition).services;
    let service = |name: String| {
        let tracked = followed.contains(&name);
        let written = definition.services.iter().find(|s| s.name == name);
        onemac_rules::Service {
            ports: written.filter(|s| !s.ports.is_empty()).map(ports),
            datagrams_tracked: written.is_some_and(|s| s.track == Track::Always),
            ..onemac_rules::Service::everything(&name, tracked)
        }
    };
    services(definition).into_iter().map(service).collect()
}

/// Every port of a service with every protocol of it.
fn ports(service: &onemac_definition::Service) -> Vec<(onemac_rules::Protocol, u16)> {
    let ports = || service.ports.iter().flat_map(|range| range.first..=range.last);
    let protocol = |p: &Protocol| match p {
        Protocol::Tcp => onemac_rules::Protocol::Tcp,
        Protocol::Udp => onemac_rules::Protocol::Udp,
    };
    service.protocols.iter().flat_map(|p| ports().map(move |port| (protocol(p), port))).collect()
}

/// Whose connections are followed: a service of UDP alone has none. Neither has `default` where it is not
/// written down beside other services, for then no server is meant to answer there. Nor is one that says `never`.
pub fn follow(definition: &Definition) -> Follow {
    let tcp = |s: &onemac_definition::Service| {
        s.track != Track::Never && (s.protocols.is_empty() || s.protocols.contains(&Protocol::Tcp))
    };
    let services = match definition.services.as_slice() {
        [] => [DEFAULT_SERVICE.into()].into(),
        services => services.iter().filter(|s| tcp(s)).map(|s| s.name.clone()).collect(),
    };
    Follow { services, drain_timeout: definition.timing.drain_timeout }
}

/// What of a new definition can only come with new agents, by name; empty if all of it can come at once.
pub fn needs_restart(before: &Definition, after: &Definition, me: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut differ = |key: &str, differs: bool| {
        if differs {
            keys.push(key.to_owned());
        }
    };
    differ("cluster", before.cluster != after.cluster);
    differ("secret_file", before.secret_file != after.secret_file);
    differ("mac", before.mac != after.mac);
    differ("link", before.link != after.link);
    differ("slices", before.slices != after.slices);
    differ("affinity", before.affinity != after.affinity);
    differ("partition", before.partition != after.partition);
    differ("timing.heartbeat", before.timing.heartbeat != after.timing.heartbeat);
    differ("timing.lease", before.timing.lease != after.timing.lease);
    for host in &after.hosts {
        if let Some(known) = before.host(&host.name) {
            differ(&format!("gossip of {}", host.name), host.gossip != known.gossip);
            differ(
                &format!("interface of {}", host.name),
                host.name == me && host.interface != known.interface,
            );
        }
    }
    keys
}

/// The definition as the core sees it. Its digest covers the seed of the client hash: hosts whose seeds differ would
/// disagree about who is in which slice.
pub fn cluster(definition: &Definition, secrets: &Secrets) -> Cluster {
    let mut id = [0; 16];
    let digest = blake3::keyed_hash(secrets.hash_key(), definition.to_yaml().as_bytes());
    id.copy_from_slice(&digest.as_bytes()[..16]);
    Cluster {
        name: definition.cluster.clone(),
        definition: DefinitionId(id),
        slices: definition.slices,
        hosts: definition.hosts.iter().map(|h| (h.name.clone(), h.weight)).collect::<BTreeMap<_, _>>(),
        services: services(definition),
    }
}

/// What a part of the cluster that is cut off does.
pub fn partition(definition: &Definition) -> Partition {
    match definition.partition {
        onemac_definition::Partition::Serve => Partition::Serve,
        onemac_definition::Partition::Majority => Partition::Majority,
    }
}

/// The definition's durations as the core sees them.
pub fn timing(definition: &Definition) -> Timing {
    Timing { heartbeat: definition.timing.heartbeat, lease: definition.timing.lease }
}
