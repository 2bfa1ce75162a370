//! What a machine and its network can do to agents that have done nothing wrong. Each evil can be let loose alone and
//! ends when its handle goes.

mod hogs;
mod junk;
mod memory;
mod rules;
mod stalled;

pub use hogs::Hogs;
pub use junk::{Flood, Junk, Recording};
pub use memory::Pressure;
pub use rules::{ForeignRules, Rounds};
pub use stalled::{LogPipe, Supervisor};
