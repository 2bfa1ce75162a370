//! The clients: hundreds of addresses that ask the shared address for a name and note who answers, how
//! often, and when.

mod log;
mod message;
mod perf;
mod prober;
mod tcp;
mod udp;

pub use log::{Answer, ClientLog, Log, QueryLog, Shares};
pub use perf::{Counts, Dnsperf};
pub use prober::{Prober, Watch};
