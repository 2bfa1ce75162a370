//! The table of connections that conntrack keeps for the whole host, and the boot file that may hold our rules.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::control::model::Conntrack;
use crate::warnings::Warnings;

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);
/// The boot file at every so many looks, and no more of it.
const BOOT_FILE_EVERY: u64 = 60;
const BOOT_FILE_MAX: u64 = 16 << 20;
/// The table is nearly full from so many hundredths on, and no more when it is below the other.
const NEARLY_FULL: u64 = 90;
const ROOM_AGAIN: u64 = 80;

/// The key of the warning about the table, and the one about the boot file.
const TABLE: &str = "conntrack";
const BOOT_FILE: &str = "boot_file";
/// Where Debian's nftables.service finds its rules.
const NFTABLES_CONF: &str = "/etc/nftables.conf";

/// How many connections are tracked, and how many can be; `None` where the kernel has no conntrack.
pub fn table() -> Option<Conntrack> {
    let read = |what: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{what}")).ok()?;
        text.trim().parse().ok()
    };
    Some(Conntrack { count: read("count")?, max: read("max")? })
}

/// Tells at start what following connections costs.
pub fn tell(followed: &[String]) {
    if followed.is_empty() {
        return;
    }
    let filled = table().map_or_else(String::new, |t| format!(" ({} of {} entries now)", t.count, t.max));
    tracing::info!(
        "conntrack tracks the connections of this whole host{filled}, because TCP connections of {} are to survive \
         when slices move; services of UDP alone, or with `track: never`, do without it",
        followed.join(", ")
    );
}

/// Looks at both for as long as the agent lives, from a thread of its own: the loop does not wait for a disk.
pub fn watch(warnings: Warnings) {
    let looks = move || {
        for look in 0u64.. {
            judge(table(), &warnings);
            if look.is_multiple_of(BOOT_FILE_EVERY) {
                let text = boot_text(Path::new(NFTABLES_CONF));
                judge_boot_file(text.is_ok_and(|text| holds_our_rules(&text)), &warnings);
            }
            thread::sleep(EVERY);
        }
    };
    if let Err(error) = thread::Builder::new().name("conntrack".into()).spawn(looks) {
        tracing::warn!("cannot start the thread that watches conntrack's table: {error}");
    }
}

/// What an ordinary file of no more than ordinary size holds; never waits for a pipe's other end.
fn boot_text(path: &Path) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let mut text = String::new();
    if file.metadata()?.is_file() {
        file.take(BOOT_FILE_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

fn judge(table: Option<Conntrack>, warnings: &Warnings) {
    let Some(Conntrack { count, max }) = table.filter(|table| table.max > 0) else { return };
    let advice = "raise net.netfilter.nf_conntrack_max (sysctl), or let services do without: `track: never`, or UDP \
                  alone; until then `onemac drain` sends new clients to the other hosts; `conntrack -S` counts the \
                  drops";
    if count >= max {
        let what = format!("conntrack's table is full ({max} entries): this host drops new connections");
        warnings.raise(TABLE, what, advice);
    } else if count * 100 >= max * NEARLY_FULL {
        let what = format!("conntrack's table is nearly full (limit: {max} entries)");
        warnings.raise(TABLE, what, advice);
    } else if count * 100 < max * ROOM_AGAIN {
        warnings.clear(TABLE);
    }
}

/// Whether a text for `nft -f` makes the table that stands on a device.
fn holds_our_rules(text: &str) -> bool {
    let table = format!("table netdev {}", onemac_rules::TABLE);
    text.lines().any(|line| line.trim_start().strip_prefix(&table).is_some_and(|rest| !rest.starts_with('_')))
}

fn judge_boot_file(saved: bool, warnings: &Warnings) {
    if saved {
        warnings.raise(
            BOOT_FILE,
            format!("{NFTABLES_CONF} holds the agent's rules, as `nft list ruleset` shows them"),
            "remove the tables `netdev onemac`, `inet onemac` and `arp onemac` from it: where their device is missing \
             at boot, older kernels (6.1 and 6.12) load nothing of the file, this host's own firewall neither",
        );
    } else {
        warnings.clear(BOOT_FILE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_is_told_until_there_is_room_again() {
        let warnings = Warnings::default();
        let told = |count| {
            judge(Some(Conntrack { count, max: 1000 }), &warnings);
            warnings.list().into_iter().next().map(|warning| warning.what).unwrap_or_default()
        };
        assert_eq!(told(899), "");
        assert!(told(900).contains("nearly full"));
        assert!(told(1000).contains("drops new connections"));
        assert!(told(1001).contains("drops new connections"));
        assert!(told(950).contains("nearly full"));
        assert!(told(801).contains("nearly full"));
        assert_eq!(told(799), "");
        judge(None, &warnings);
        assert_eq!(warnings.list(), []);
    }

    #[test]
    fn a_boot_file_that_is_a_pipe_holds_nobody_up() {
        let path = std::env::temp_dir().join(format!("onemac-boot-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(boot_text(&path).unwrap(), "");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "table netdev onemac {\n}\n").unwrap();
        assert!(holds_our_rules(&boot_text(&path).unwrap()));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn every_table_of_the_agent_is_named_to_be_removed() {
        let warnings = Warnings::default();
        judge_boot_file(true, &warnings);
        let advice = warnings.list().remove(0).advice;
        for table in ["`netdev onemac`", "`inet onemac`", "`arp onemac`"] {
            assert!(advice.contains(table), "{table}: {advice}");
        }
    }

    #[test]
    fn our_rules_are_found_in_a_boot_file() {
        for (text, ours) in [
            ("#!/usr/sbin/nft -f\nflush ruleset\n\ntable inet filter {\n}\n", false),
            ("table inet filter {\n}\ntable netdev onemac {\n}\n", true),
            ("  table netdev onemac\n", true),
            ("# table netdev onemac {\n", false),
            ("table netdev onemac_notes {\n}\n", false),
        ] {
            assert_eq!(holds_our_rules(text), ours, "{text}");
        }
    }
}
