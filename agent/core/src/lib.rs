//! The decisions of onemac, and nothing else.
//!
//! Who owns which slice ([`ownership`]), which hosts compute with which [`view`], what a host tells the
//! others ([`report`]), and when a kernel may accept a flow ([`node`]). Everything that could surprise a
//! test is an argument: the time, what was heard, what the kernel answered. The crate is `no_std`, so
//! clocks, sockets, files and threads are out of reach of the compiler, not only of good manners.
//!
//! A daemon feeds [`node::Node::handle`], carries out what [`node::Node::poll_action`] returns, and sleeps
//! until [`node::Node::next_deadline`]. A simulator does the same with clocks of its own.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod holding;
pub mod jhash;
pub mod node;
pub mod ownership;
pub mod report;
pub mod slices;
pub mod time;
pub mod view;
