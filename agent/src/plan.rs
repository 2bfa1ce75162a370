//! What `run` would install, without installing it.

use std::collections::BTreeMap;

use onemac_core::ownership::{self, Candidate, Table};
use onemac_definition::{Definition, Host};
use onemac_rules::sysctl::{self, Sysctl};
use onemac_rules::{Wanted, ruleset};
use serde::Serialize;

use crate::kernel::SHARED_DEVICE;

/// A plan for one host, with some hosts alive.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The cluster's name.
    pub cluster: String,
    /// The host.
    pub host: String,
    /// The hosts that are assumed to be alive.
    pub alive: Vec<String>,
    /// The shared device.
    pub link: Link,
    /// Kernel settings.
    pub sysctls: Vec<Setting>,
    /// The rules as `nft -f` reads them.
    pub nft: String,
    /// How many slices there are.
    pub slices: u32,
    /// The slices of `default`, the service of everything that no other takes, that the host accepts.
    pub owned: Vec<u32>,
    /// The slices that the host accepts, by service.
    pub services: BTreeMap<String, Vec<u32>>,
    /// Nothing yet: director mode is to come.
    pub ipvs: Vec<String>,
}

/// A device.
#[derive(Debug, Serialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// The device below it.
    pub on: String,
    /// Its MAC address.
    pub mac: String,
    /// Its IP addresses, with prefix length.
    pub addresses: Vec<String>,
}

/// A kernel setting.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// Its name as sysctl(8) takes it.
    pub name: String,
    /// Its value.
    pub value: u32,
    /// Why.
    pub reason: &'static str,
}

/// The ownership table of a service with these hosts alive.
pub fn table(definition: &Definition, service: &str, alive: &[String]) -> Table {
    let candidate = |h: &Host| Candidate { weight: h.weight, eligible: alive.contains(&h.name) };
    let hosts = definition.hosts.iter().map(|h| (h.name.clone(), candidate(h))).collect();
    ownership::table(&definition.cluster, service, &hosts, definition.slices)
}

/// The plan for `host`. `wanted` carries what is the same whoever is alive.
pub fn plan(definition: &Definition, host: &Host, alive: Vec<String>, wanted: Wanted) -> Plan {
    let owned_of = |service: &str| -> Vec<u32> {
        match alive.contains(&host.name) {
            true => table(definition, service, &alive).slices_of(&host.name).collect(),
            false => Vec::new(),
        }
    };
    let owned: BTreeMap<String, Vec<u32>> =
        wanted.services.iter().map(|s| (s.name.clone(), owned_of(&s.name))).collect();
    let services = wanted.services.iter().map(|s| s.owning(owned[&s.name].iter().copied())).collect();
    let has = |v4: bool| definition.vips.iter().any(|vip| vip.is_ipv4() == v4);
    let tracked = wanted.services.iter().any(|service| service.tracked);
    let settings = sysctl::wanted(&host.interface, SHARED_DEVICE, has(true), has(false), tracked);
    let prefix = |vip: &std::net::IpAddr| if vip.is_ipv4() { 32 } else { 128 };
    Plan {
        cluster: definition.cluster.clone(),
        host: host.name.clone(),
        alive,
        link: Link {
            name: SHARED_DEVICE.into(),
            kind: "macvlan",
            on: host.interface.clone(),
            mac: definition.mac.to_string(),
            addresses: definition.vips.iter().map(|v| format!("{v}/{}", prefix(v))).collect(),
        },
        sysctls: settings.iter().map(setting).collect(),
        slices: definition.slices,
        owned: owned.get(crate::setup::DEFAULT_SERVICE).cloned().unwrap_or_default(),
        services: owned,
        nft: ruleset(&Wanted { services, ..wanted }).to_nft(),
        ipvs: Vec::new(),
    }
}

fn setting(s: &Sysctl) -> Setting {
    // sysctl(8) swaps the separators: dots within a device's name become slashes.
    let name = s.path.chars().map(|c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    });
    Setting { name: name.collect(), value: s.value, reason: s.reason }
}

impl Plan {
    /// The plan as a script to read: comments and nft text together load with `nft -f`.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# cluster {}, host {}, with {} alive: {} of {} slices\n#\n# link: {} ({} on {}), {}\n",
            self.cluster,
            self.host,
            self.alive.join(", "),
            self.services
                .iter()
                .map(|(name, owned)| match self.services.len() {
                    1 => owned.len().to_string(),
                    _ => format!("{name} {}", owned.len()),
                })
                .collect::<Vec<_>>()
                .join(", "),
            self.slices,
            self.link.name,
            self.link.kind,
            self.link.on,
            self.link.mac,
        );
        for address in &self.link.addresses {
            text += &format!("#   {address}\n");
        }
        text += "#\n# sysctls:\n";
        for setting in &self.sysctls {
            text += &format!("#   {} = {}   ({})\n", setting.name, setting.value, setting.reason);
        }
        text += "#\n# rules:\n";
        text + &self.nft
    }
}
