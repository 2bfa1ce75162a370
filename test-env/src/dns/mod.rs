//! The clients: hundreds of addresses that ask the shared address for a name and note who answers, how
//! often, and when.

mod log;
mod message;
mod prober;
mod tcp;
mod udp;

pub use log::{Answer, ClientLog, Log, QueryLog, Shares};
pub use prober::{Prober, Watch};
