//! What a kernel does with slices: more than "ours" and "another's" while slices move.
//!
//! A planned move of a slice from host A to host B, without a packet lost or served twice:
//!
//! | step | A's kernel | B's kernel | learned from |
//! |---|---|---|---|
//! | 0 | accepts | drops | – |
//! | 1 | accepts | *incoming*: what is sent to its own MAC, and connections that it knows | agreement on the view |
//! | 2 | *relayed*: its own connections; all else is sent on to B's MAC | incoming | B's `ready` |
//! | 3 | relayed | *taking*: accepts, and drops what comes a second time | A's claims |
//! | 4 | *moving*: its own connections | taking | B no longer `ready` |
//! | 5 | moving, until no connection is left | *shared*: accepts, silent to connections it does not know | A's `relayed` |
//! | 6 | drops | accepts, and resets connections that nobody knows | A's `moving` |
//!
//! At each instant one host alone decides about a flooded packet: A up to step 2, B from step 3 on. Between
//! the two A decides that B serves.

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::report::Claims;
use crate::slices::SliceSet;

/// What a kernel does with the slices of one service. What is in none of the sets is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// New flows are accepted.
    pub accepted: SliceSet,
    /// Of these, connections that are not known here may live on another host.
    pub shared: SliceSet,
    /// Of those, it is known which connections do: all others are reset. A part of `shared`.
    pub heir: SliceSet,
    /// Whose lists say so, and of which of these slices.
    pub listed: BTreeMap<String, SliceSet>,
    /// Of what is accepted, another host still relays what it gets.
    pub taking: SliceSet,
    /// What could be a new flow is sent on to these hosts; connections that live here are accepted.
    pub relayed: BTreeMap<String, SliceSet>,
    /// What another host sends on is accepted, and connections that live here.
    pub incoming: SliceSet,
    /// Only connections that live here are accepted.
    pub moving: SliceSet,
}

/// Holdings by service.
pub type Holdings = BTreeMap<String, Holding>;

/// What becomes of one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Dropped.
    Foreign,
    /// Accepted.
    Own,
    /// Accepted, but silent to connections that are not known here.
    Shared,
    /// Accepted, but silent to connections that are known to live elsewhere.
    Heir,
    /// As shared, and what comes a second time is dropped.
    Taking,
    /// Connections that live here only.
    Moving,
    /// The same, and all else is sent on to this host.
    Relayed(&'a str),
    /// The same as moving, and what is sent on to us is accepted.
    Incoming,
}

impl Holding {
    /// What becomes of `slice`.
    pub fn standing(&self, slice: u32) -> Standing<'_> {
        if self.accepted.contains(slice) {
            return match () {
                () if self.taking.contains(slice) => Standing::Taking,
                () if self.heir.contains(slice) => Standing::Heir,
                () if self.shared.contains(slice) => Standing::Shared,
                () => Standing::Own,
            };
        }
        if let Some((to, _)) = self.relayed.iter().find(|(_, slices)| slices.contains(slice)) {
            return Standing::Relayed(to);
        }
        match () {
            () if self.incoming.contains(slice) => Standing::Incoming,
            () if self.moving.contains(slice) => Standing::Moving,
            () => Standing::Foreign,
        }
    }

    /// All that is relayed, to whomever.
    pub fn all_relayed(&self) -> SliceSet {
        self.relayed.values().fold(SliceSet::new(), |all, slices| all.or(slices))
    }

    /// Slices whose connections may live here although the kernel takes no new flows of them by itself.
    pub fn connections(&self) -> SliceSet {
        self.moving.or(&self.all_relayed()).or(&self.incoming).minus(&self.accepted)
    }

    /// What may be held while it is not known whether the kernel has this or `other`.
    pub fn or(&self, other: &Holding) -> Holding {
        Holding {
            accepted: self.accepted.or(&other.accepted),
            shared: self.shared.or(&other.shared),
            heir: self.heir.or(&other.heir),
            listed: by_host(&self.listed, &other.listed),
            taking: self.taking.or(&other.taking),
            relayed: by_host(&self.relayed, &other.relayed),
            incoming: self.incoming.or(&other.incoming),
            moving: self.moving.or(&other.moving),
        }
    }
}

fn by_host(
    one: &BTreeMap<String, SliceSet>,
    other: &BTreeMap<String, SliceSet>,
) -> BTreeMap<String, SliceSet> {
    let mut both = one.clone();
    for (host, slices) in other {
        let known = both.entry(host.clone()).or_default();
        *known = known.or(slices);
    }
    both
}

/// One set of every service.
pub fn pick(holdings: &Holdings, set: impl Fn(&Holding) -> SliceSet) -> Claims {
    holdings.iter().map(|(service, held)| (service.clone(), set(held))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(slices: &[u32]) -> SliceSet {
        slices.iter().copied().collect()
    }

    #[test]
    fn a_slice_has_one_standing_the_strongest() {
        let held = Holding {
            accepted: set(&[1, 2, 3, 7]),
            shared: set(&[2, 3, 7]),
            heir: set(&[7]),
            listed: BTreeMap::new(),
            taking: set(&[3]),
            relayed: BTreeMap::from([("b".into(), set(&[4]))]),
            incoming: set(&[5]),
            moving: set(&[4, 5, 6, 1]),
        };
        let standings: [Standing<'_>; 8] = core::array::from_fn(|slice| held.standing(slice as u32));
        use Standing::*;
        assert_eq!(standings, [Foreign, Own, Shared, Taking, Relayed("b"), Incoming, Moving, Heir]);
        assert_eq!(held.connections(), set(&[4, 5, 6]));
    }
}
