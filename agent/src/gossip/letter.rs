//! What agents have to say to one another besides their reports: what an operator wants of another host, and what
//! an owner must know of connections that live elsewhere.

use std::net::IpAddr;

use onemac_core::report::{Claims, Stamp};
use onemac_core::slices::SliceSet;
use serde::{Deserialize, Serialize};

use super::VERSION;

/// An order of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Take no new flows of a service, or of all.
    Drain {
        /// Which one; none: all.
        service: Option<String>,
    },
    /// Take them again.
    Resume {
        /// Which one; none: all.
        service: Option<String>,
    },
    /// Take a share of this weight.
    Weight {
        /// 0..=100.
        weight: u8,
    },
}

/// Connections that live on the host that says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// What was asked.
    pub round: Stamp,
    /// The service that they are with.
    pub service: String,
    /// All of these slices are listed, whether anything lives there or not.
    pub slices: SliceSet,
    /// The clients, with their TCP ports.
    pub clients: Vec<(IpAddr, u16)>,
}

/// A word from one agent to another. Each may arrive more than once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Letter {
    /// Do this.
    Order {
        /// Names the order in the reply.
        id: u64,
        /// What to do.
        order: Order,
    },
    /// This came of it.
    Reply {
        /// Which order.
        id: u64,
        /// In words: what was done, or why not.
        result: Result<String, String>,
    },
    /// List the connections of these slices: their former owner has died, and other connections with it.
    List {
        /// To be repeated in the answer.
        round: Stamp,
        /// Which slices.
        slices: Claims,
    },
    /// These are some of them.
    Listed(Listing),
}

impl Letter {
    /// As bytes: the version of reports, then the letter (postcard).
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// From these bytes; `None` if they are none, or of another version of the program.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let letter = bytes.strip_prefix(&[VERSION])?;
        let (letter, rest) = postcard::take_from_bytes(letter).ok()?;
        rest.is_empty().then_some(letter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_arrives_as_it_was_sent() {
        let order = Letter::Order { id: 7, order: Order::Drain { service: Some("dns".into()) } };
        let reply = Letter::Reply { id: 7, result: Err("no".into()) };
        for letter in [order, reply] {
            assert_eq!(Letter::decode(&letter.encode()), Some(letter));
        }
        assert_eq!(Letter::decode(&[9, 9]), None);
    }
}
