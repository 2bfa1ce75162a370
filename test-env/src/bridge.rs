//! The switch: what its forwarding table says, and a watch that misses nothing in between.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::command;
use crate::netns::Netns;
use crate::process::Process;
use crate::wait::poll_until;

/// The switch of a lab, a Linux bridge.
#[derive(Debug)]
pub struct Switch {
    netns: Netns,
}

/// One entry of its forwarding table.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct FdbEntry {
    /// The MAC address.
    pub mac: String,
    /// The port behind which it was seen.
    #[serde(rename = "ifname")]
    pub port: String,
    /// `permanent` for the port's own address; empty for a learned one.
    #[serde(default)]
    pub state: String,
}

impl Switch {
    pub(crate) fn new(netns: Netns) -> Self {
        Self { netns }
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The forwarding table.
    ///
    /// # Errors
    /// When the bridge can not be asked.
    pub fn fdb(&self) -> Result<Vec<FdbEntry>> {
        let json = crate::run("bridge", &["-n", self.netns.name(), "-j", "fdb", "show"])?;
        serde_json::from_str(&json).with_context(|| format!("unexpected answer of bridge: {json}"))
    }

    /// The port behind which the switch believes a MAC address, if it has learned it.
    ///
    /// # Errors
    /// When the bridge can not be asked.
    pub fn learned(&self, mac: &str) -> Result<Option<String>> {
        Ok(self
            .fdb()?
            .into_iter()
            .find(|entry| entry.mac == mac && entry.state != "permanent")
            .map(|entry| entry.port))
    }

    /// Takes a port's cable out or puts it back.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn set_port(&self, port: &str, up: bool) -> Result<()> {
        self.netns.ip(&format!("link set {port} {}", if up { "up" } else { "down" })).map(drop)
    }

    /// Lets no frame pass between two groups of ports, as when a link between two switches fails; everybody
    /// else reaches both. Only frames that also match `what`, if it is not empty (nft syntax).
    ///
    /// # Errors
    /// When the rules can not be made.
    pub fn part(&self, one: &[&str], other: &[&str], what: &str) -> Result<()> {
        let (one, other) = (one.join(", "), other.join(", "));
        let rules = format!(
            "table bridge lab {{\n chain parted {{\n  type filter hook forward priority 0\n  \
             iifname {{ {one} }} oifname {{ {other} }} {what} drop\n  \
             iifname {{ {other} }} oifname {{ {one} }} {what} drop\n }}\n}}\n"
        );
        command::finish_with_input(self.netns.command("nft").args(["-f", "-"]), &rules).map(drop)
    }

    /// Takes back what [`Self::part`] did.
    ///
    /// # Errors
    /// When nothing was parted.
    pub fn join(&self) -> Result<()> {
        self.netns.run("nft", &["delete", "table", "bridge", "lab"]).map(drop)
    }

    /// Records every change of the forwarding table from now on, in the order in which the kernel
    /// reports them.
    ///
    /// # Errors
    /// When the watch does not start.
    pub fn watch(&self, dir: &Path) -> Result<FdbWatch> {
        let log = dir.join("fdb.log");
        let mut command = std::process::Command::new("bridge");
        // stdbuf: a line must be in the file when it was reported, not when 4 KiB have come together.
        command = {
            let mut buffered = std::process::Command::new("stdbuf");
            buffered.args(["-oL"]).arg(command.get_program());
            buffered
        };
        command.args(["-n", self.netns.name(), "monitor", "fdb"]);
        let process = Process::start(command, "bridge monitor", &log, false)?;
        let mut watch = FdbWatch { process, log, netns: self.netns.clone(), marks: 0 };
        watch.sync().context("the watch on the forwarding table does not report")?;
        Ok(watch)
    }
}

/// A running record of what the switch learned.
#[derive(Debug)]
pub struct FdbWatch {
    process: Process,
    log: std::path::PathBuf,
    netns: Netns,
    marks: u16,
}

impl FdbWatch {
    /// Everything that was reported so far, one change a line.
    ///
    /// # Errors
    /// When the watch has died, or a mark set now does not come through, so that "nothing reported" would
    /// prove nothing.
    pub fn changes(&mut self) -> Result<Vec<String>> {
        self.sync()?;
        let text = std::fs::read_to_string(&self.log)?;
        Ok(text.lines().filter(|line| !line.contains(MARK)).map(str::to_owned).collect())
    }

    /// The changes that name `mac`.
    ///
    /// # Errors
    /// As [`Self::changes`].
    pub fn sightings(&mut self, mac: &str) -> Result<Vec<String>> {
        Ok(self.changes()?.into_iter().filter(|line| line.contains(mac)).collect())
    }

    /// Sets an entry nobody else uses and waits until the watch reports it: all before it has come too.
    fn sync(&mut self) -> Result<()> {
        self.marks += 1;
        let mac = format!("{MARK}{:02x}:{:02x}", self.marks >> 8, self.marks & 0xff);
        ensure!(self.process.is_running(), "bridge monitor ended: {}", self.process.log_tail(5));
        poll_until(Duration::from_secs(20), || {
            let netns = self.netns.name();
            crate::run(
                "bridge",
                &["-n", netns, "fdb", "replace", &mac, "dev", "router", "master", "static"],
            )?;
            crate::run("bridge", &["-n", netns, "fdb", "del", &mac, "dev", "router", "master"])?;
            Ok(std::fs::read_to_string(&self.log)?.contains(&mac))
        })?;
        Ok(())
    }
}

/// First four bytes of the marks.
const MARK: &str = "02:00:5e:77:";
