//! Counts what gets past the rules of a host: IP packets for the shared addresses, behind the project's own chains
//! and before everything else.

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::topology::addr;

/// The counters of one host. They stay until the host goes.
#[derive(Debug)]
pub struct Arrivals {
    netns: Netns,
}

impl Arrivals {
    /// Counts what comes by a device from now on.
    ///
    /// # Errors
    /// When the rules cannot be loaded.
    pub fn start(netns: &Netns, device: &str) -> Result<Self> {
        let chain = |name: &str, priority: i32| {
            format!(
                "chain {name} {{ type filter hook prerouting priority {priority}; policy accept;\n\
                 iifname \"{device}\" ip daddr {} counter comment \"{name}4\"\n\
                 iifname \"{device}\" ip6 daddr {} counter comment \"{name}6\"\n}}\n",
                addr::VIP4,
                addr::VIP6
            )
        };
        // The project's chains are at -300; conntrack at -200.
        let text = format!("table inet arrivals {{\n{}{}}}\n", chain("came", -310), chain("passed", -290));
        netns.run("nft", &[&text])?;
        Ok(Self { netns: netns.clone() })
    }

    /// How many have come through the device's own rules.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn came(&self) -> Result<u64> {
        self.count("came")
    }

    /// How many of them have got past the rules behind the devices as well.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn passed(&self) -> Result<u64> {
        self.count("passed")
    }

    fn count(&self, what: &str) -> Result<u64> {
        let text = self.netns.run("nft", &["list", "table", "inet", "arrivals"])?;
        let lines = text.lines().filter(|line| line.contains(&format!("comment \"{what}")));
        lines
            .map(|line| {
                let (_, rest) = line.split_once("packets ").context("no counter")?;
                Ok(rest.split(' ').next().unwrap_or_default().parse::<u64>()?)
            })
            .sum()
    }
}
