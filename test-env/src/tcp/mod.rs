//! Connections: who keeps them, who breaks them, and how soon a broken one is told.
//!
//! [`EchoServer`] runs on every host and says in its first byte whose it is, so every connection tells where
//! it lives. [`Crowd`] are connections that last, with a byte each way all the time: a move that breaks,
//! delays or doubles anything shows there. [`Newcomers`] connect, ask once and go, a hundred a second: a move
//! that makes anybody wait for a retransmission shows there, in the client's own kernel's count.
//!
//! All of it runs in threads of the test, in the namespaces of the lab, and lives on whatever happens to the
//! agents.

mod connection;
mod crowd;
mod dice;
mod echo;
mod newcomers;
mod report;
mod socket;
pub mod trial;

pub use connection::{Ended, How, Seen};
pub use crowd::{Crowd, Load};
pub use dice::Dice;
pub use echo::EchoServer;
pub use newcomers::{Arrivals, Failure, Newcomer, Newcomers, Phase};
pub use report::Report;

/// The port on the shared addresses.
pub const PORT: u16 = 7008;
