//! Datagrams that the switch loses: nftables rules at its ports, in a table of the lab's own.
//!
//! At the switch and not on the host: what a host's own rules drop, its programs are told of, and other
//! rules on the host are seen by the agent. Neither is so of a lossy wire.

use anyhow::{Result, ensure};

use crate::bridge::Switch;

/// Nothing of the agents' is in it.
const TABLE: &str = "lab";

/// Which way the loss is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the host says.
    From,
    /// What the host should hear.
    To,
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The agents' UDP datagrams.
    Gossip,
    /// All that agents say to each other: gossip, and their frames on the service wire.
    Words,
    /// Every frame, as where the wire is broken beyond the port: the host still sees its carrier.
    Frames,
}

impl Switch {
    /// Loses so many per cent (1 to 100) of what passes a port one way, until [`Self::lose_nothing`].
    ///
    /// # Errors
    /// When there is no such port, or no such share.
    pub fn lose(&self, port: &str, way: Way, what: What, percent: u8) -> Result<()> {
        ensure!((1..=100).contains(&percent), "{percent} per cent can not be lost");
        let last = percent - 1;
        let (chain, hook) = match way {
            Way::From => (format!("from_{port}"), "ingress"),
            Way::To => (format!("to_{port}"), "egress"),
        };
        let mut commands = format!(
            "add table netdev {TABLE}; \
             add chain netdev {TABLE} {chain} {{ type filter hook {hook} device {port} priority 0; }}"
        );
        let matches: &[&str] = match what {
            What::Gossip => &["udp dport 7946"],
            What::Words => &["udp dport 7946", "ether type 0x88b5"],
            What::Frames => &[""],
        };
        for what in matches {
            let rule = format!("{what} numgen random mod 100 <= {last} counter drop");
            commands += &format!("; add rule netdev {TABLE} {chain} {rule}");
        }
        self.netns().run("nft", &[&commands]).map(drop)
    }

    /// Loses nothing any more.
    ///
    /// # Errors
    /// When nothing was lost before.
    pub fn lose_nothing(&self) -> Result<()> {
        self.netns().run("nft", &["delete", "table", "netdev", TABLE]).map(drop)
    }
}
