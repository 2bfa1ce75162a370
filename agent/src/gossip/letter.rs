//! What an operator wants of another host, and what came of it.

use serde::{Deserialize, Serialize};

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

/// A word from one agent to another on behalf of an operator. Orders may arrive more than once.
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
}

impl Letter {
    /// As bytes (postcard).
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// From these bytes; `None` if they are none, or of another version of the program.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (letter, rest) = postcard::take_from_bytes(bytes).ok()?;
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
