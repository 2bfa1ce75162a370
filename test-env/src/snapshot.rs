//! What a machine has configured that is not onemac's, to be compared before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::netns::Netns;

/// The foreign state of one namespace: nftables tables, links, addresses, routes, rules and sysctls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    items: BTreeMap<String, String>,
}

/// Device of onemac; what concerns it alone is not foreign.
const DEVICE: &str = "onemac0";

/// Counters and clocks among the sysctls; nobody configures them.
const VOLATILE: &[&str] = &[
    "nf_conntrack_count",
    "stable_secret",
    "tcp_mem",
    "udp_mem",
    "mptcp/blackhole",
    "fib_multipath_hash_seed",
];

impl Snapshot {
    /// Takes the state of a namespace.
    ///
    /// # Errors
    /// When one of the tools fails.
    pub fn take(netns: &Netns) -> Result<Self> {
        let mut items = BTreeMap::new();
        for table in netns.run("nft", &["list", "tables"])?.lines() {
            let name: Vec<&str> = table.split_whitespace().collect();
            if let ["table", family, name] = name[..]
                && !name.contains("onemac")
            {
                items.insert(table.to_owned(), netns.run("nft", &["list", "table", family, name])?);
            }
        }
        for (what, arguments) in [
            ("links", "-o link show"),
            ("addresses", "-o addr show"),
            ("routes", "route show table all"),
            ("routes of IPv6", "-6 route show table all"),
            ("rules", "rule show"),
            ("rules of IPv6", "-6 rule show"),
        ] {
            items.insert(
                what.to_owned(),
                own_lines(&netns.run("ip", &arguments.split(' ').collect::<Vec<_>>())?),
            );
        }
        netns.within(|| {
            read_tree(Path::new("/proc/sys/net"), &mut items);
            Ok(())
        })?;
        Ok(Self { items })
    }

    /// The differences to a later snapshot, one a line; empty when there is none.
    #[must_use]
    pub fn differences(&self, later: &Self) -> String {
        let mut keys: Vec<&String> = self.items.keys().chain(later.items.keys()).collect();
        keys.sort();
        keys.dedup();
        let mut text = String::new();
        for key in keys {
            let (before, after) = (self.items.get(key), later.items.get(key));
            if before != after {
                let show = |value: Option<&String>| value.map_or("nothing", |value| value.trim()).to_owned();
                text.push_str(&format!("{key}:\n  before: {}\n  after:  {}\n", show(before), show(after)));
            }
        }
        text
    }

    /// Fails when a later snapshot differs.
    ///
    /// # Errors
    /// With the differences.
    pub fn ensure_same(&self, later: &Self, when: &str) -> Result<()> {
        let differences = self.differences(later);
        ensure!(differences.is_empty(), "{when}, foreign configuration differs:\n{differences}");
        Ok(())
    }
}

/// Without the lines of onemac's device and without counters that run by themselves. Interface numbers
/// stay: a device that was removed and made anew would show.
fn own_lines(text: &str) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.contains(DEVICE))
        .map(|line| {
            // An address may still be tentative when the first snapshot is taken.
            let mut words: Vec<&str> = line.split_whitespace().filter(|word| *word != "tentative").collect();
            // Lifetimes count down; they stand behind these words.
            while let Some(at) =
                words.iter().position(|word| matches!(*word, "expires" | "valid_lft" | "preferred_lft"))
            {
                words.drain(at..(at + 2).min(words.len()));
            }
            words.join(" ")
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

fn read_tree(dir: &Path, items: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.display().to_string();
        if VOLATILE.iter().any(|volatile| name.ends_with(volatile)) || name.ends_with(DEVICE) {
            continue;
        }
        if path.is_dir() {
            read_tree(&path, items);
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Some can only be written; they are not configuration.
            items.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_device_and_lifetimes_are_left_out_and_the_rest_stays() {
        let text = "2: eth0 inet6 fe80::1/64 scope link valid_lft 10sec preferred_lft 5sec\n9: onemac0 inet 192.0.2.53/32";
        assert_eq!(own_lines(text), "2: eth0 inet6 fe80::1/64 scope link");
    }

    #[test]
    fn a_changed_value_is_named() {
        let one = Snapshot { items: BTreeMap::from([("a".to_owned(), "1".to_owned())]) };
        let two = Snapshot { items: BTreeMap::from([("a".to_owned(), "2".to_owned())]) };
        assert!(one.ensure_same(&one.clone(), "then").is_ok());
        let error = one.ensure_same(&two, "after a run").unwrap_err().to_string();
        assert!(error.contains("before: 1") && error.contains("after:  2"), "{error}");
    }
}
