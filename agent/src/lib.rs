//! The onemac agent: everything around the decisions of `onemac-core`.
//!
//! Where things enter and leave: a command line in [`cli`] and [`command`]; a gossip datagram in
//! [`gossip`]; the kernel's state in [`kernel`]; a question of an operator in [`control`]. [`daemon`] is
//! the one loop that ties them to the core. A client's packet never passes through here at all: the
//! kernel's rules, which [`onemac_rules`] describes, decide about it.

pub mod cli;
pub mod clock;
pub mod command;
pub mod control;
pub mod daemon;
pub mod failure;
pub mod files;
pub mod gossip;
pub mod kernel;
pub mod log;
pub mod plan;
pub mod random;
pub mod record;
pub mod secret;
pub mod setup;
pub mod warnings;
