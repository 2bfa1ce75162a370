//! The lab in which onemac meets real packets.
//!
//! Hosts are network namespaces on a Linux bridge. A router joins that LAN to a client network whose
//! one machine owns whole address ranges, so hundreds of clients are cheap. A nameserver of Debian on
//! every host says who it is, so every answer tells which host gave it. Everything is made at run time
//! under a prefix of its own and removed again, however the run ends.
//!
//! What this crate is not: a simulator (no fake time, no fake network), or anything that the daemon
//! itself uses.
//!
//! Start reading at [`Lab`]: [`Plan`] says what to build, [`Host`] is one cluster member,
//! [`dns::Prober`] are the clients, [`Capture`] is the wire tap.

mod agent;
mod arrivals;
mod bridge;
mod capture;
mod chatter;
mod command;
mod definition;
pub mod dns;
pub mod faults;
pub mod flood;
pub mod frames;
mod generation;
mod host;
pub mod hostile;
mod janitor;
mod lab;
mod loss;
pub mod moves;
mod nameserver;
mod netns;
pub mod numbered;
mod own_files;
mod ping;
mod process;
mod report;
mod server;
mod snapshot;
pub mod tcp;
mod topology;
mod wait;
pub mod watch;

pub use agent::binary;
pub use arrivals::Arrivals;
pub use bridge::{FdbEntry, FdbWatch, Switch};
pub use capture::{Capture, Frame};
pub use chatter::Chatter;
pub use command::run;
pub use definition::{Definition, Member};
pub use generation::generation;
pub use host::{Ended, Host, Surroundings};
pub use janitor::remove;
pub use lab::{Lab, Plan, owned_slices};
pub use loss::{Way, What};
pub use netns::Netns;
pub use own_files::OwnFiles;
pub use ping::{PingTally, Pinger, ping_all};
pub use process::Process;
pub use server::{Server, ask_udp, fetch_tcp};
pub use snapshot::Snapshot;
pub use topology::{addr, client_v4, client_v6, neighbour_v4, neighbour_v6};
pub use wait::{Hopeless, poll_until};
