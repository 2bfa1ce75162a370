//! Two hosts, one slice, everything: every way that a hand-over and its reversal can go.
//!
//! The daemon's own core twice ([`onemac_core::node::Node`]), each in front of a kernel, with two one-way links between
//! them. Time goes by half a heartbeat at a time. Between two such instants everything that is due happens in every
//! order: reports arrive or are overtaken, kernels do what they were asked for, agents wake. An operator drains the first
//! host and gives everything back to it, at any time; faults happen at any time and end at any time, as many as are
//! allowed. States that go on alike are one state ([`fingerprint`]), so there is no bound on the depth: the search
//! ends when no way leads to a state that was not there before.
//!
//! What dice try in thousands of random clusters (`test-env/sim`), this tries completely, in the smallest one.
#![forbid(unsafe_code)]

pub mod fingerprint;
pub mod host;
pub mod search;
pub mod step;
pub mod world;
