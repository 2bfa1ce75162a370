//! The definition as data. Everything in it has passed validation; nothing is optional that has a
//! default.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::mac::MacAddr;
use crate::words::{Affinity, Engine, Link, Method, Mode, Partition, Protocol, Scheduler, Track};

/// One cluster, as every one of its hosts must see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Definition {
    /// The cluster's name, `[a-z0-9-]`, 1 to 32 characters.
    pub cluster: String,
    /// Path of the shared secret as written: relative to the definition's file.
    pub secret_file: PathBuf,
    /// The shared addresses in the order of the file, 1 to 64, none twice.
    pub vips: Vec<IpAddr>,
    /// The cluster MAC address; `auto` is already resolved.
    pub mac: MacAddr,
    /// How frames reach every host.
    pub link: Link,
    /// Parts of the client hash space: a power of two, 16 to 4,096.
    pub slices: u32,
    /// What of the client is hashed.
    pub affinity: Affinity,
    /// What a cut-off side does.
    pub partition: Partition,
    /// Heartbeat, lease, drain.
    pub timing: Timing,
    /// The members in the order of the file, 1 to 256; names and gossip addresses are unique.
    pub hosts: Vec<Host>,
    /// The services in the order of the file. Empty: the one service `default` takes everything.
    pub services: Vec<Service>,
}

impl Definition {
    /// The member of that name; host names compare without regard to case.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name.eq_ignore_ascii_case(name))
    }
}

/// The cluster's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// From one sign of life to the next, 10 ms to 10 s.
    pub heartbeat: Duration,
    /// For how long a kernel accepts without hearing from its agent: five heartbeats to 60 s.
    pub lease: Duration,
    /// For how long a slice may keep its connections on the former owner, 0 s to 24 h.
    pub drain_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_millis(800),
            drain_timeout: Duration::from_secs(600),
        }
    }
}

/// A cluster member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its name, as `--host` or the machine's hostname gives it.
    pub name: String,
    /// Where its agent listens for the others.
    pub gossip: SocketAddr,
    /// The device on which clients arrive.
    pub interface: String,
    /// Its share in proportion to the others', 0 to 100.
    pub weight: u8,
}

/// Ports first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest port, at least 1.
    pub first: u16,
    /// The highest port, at least `first`.
    pub last: u16,
}

impl PortRange {
    /// The range of one port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Whether the two have a port in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Ports that have their own set of eligible hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its name; `default` is the service of everything that no other one takes.
    pub name: String,
    /// Its ports in the order of the file; empty for `default` and only there.
    pub ports: Vec<PortRange>,
    /// Its protocols, sorted; empty for `default`, which takes all.
    pub protocols: Vec<Protocol>,
    /// Who serves it.
    pub mode: Mode,
    /// Whether conntrack sees its packets.
    pub track: Track,
    /// How a host finds out whether its own server is well.
    pub check: Option<Check>,
    /// Where it is forwarded, in director mode.
    pub backends: Option<Backends>,
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// What is tried.
    pub kind: CheckKind,
    /// The port; `None` stands for the service's first port, or the real server's.
    pub port: Option<u16>,
    /// From one try to the next, 100 ms to 1 h.
    pub interval: Duration,
    /// When a try counts as failed, 10 ms to `interval`.
    pub timeout: Duration,
    /// Failures in a row until ill, 1 to 100.
    pub fall: u8,
    /// Successes in a row until well, 1 to 100.
    pub rise: u8,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// A TCP connection opens.
    Tcp,
    /// An HTTP request is answered.
    Http {
        /// The request's path, from `/`.
        path: String,
        /// The `Host` header; `None` for the address.
        host: Option<String>,
        /// The status that counts as well; `None` for any 2xx or 3xx.
        status: Option<u16>,
    },
    /// A DNS question is answered.
    Dns {
        /// The name that is asked for.
        query: String,
    },
}

/// Real servers behind a service, and how they are reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backends {
    /// How packets get there.
    pub method: Method,
    /// What forwards.
    pub engine: Engine,
    /// How a server is picked.
    pub scheduler: Scheduler,
    /// For how long a client stays with its server, whole seconds, 1 s to 24 h.
    pub persistence: Option<Duration>,
    /// The real servers in the order of the file, 1 to 256.
    pub servers: Vec<Server>,
    /// How a real server's health is seen.
    pub check: Option<Check>,
}

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its address.
    pub address: IpAddr,
    /// Its port where that differs from the service's. Only `nat` rewrites ports; with another method
    /// [`Definition::not_yet`] names it.
    pub port: Option<u16>,
    /// Its share in proportion to the others', 0 to 65,535; 0 gets nothing new.
    pub weight: u16,
}
