//! How much a definition may hold. Each number stands where a mistake or an attack begins, not where
//! somebody's cluster ends.

/// Bytes of text. 256 hosts and 64 services of 256 servers, generously commented, stay below it.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
/// YAML nodes after aliases have been written out, so that an alias bomb ends early.
pub const MAX_NODES: usize = 100_000;
/// Levels of nested lists and mappings; the deepest right definition has six.
pub const MAX_DEPTH: usize = 32;
/// Shared addresses.
pub const MAX_VIPS: usize = 64;
/// Cluster members: the size up to which gossip and the ownership table have been tried.
pub const MAX_HOSTS: usize = 256;
/// Fewest slices: fewer cannot be divided evenly.
pub const MIN_SLICES: u32 = 16;
/// Most slices: more buy no better balance and cost time at every change of owner.
pub const MAX_SLICES: u32 = 4096;
/// Slices where the definition does not say.
pub const DEFAULT_SLICES: u32 = 1024;
/// Largest weight of a host.
pub const MAX_WEIGHT: u8 = 100;
/// Services.
pub const MAX_SERVICES: usize = 64;
/// Entries in one service's `ports`.
pub const MAX_PORTS: usize = 64;
/// Real servers of one service.
pub const MAX_SERVERS: usize = 256;
/// The device that the agent makes on each host to hold the shared addresses; so no host can name it as its own
/// interface.
pub const SHARED_DEVICE: &str = "onemac0";
