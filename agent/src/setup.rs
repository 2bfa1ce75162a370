//! From files to what an agent runs by: the definition, the secret, and all that is derived from them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use onemac_core::node::{Follow, Partition};
use onemac_core::time::Timing;
use onemac_core::view::{Cluster, DefinitionId};
use onemac_definition::{Definition, Host, Protocol, Track};

use crate::failure::{Failure, Result};

/// The service of a definition without `services`.
pub const DEFAULT_SERVICE: &str = "default";

/// The cluster's shared secret: 32 bytes. Never printed.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From 64 hex digits; white space around them does not count.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Some(Secret(bytes))
    }

    /// The seed of the client hash: nobody outside can choose clients that all fall on one host.
    pub fn hash_seed(&self) -> u32 {
        let [a, b, c, d, ..] = blake3::derive_key("onemac 2026-11 client hash seed", &self.0);
        u32::from_le_bytes([a, b, c, d])
    }

    /// The key under which the agents' datagrams are authenticated.
    pub fn gossip_key(&self) -> [u8; 32] {
        blake3::derive_key("onemac 2026-11 gossip authentication", &self.0)
    }
}

/// Reads and validates the definition in `file`.
pub fn load_definition(file: &Path) -> Result<Definition> {
    let text = fs::read_to_string(file).map_err(|e| {
        Failure::usage(format_args!("can not read the cluster definition {}: {e}", file.display()))
    })?;
    onemac_definition::parse(&file.display().to_string(), &text).map_err(Failure::usage)
}

/// Refuses, by name, what the definition asks for and this version can not do yet.
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

/// Reads the secret. Refuses a file that others than its owner can read, and one that is not 64 hex
/// digits.
pub fn load_secret(path: &Path) -> Result<Secret> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|e| {
        let advice = "make one with `onemac keygen` and copy the same file to every host";
        Failure::usage(format_args!("can not read the secret {shown}: {e}; {advice}"))
    })?;
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(Failure::usage(format_args!(
            "the secret {shown} can be read or changed by others (mode {mode:04o}): chmod 600 {shown}, and \
             consider a new one if it has been so for long"
        )));
    }
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::usage(format_args!("can not read the secret {shown}: {e}")))?;
    Secret::from_hex(&text).ok_or_else(|| {
        Failure::usage(format_args!(
            "the secret {shown} is not 64 hex digits (32 bytes): see `onemac keygen`"
        ))
    })
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

/// The definition as the core sees it.
pub fn cluster(definition: &Definition) -> Cluster {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(definition.to_yaml().as_bytes()).as_bytes()[..16]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sixty_four_hex_digits() {
        let hex = "00ff".repeat(16);
        assert_eq!(Secret::from_hex(&format!(" {hex}\n")).unwrap().0[..2], [0, 255]);
        for wrong in ["", "00", &hex[1..], &format!("{hex}00"), &hex.replace('f', "g")] {
            assert!(Secret::from_hex(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn seed_and_key_are_derived_apart() {
        let secret = Secret::from_hex(&"01".repeat(32)).unwrap();
        let other = Secret::from_hex(&"02".repeat(32)).unwrap();
        assert_ne!(secret.hash_seed(), other.hash_seed());
        assert_ne!(secret.gossip_key()[..4], secret.hash_seed().to_le_bytes());
    }
}
