//! Queries at a high rate, by Debian's `dnsperf`, from many addresses.
//!
//! dnsperf knows one address, and one address is one slice. So it sends from many ports, and on the way out of
//! the clients' machine each port becomes an address of its own, and back on the way in. That needs no memory
//! of connections: the port says it all.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::nameserver::ZONE;
use crate::process::{Process, tail};
use crate::topology::{addr, client_v4, client_v6};
use crate::wait::poll_until;

/// Clients of each family: ports, which become addresses.
const CLIENTS: u16 = 250;
/// The first of the ports, below those that the kernel gives to others.
const FIRST_PORT: u16 = 20_000;
/// What dnsperf itself sends from; no client that [`client_v4`] or [`client_v6`] gives.
const OWN4: &str = "198.18.3.255";
const OWN6: &str = "2001:db8:100::1:0";
/// After so many seconds a query counts as lost.
const TIMEOUT_S: u8 = 1;
/// So many queries may be without an answer: those of some seconds, for those who wait do not ask.
const MOST_WAITING: &str = "30000";
const PATIENCE: Duration = Duration::from_secs(20);

/// What dnsperf counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Queries sent.
    pub sent: u64,
    /// Queries answered.
    pub completed: u64,
    /// Queries without an answer within a second.
    pub lost: u64,
    /// Queries that were on their way at the end.
    pub interrupted: u64,
    /// Answers with the response code NOERROR.
    pub good: u64,
    /// The longest time until an answer.
    pub slowest: Duration,
    /// For how long queries were sent.
    pub span: Duration,
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, completed, lost, interrupted, .. } = self;
        write!(
            out,
            "{sent} queries in {:.1} s, {completed} answered, {lost} lost, ",
            self.span.as_secs_f64()
        )?;
        write!(out, "{interrupted} under way at the end, slowest {:.1} ms", self.slowest.as_secs_f64() * 1e3)
    }
}

/// Running dnsperfs, one for each family. Dropping them ends them.
#[derive(Debug)]
pub struct Dnsperf {
    runs: Vec<(Process, PathBuf)>,
}

impl Dnsperf {
    /// Starts to send `per_second` queries a second by UDP to the shared addresses, half of them by IPv6, each
    /// half from 250 addresses. Every host needs its nameserver.
    ///
    /// # Errors
    /// When dnsperf or the rules that spread its addresses can not be started.
    pub fn start(lab: &Lab, per_second: u32) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        spread(lab)?;
        let queries = lab.dir().join("dnsperf.queries");
        fs::write(&queries, format!("{} TXT\n", ZONE.trim_end_matches('.')))?;
        let mut runs = Vec::new();
        for (server, own) in [(IpAddr::from(addr::VIP4), OWN4), (addr::VIP6.into(), OWN6)] {
            // Line by line, so that its start shows in the log.
            let mut command = lab.clients().command("stdbuf");
            command.args(["-oL", "dnsperf", "-s", &server.to_string(), "-a", own, "-d"]).arg(&queries);
            command.args(["-x", &FIRST_PORT.to_string(), "-c", &CLIENTS.to_string(), "-q", MOST_WAITING]);
            command.args(["-Q", &(per_second / 2).to_string(), "-t", &TIMEOUT_S.to_string(), "-l", "86400"]);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let log = lab.dir().join(format!("dnsperf-{number}.log"));
            runs.push((Process::start(command, "dnsperf", &log, false)?, log));
        }
        let perf = Self { runs };
        for (_, log) in &perf.runs {
            poll_until(PATIENCE, || Ok(fs::read_to_string(log)?.contains("Started at"))).with_context(
                || format!("dnsperf (Debian's package dnsperf) does not start: {}", tail(log, 5)),
            )?;
        }
        Ok(perf)
    }

    /// Goes on for as long as the last query so far may take, and then ends.
    ///
    /// # Errors
    /// When dnsperf does not end, or says nothing that can be read.
    pub fn stop(mut self) -> Result<Counts> {
        sleep(Duration::from_secs(TIMEOUT_S.into()) + Duration::from_millis(200));
        let mut all = Counts::default();
        for (process, _) in &self.runs {
            process.signal(Signal::SIGINT)?;
        }
        for (process, log) in &mut self.runs {
            process.wait_exit(PATIENCE)?;
            let counts = read(log)?;
            all = Counts {
                sent: all.sent + counts.sent,
                completed: all.completed + counts.completed,
                lost: all.lost + counts.lost,
                interrupted: all.interrupted + counts.interrupted,
                good: all.good + counts.good,
                slowest: all.slowest.max(counts.slowest),
                span: all.span.max(counts.span),
            };
        }
        Ok(all)
    }
}

/// Makes an address of every port on the way out, and dnsperf's own of every address on the way in.
fn spread(lab: &Lab) -> Result<()> {
    let mut rules = String::from("table netdev spread\ndelete table netdev spread\ntable netdev spread {\n");
    rules += "chain out { type filter hook egress device eth0 priority 0;\n";
    let last = FIRST_PORT + CLIENTS - 1;
    for (family, own, clients) in [("ip", OWN4, client_v4(CLIENTS)), ("ip6", OWN6, client_v6(CLIENTS))] {
        write!(rules, "{family} saddr {own} udp dport 53 {family} saddr set udp sport map {{")?;
        for (port, client) in (FIRST_PORT..).zip(clients) {
            write!(rules, " {port} : {client},")?;
        }
        rules += " }\n";
    }
    rules += "}\nchain in { type filter hook ingress device eth0 priority 0;\n";
    for (protocol, family, own) in [("ip", "ip", OWN4), ("ip6", "ip6", OWN6)] {
        writeln!(
            rules,
            "meta protocol {protocol} udp sport 53 udp dport {FIRST_PORT}-{last} {family} daddr set {own}"
        )?;
    }
    rules += "}\n}\n";
    let file = lab.dir().join("spread.nft");
    fs::write(&file, rules)?;
    let file = file.to_str().context("the lab's directory has a strange name")?;
    lab.clients().run("nft", &["-f", file]).map(drop)
}

fn read(log: &Path) -> Result<Counts> {
    let text = fs::read_to_string(log)?;
    parse(&text).with_context(|| format!("dnsperf said:\n{text}"))
}

/// Reads dnsperf's closing words.
fn parse(text: &str) -> Result<Counts> {
    let number = |key: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
        let line = line.with_context(|| format!("no {key}"))?;
        let word = line.split_whitespace().next().with_context(|| format!("nothing after {key}"))?;
        word.parse().with_context(|| format!("no number after {key}"))
    };
    let count = |key: &str| number(key).map(|count| count as u64);
    let after = |mark: &str| -> Option<&str> {
        let (_, rest) = text.split_once(mark)?;
        rest.split([' ', ',', ')']).find(|word| !word.is_empty())
    };
    let completed = count("Queries completed:")?;
    let counts = Counts {
        sent: count("Queries sent:")?,
        completed,
        lost: count("Queries lost:")?,
        // These two are printed only where there are some.
        interrupted: count("Queries interrupted:").unwrap_or(0),
        good: after("NOERROR").and_then(|word| word.parse().ok()).unwrap_or(0),
        slowest: Duration::try_from_secs_f64(after("max ").context("no latency")?.parse()?)?,
        span: Duration::try_from_secs_f64(number("Run time (s):")?)?,
    };
    if counts.sent != counts.completed + counts.lost + counts.interrupted {
        bail!("the counts do not add up: {counts}");
    }
    ensure!(counts.good <= completed, "more good answers than answers: {counts}");
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
[Status] Testing complete (interruption)

Statistics:

  Queries sent:         19905
  Queries completed:    19895 (99.98%)
  Queries lost:         7 (0.00%)
  Queries interrupted:  3 (0.02%)

  Response codes:       NOERROR 19894 (100.00%), SERVFAIL 1 (0.00%)
  Average packet size:  request 29, response 48
  Run time (s):         3.980900
  Queries per second:   4999.372001

  Average Latency (s):  0.000718 (min 0.000025, max 0.011591)
  Latency StdDev (s):   0.001438
";

    #[test]
    fn reads_what_dnsperf_says() {
        let counts = Counts {
            sent: 19_905,
            completed: 19_895,
            lost: 7,
            interrupted: 3,
            good: 19_894,
            slowest: Duration::from_micros(11_591),
            span: Duration::from_micros(3_980_900),
        };
        assert_eq!(parse(SAID).unwrap(), counts);
    }

    #[test]
    fn nothing_interrupted_is_nothing_said_and_other_words_are_an_error() {
        let calm = SAID
            .replace("  Queries interrupted:  3 (0.02%)\n", "")
            .replace("sent:         19905", "sent: 19902");
        assert_eq!(parse(&calm).unwrap().interrupted, 0);
        for broken in [SAID.replace("19905", "19906"), SAID.replace("Queries lost", "Lost"), String::new()] {
            assert!(parse(&broken).is_err());
        }
    }
}
