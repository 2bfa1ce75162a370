//! Debian's Knot DNS on a host, bound to the shared addresses and telling its host's name (NSID,
//! RFC 5001) in every answer.
//!
//! Knot rather than NSD: one process of about 8 MiB that listens after 12 ms, beside three of together
//! about 50 MiB. It binds with IP_FREEBIND, so the addresses need not be there yet.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::process::Process;
use crate::wait::poll_until;

/// The zone that every nameserver of a lab serves; clients ask for its TXT record.
pub(crate) const ZONE: &str = "example.org.";

/// Starts the nameserver of one host and waits until it listens.
pub(crate) fn start(
    netns: &Netns,
    host: &str,
    vips: &[IpAddr],
    dir: &Path,
    outlives: bool,
) -> Result<Process> {
    let dir = dir.join("knot");
    // A power cut leaves lock files of a server that is gone.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
    let zone = dir.join("zone");
    fs::write(
        &zone,
        format!(
            "$ORIGIN {ZONE}\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.53\n@ TXT \"served\"\n"
        ),
    )?;
    let configuration = dir.join("knot.conf");
    fs::write(&configuration, text(host, vips, &dir, &zone))?;
    let mut command = netns.command("knotd");
    command.arg("-c").arg(&configuration);
    let log = dir.join("log");
    let mut process = Process::start(command, "knotd", &log, outlives)?;
    // One UDP and one TCP socket for each address.
    let listening = poll_until(Duration::from_secs(20), || {
        let sockets = netns.run("ss", &["-Hlntu", "sport", "=", "53"])?;
        Ok(!process.is_running() || sockets.lines().count() >= 2 * vips.len())
    });
    anyhow::ensure!(
        listening.is_ok() && process.is_running(),
        "the nameserver of {host} does not listen; its log ends:\n{}",
        process.log_tail(20)
    );
    Ok(process)
}

fn text(host: &str, vips: &[IpAddr], dir: &Path, zone: &Path) -> String {
    let listen: Vec<String> = vips.iter().map(|vip| format!("{vip}@53")).collect();
    format!(
        "server:\n    rundir: \"{dir}\"\n    listen: [ {listen} ]\n    nsid: {host}\n    udp-workers: 1\n    \
         tcp-workers: 1\n    background-workers: 1\ndatabase:\n    storage: \"{dir}\"\nlog:\n  - target: stderr\n    \
         any: notice\nzone:\n  - domain: {ZONE}\n    file: \"{zone}\"\n    journal-content: none\n    zonefile-sync: -1\n",
        dir = dir.display(),
        listen = listen.join(", "),
        zone = zone.display()
    )
}
