//! Somebody else's firewall: a table of some thousand addresses, written anew and listed all the time.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::command;
use crate::lab::Lab;
use crate::netns::Netns;

/// From one load to the next.
const EVERY: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    /// How often the table was loaded and listed.
    pub done: usize,
    /// How often one of the two failed.
    pub failed: usize,
    /// How the first of them failed.
    pub why: Option<String>,
    /// The longest time that a load took.
    pub slowest_load: Duration,
    /// The longest time that `nft list ruleset` took.
    pub slowest_list: Duration,
}

/// Loads a foreign table on every host every second, and lists all rules. Ends when dropped.
#[derive(Debug)]
pub struct ForeignRules {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Rounds>>,
}

impl ForeignRules {
    /// Begins, with so many addresses on each host.
    #[must_use]
    pub fn start(lab: &Lab, addresses: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let text = Arc::new(table(addresses));
        let start = |netns: Netns| {
            let (stop, text) = (Arc::clone(&stop), Arc::clone(&text));
            spawn(move || repeat(&netns, &text, &stop))
        };
        let threads = lab.hosts().iter().map(|host| start(host.netns().clone())).collect();
        Self { stop, threads }
    }

    /// Ends, and says what came of it on all hosts together.
    ///
    /// # Errors
    /// When a thread has panicked.
    pub fn stop(mut self) -> Result<Rounds> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Rounds::default();
        for thread in std::mem::take(&mut self.threads) {
            let one = thread.join().map_err(|_| anyhow!("a thread that loads foreign rules panicked"))?;
            all.done += one.done;
            all.failed += one.failed;
            all.why = all.why.or(one.why);
            all.slowest_load = all.slowest_load.max(one.slowest_load);
            all.slowest_list = all.slowest_list.max(one.slowest_list);
        }
        Ok(all)
    }
}

impl Drop for ForeignRules {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// As firewalls write their rules: the former table goes in the transaction that brings the new one.
fn table(addresses: u32) -> String {
    // Every second address, so that none are joined.
    let elements: Vec<String> =
        (0..addresses).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + 2 * n).to_string()).collect();
    format!(
        "table inet foreign {{}}\ndelete table inet foreign\ntable inet foreign {{\n set banned {{ type ipv4_addr; \
         elements = {{ {} }} }}\n chain input {{ type filter hook input priority 10; ip saddr @banned drop; }}\n}}\n",
        elements.join(", ")
    )
}

fn repeat(netns: &Netns, text: &str, stop: &AtomicBool) -> Rounds {
    let mut rounds = Rounds::default();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let loaded = command::finish_with_input(netns.command("nft").args(["-f", "-"]), text).map(drop);
        rounds.slowest_load = rounds.slowest_load.max(began.elapsed());
        let began_to_list = Instant::now();
        // Given up where it would never end.
        let listed = list(netns.command("timeout").args(["30", "nft", "list", "ruleset"]));
        rounds.slowest_list = rounds.slowest_list.max(began_to_list.elapsed());
        rounds.done += 1;
        if let Err(error) = loaded.and(listed) {
            rounds.failed += 1;
            rounds.why.get_or_insert_with(|| first_line(&error));
        }
        while began.elapsed() < EVERY && !stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20));
        }
    }
    rounds
}

fn list(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Without the thousands of addresses that were its input.
fn first_line(error: &anyhow::Error) -> String {
    format!("{:#}", error.root_cause()).lines().next().unwrap_or_default().to_owned()
}
