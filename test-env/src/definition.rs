//! Writes the cluster definition that a lab's hosts are given.

use std::fmt;
use std::net::IpAddr;

use crate::topology::{addr, gossip_v4, host_v4};

/// A cluster definition. What is `None` or empty is left out, so that the defaults are tried too.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The shared addresses.
    pub vips: Vec<IpAddr>,
    /// `slices:`.
    pub slices: u32,
    /// `timing.heartbeat`, as text with its unit.
    pub heartbeat: Option<String>,
    /// `timing.lease`, as text with its unit.
    pub lease: Option<String>,
    /// The members.
    pub hosts: Vec<Member>,
    /// Lines to append as they are.
    pub more: String,
}

/// One entry of `hosts:`.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its address, on the LAN or on the network for gossip alone; gossip goes there.
    pub address: IpAddr,
    /// Its interface.
    pub interface: String,
    /// Its weight.
    pub weight: u32,
}

impl Definition {
    /// `count` equal hosts `h1`, `h2`, … with one v4 and one v6 address to share.
    #[must_use]
    pub fn equal_hosts(count: u8) -> Self {
        let hosts = (1..=count)
            .map(|number| Member {
                name: format!("h{number}"),
                address: host_v4(number).into(),
                interface: "eth0".to_owned(),
                weight: 1,
            })
            .collect();
        Self {
            vips: vec![addr::VIP4.into(), addr::VIP6.into()],
            slices: 1024,
            heartbeat: None,
            lease: None,
            hosts,
            more: String::new(),
        }
    }

    /// The same hosts, gossiping on the network that is for nothing else.
    pub(crate) fn gossip_apart(&mut self) {
        for (number, host) in (1..).zip(&mut self.hosts) {
            host.address = gossip_v4(number).into();
        }
    }
}

impl fmt::Display for Definition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "cluster: lab\nsecret_file: secret.key")?;
        let vips: Vec<String> = self.vips.iter().map(|vip| format!("\"{vip}\"")).collect();
        writeln!(out, "vips: [{}]\nslices: {}", vips.join(", "), self.slices)?;
        if self.heartbeat.is_some() || self.lease.is_some() {
            writeln!(out, "timing:")?;
        }
        for (key, value) in [("heartbeat", &self.heartbeat), ("lease", &self.lease)] {
            if let Some(value) = value {
                writeln!(out, "  {key}: {value}")?;
            }
        }
        writeln!(out, "hosts:")?;
        for host in &self.hosts {
            writeln!(out, "  - name: {}\n    gossip: {}:7946", host.name, host.address)?;
            writeln!(out, "    interface: {}\n    weight: {}", host.interface, host.weight)?;
        }
        out.write_str(&self.more)
    }
}
