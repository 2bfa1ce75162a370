//! The command line. One table for the parser, `--help`, the completions and the manual page.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};

use crate::control::DEFAULT_RUN_DIR;
use crate::gossip;

/// Many Linux servers, one IP address, one MAC address, nobody in charge.
///
/// Every host of the cluster sees every packet for the shared address, hashes the client, and accepts or
/// drops by itself. Hosts find each other by gossip and divide a dead host's share.
#[derive(Debug, Parser)]
#[command(name = "onemac", version = VERSION.as_str(), max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no agent there.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// As `onemac --version` prints it: an agent that is to become another program looks whether that one speaks the same
/// protocol.
static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (protocol {})", env!("CARGO_PKG_VERSION"), gossip::VERSION));

/// The version of the protocol in what `onemac --version` prints.
pub fn protocol_of(version: &str) -> Option<u8> {
    version.trim().rsplit_once("(protocol ")?.1.strip_suffix(')')?.parse().ok()
}

/// Which agent to ask.
#[derive(Args, Debug)]
pub struct RunDir {
    /// The run directory of the agent.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground.
    ///
    /// Logs to standard error (ONEMAC_LOG=debug says more) and tells systemd when it is ready. SIGTERM
    /// leaves in order: the share is handed over, the connections that live here are waited for (at most the
    /// drain timeout), and everything that was made is removed; a second one ends at once. SIGHUP reads the
    /// definition again. Killed, the kernel goes on until the lease ends and then falls silent by itself; an
    /// agent that starts before goes on, a later one begins anew, `onemac clean` tidies up.
    Run {
        /// The cluster definition.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Which host of the definition this is; else the machine's name decides.
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Append everything that the agent's core is told to this file, for `onemac replay`.
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// Where the agent listens.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Validate a cluster definition and print every error.
    Check {
        /// The cluster definition.
        file: PathBuf,
    },
    /// Print what `run` would install: rules, device, settings. Needs no root.
    Plan {
        /// The cluster definition.
        file: PathBuf,
        /// Which host of the definition.
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// The hosts assumed to be alive; all if left out.
        #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
        alive: Option<Vec<String>>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell which slice a client is in and which host owns it.
    ///
    /// Asks the agent; with --config it computes.
    Owner {
        /// The client's address.
        client: IpAddr,
        /// For which service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Compute from this cluster definition instead of asking the agent.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The hosts assumed to be alive; all if left out.
        #[arg(long, value_name = "A,B,…", value_delimiter = ',', requires = "config")]
        alive: Option<Vec<String>>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Show the cluster as this host sees it: who owns what, what is wrong, what to do.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Show which host owns which slices.
    Slices {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Take a service, or all, from a host: new clients go to the others, its connections stay.
    ///
    /// Lasts until `resume`, also across restarts of the agent, but not across a boot.
    Drain {
        /// Which host; this one if left out.
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Which service; all if left out.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Wait until the host has no connections left, and tell how many there are.
        #[arg(long)]
        wait: bool,
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Give a drained service, or all, back to a host; a host that leaves stays.
    Resume {
        /// Which host; this one if left out.
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Which service; all if left out.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Change the weight of a host, until its agent meets another one in a new definition.
    Weight {
        /// Which host.
        host: String,
        /// Its share in proportion to the others', 0 to 100.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        weight: u8,
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Read the definition again. It comes into force when every living host has it; a bad one changes nothing.
    ///
    /// Hosts, addresses, services, weights and the drain timeout can change this way, and the secret: see `keygen`.
    /// SIGHUP does the same.
    Reload {
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Start the agent's program anew, for an upgrade: the kernel goes on serving, nobody notices.
    Restart {
        /// Which agent to ask.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Tell a recorded run again: what was decided, when, and why.
    Replay {
        /// What `run --record` wrote.
        file: PathBuf,
        /// Also tell what nothing came of: every heartbeat, every renewal.
        #[arg(long)]
        all: bool,
    },
    /// Remove what a dead agent left: rules, device, addresses; restore the settings.
    Clean {
        /// The run directory of the dead agent, where former settings are remembered.
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Make a secret for a cluster (32 random bytes in hex), or change the secret of a running one.
    ///
    /// To change it: `keygen --add FILE`, copy the file to every host, `reload` on every host; when `status` says that
    /// all speak the new one, `keygen --drop FILE`, copy, `reload`. Nobody notices. A `reload` that would cut a living
    /// host off is refused.
    Keygen {
        /// Write it to this new file, for its owner only, instead of printing it.
        file: Option<PathBuf>,
        /// Put a new secret before the one in this file; both are accepted then.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        add: Option<PathBuf>,
        /// Remove the old secret from this file, which holds two.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "add"])]
        drop: Option<PathBuf>,
    },
    /// Print the completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff): onemac man | man -l -
    Man,
}
