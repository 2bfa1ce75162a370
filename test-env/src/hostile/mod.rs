//! What a machine and its network can do to agents that have done nothing wrong. Each evil can be let loose alone and
//! ends when its handle goes. Floods are in [`crate::flood`].

mod hogs;
mod memory;
mod rules;
mod stalled;

pub use hogs::Hogs;
pub use memory::{Pressure, Swapping};
pub use rules::{ForeignRules, Rounds};
pub use stalled::{LogPipe, Supervisor};
