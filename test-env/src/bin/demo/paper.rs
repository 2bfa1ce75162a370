//! What a person reads.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use onemac_test_env::Lab;
use onemac_test_env::dns::Log;
use serde::Serialize;

/// One promise and whether it was kept.
#[derive(Clone, Debug, Serialize)]
pub struct Promise {
    pub promise: String,
    pub kept: bool,
    pub seen: String,
}

/// Standard output, silent when only figures are wanted.
pub struct Paper {
    silent: bool,
    colours: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

impl Paper {
    pub fn new(silent: bool) -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { silent, colours }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        if !self.silent {
            println!("{text}");
            // A reader who went away is no reason to leave the lab standing.
            let _ = std::io::stdout().flush();
        }
    }

    pub fn title(&self, text: &str) {
        self.line(&format!("\n{}", self.paint(BOLD, text)));
    }

    pub fn note(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// A figure at the right end of its line.
    pub fn figure(&self, what: &str, value: &str) {
        self.line(&format!("  {what:<58}{value:>14}"));
    }

    pub fn time(&self, what: &str, took: Duration) {
        self.figure(what, &format!("{:.2} s", took.as_secs_f64()));
    }

    /// Who served how many.
    pub fn shares(&self, lab: &Lab, slices: &[(String, u64)], udp: &Log, tcp: &Log) {
        self.line(&self.paint(DIM, "  host   slices   UDP v4   UDP v6   TCP v4   TCP v6   clients"));
        let (udp, tcp) = (udp.shares(), tcp.shares());
        let clients: usize = udp.values().map(|(v4, v6)| v4 + v6).sum();
        for host in lab.hosts() {
            let name = host.name();
            let Some((_, slices)) = slices.iter().find(|(host, _)| *host == name) else {
                self.line(&format!("  {name:<4} {}", self.paint(RED, "     off")));
                continue;
            };
            let (udp4, udp6) = udp.get(&name).copied().unwrap_or_default();
            let (tcp4, tcp6) = tcp.get(&name).copied().unwrap_or_default();
            let percent = 100.0 * (udp4 + udp6) as f64 / clients.max(1) as f64;
            self.line(&format!(
                "  {name:<4} {slices:>8} {udp4:>8} {udp6:>8} {tcp4:>8} {tcp6:>8} {percent:>7.1} %"
            ));
        }
    }

    /// Prints the verdict and says whether all is kept.
    pub fn verdict(&self, promises: &[Promise]) -> bool {
        self.title("Verdict");
        for promise in promises {
            let mark = if promise.kept { self.paint(GREEN, "kept  ") } else { self.paint(RED, "BROKEN") };
            self.line(&format!("  {mark}  {:<54} {:>12}", promise.promise, promise.seen));
        }
        promises.iter().all(|promise| promise.kept)
    }

    /// How to look around in what was left standing.
    pub fn around(&self, lab: &Lab) -> Result<()> {
        let host = lab.host(1);
        let (h1, client) = (host.netns().name(), lab.clients().name());
        let onemac = onemac_test_env::binary()?;
        let (onemac, run_dir) = (onemac.display(), host.run_dir());
        let run_dir = run_dir.display();
        self.title("It stands. Look around:");
        for command in [
            format!("ip netns exec {client} kdig +nsid -b 198.18.0.1 @192.0.2.53 example.org TXT"),
            format!("ip netns exec {h1} {onemac} status --run-dir {run_dir}"),
            format!("ip netns exec {h1} nft list ruleset"),
            format!("ip netns exec {h1} ip -d addr show onemac0"),
            format!("bridge -n {} fdb show", lab.switch().netns().name()),
            format!("tail {}", lab.dir().join("h1/agent.log").display()),
        ] {
            self.note(&command);
        }
        self.note("test-env/demo --remove           # when done");
        Ok(())
    }
}
