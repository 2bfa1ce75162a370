//! A deterministic simulator of a cluster.
//!
//! It drives [`onemac_core::node::Node`], the same that the daemon drives, through worlds in which clocks
//! drift, hosts crash, stall and return, kernels are late or refuse, and datagrams are lost, doubled,
//! delayed and reordered, on links that are cut one way or both. A seed is a world: it reproduces a run to
//! the letter.
//!
//! A run ([`run::run`]) has two phases. In the first, [`fault`]s happen and the [`check`]ers watch that no
//! flow ever has two owners and no living connection is reset. In the second everything heals, and within stated
//! bounds every slice must have its owner, and clients whose connections died with a host must be told. A run that
//! fails is told again with as few faults as it needs ([`shorten`]).
//!
//! What is not modelled: the content of packets, the kernel's rules (rules/tests/packets.rs has them), the
//! authentication of datagrams, and several machines that share one name.

pub mod check;
pub mod clock;
pub mod config;
pub mod dice;
pub mod fault;
pub mod kernel;
pub mod knowledge;
pub mod mask;
pub mod network;
pub mod run;
pub mod shorten;
pub mod summary;
pub mod world;
