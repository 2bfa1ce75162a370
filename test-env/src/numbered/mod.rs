//! Numbered datagrams: every client sends a number again and again, every host answers with its own, and
//! no number may ever be answered twice.
//!
//! What [`crate::dns`] shows with real servers for some hundred queries a second, this shows for tens of
//! thousands: client and server are a few lines each, so that two cores carry the rate together with the
//! hosts under test. The times of answers are the kernel's, so a late thread does not lengthen a silence.

mod clients;
mod responder;
mod tally;

use nix::libc::{SCHED_RR, sched_param, sched_setscheduler};

pub use clients::{Clients, Load};
pub use responder::Responder;
pub use tally::{Silence, Tally, Twice};

/// Before the agents and all ordinary programs: clients and servers are instruments, and a busy machine is to show in
/// the hosts under test and not in them.
pub const BEFORE_AGENTS: i32 = 2;
/// In turn with the agents, before all ordinary programs.
pub const AS_AGENTS: i32 = 1;

/// Gives the calling thread this real-time priority.
pub fn be_urgent(priority: i32) {
    let urgent = sched_param { sched_priority: priority };
    // SAFETY: the pointer is to an initialised sched_param that lives through the call; 0 names the calling
    // thread. Where it is refused, what is measured is at most too long.
    unsafe { sched_setscheduler(0, SCHED_RR, &raw const urgent) };
}

/// The port on the shared addresses.
const PORT: u16 = 7007;

/// What travels: which client, which of its numbers, and in the answer which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    client: u16,
    number: u32,
    host: u8,
}

impl Message {
    const LEN: usize = 7;

    fn bytes(self) -> [u8; Self::LEN] {
        let [a, b] = self.client.to_be_bytes();
        let [c, d, e, f] = self.number.to_be_bytes();
        [a, b, c, d, e, f, self.host]
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, e, f, host] = bytes else { return None };
        Some(Self { client: u16::from_be_bytes([a, b]), number: u32::from_be_bytes([c, d, e, f]), host })
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn a_message_reads_back_and_other_lengths_do_not() {
        let message = Message { client: 499, number: 70_000, host: 16 };
        assert_eq!(Message::read(&message.bytes()), Some(message));
        assert_eq!(Message::read(&message.bytes()[..6]), None);
    }
}
