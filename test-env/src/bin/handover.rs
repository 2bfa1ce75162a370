//! How short a planned move is: hosts leave in order and return, again and again, under steady numbered
//! queries; and, with `--faults`, how long each fault silences anybody.
//!
//! Run by hand through `test-env/bench/handover`; no test judges a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use onemac_test_env::faults::FAULTS;
use onemac_test_env::numbered::{Clients, Load, Silence};
use onemac_test_env::{Lab, Plan};
use serde::Serialize;

/// Hosts of the cluster.
const HOSTS: u8 = 4;
/// Few clients that ask often: a gap is seen to within these five milliseconds.
const LOAD: Load = Load { v4: 32, v6: 32, every: Duration::from_millis(5) };
/// Undisturbed time before and after a move.
const CALM: Duration = Duration::from_millis(400);
/// The longest silence of any client: median of the moves, and worst of them.
const GOAL_MEDIAN_MS: f64 = 20.0;
const GOAL_WORST_MS: f64 = 60.0;

#[derive(Serialize)]
struct Figures {
    /// `leave` or `join`.
    moved: &'static str,
    /// The longest silence of any client in each move, sorted.
    silence_ms: Vec<f64>,
    median_ms: f64,
    worst_ms: f64,
    /// The same in as much undisturbed time: what the clients and the machine add.
    calm_ms: f64,
    lost: usize,
    answered_twice: usize,
}

fn main() -> Result<()> {
    let (mut runs, mut json, mut faults, mut verbose) = (10, false, None, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => runs = args.next().and_then(|n| n.parse().ok()).context("--runs takes a number")?,
            "--quick" => runs = 1,
            "--json" => json = true,
            "--faults" => faults = faults.or(Some(String::new())),
            "--only" => faults = Some(args.next().context("--only takes a part of a fault's name")?),
            "--verbose" => verbose = true,
            other => bail!(
                "unknown option {other}; there are --runs N, --quick (one run), --json, --verbose (every move; \
                 the hosts' logs of a fault), --faults, and --only TEXT (the faults with TEXT in their names)"
            ),
        }
    }
    ensure!(runs > 0, "--runs takes a number from 1 on");
    if let Some(only) = faults {
        return tell_faults(&only, json, verbose);
    }
    let figures = measure(runs, verbose)?;
    let mut missed = false;
    for figures in &figures {
        missed |= figures.median_ms > GOAL_MEDIAN_MS || figures.worst_ms > GOAL_WORST_MS;
        missed |= figures.answered_twice > 0;
        if json {
            println!("{}", serde_json::to_string(figures)?);
        } else {
            println!(
                "{:<5}  longest silence {:5.1} ms in the median of {runs} (goal {GOAL_MEDIAN_MS}), {:5.1} in \
                 the worst (goal {GOAL_WORST_MS}); without a move {:.1}; {} numbers lost, {} answered twice",
                figures.moved,
                figures.median_ms,
                figures.worst_ms,
                figures.calm_ms,
                figures.lost,
                figures.answered_twice
            );
        }
    }
    if missed && runs > 1 {
        bail!("a goal was missed");
    }
    Ok(())
}

/// One host after another leaves and returns, each move on its own under the clients' eyes.
fn measure(runs: usize, verbose: bool) -> Result<[Figures; 2]> {
    let lab = Lab::build(&Plan::hosts(HOSTS))?;
    lab.start_responders()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    // The first packets meet machines that still look for their neighbours.
    let warm = Clients::start(lab.clients(), LOAD)?;
    sleep(CALM * 5);
    warm.stop()?;
    let mut leaves = Moves::new("leave");
    let mut joins = Moves::new("join");
    for run in 0..runs {
        let number = 1 + run % usize::from(HOSTS);
        let host = lab.host(number);
        // Moves fall at another moment of the heartbeat every time.
        sleep(Duration::from_millis(13 * run as u64 % 100));
        leaves.watch(&lab, verbose, |_| {
            let status = host.stop_agent()?;
            ensure!(status.success(), "{status}:\n{}", host.agent_log(20));
            Ok(())
        })?;
        joins.watch(&lab, verbose, |clients| {
            host.start_agent()?;
            let served = || Ok(clients.served_by(u8::try_from(number)?) > 0);
            lab.wait_until("the newcomer serves", Duration::from_secs(60), served).map(drop)
        })?;
    }
    Ok([leaves.figures(), joins.figures()])
}

struct Moves {
    moved: &'static str,
    silences: Vec<Silence>,
    calm: Duration,
    lost: usize,
    twice: usize,
}

impl Moves {
    fn new(moved: &'static str) -> Self {
        Self { moved, silences: Vec::new(), calm: Duration::ZERO, lost: 0, twice: 0 }
    }

    fn watch(&mut self, lab: &Lab, verbose: bool, act: impl FnOnce(&Clients) -> Result<()>) -> Result<()> {
        let clients = Clients::start(lab.clients(), LOAD)?;
        let started = Instant::now();
        let served = || Ok(clients.all_answered_since(started));
        lab.wait_until("every client is served", Duration::from_secs(60), served)?;
        let calm = Instant::now();
        sleep(CALM);
        let moved = Instant::now();
        act(&clients)?;
        sleep(CALM);
        let ended = Instant::now();
        let tally = clients.stop()?;
        // Only now: the hosts' states are asked by programs, and starting those disturbs the clients.
        lab.wait_settled()?;
        let silence = tally.longest_silence(moved, ended).context("no clients")?;
        let undisturbed = tally.longest_silence(calm, moved).context("no clients")?;
        if verbose {
            println!(
                "{}: {:.1} ms from {:.6} s on, for {}; before {:.1} ms",
                self.moved,
                ms(silence.length),
                tally.unix(silence.from).as_secs_f64() % 60.0,
                silence.client,
                ms(undisturbed.length)
            );
            for (silence, host) in tally.silences(moved, ended, Duration::from_millis(20)) {
                let at = tally.unix(silence.from).as_secs_f64() % 60.0;
                println!(
                    "  {} {:?} from {at:.6} s until h{}",
                    silence.client,
                    silence.length,
                    host.unwrap_or(0)
                );
            }
            for host in lab.hosts().iter().filter(|_| ms(silence.length) > GOAL_MEDIAN_MS) {
                println!("{}:\n{}", host.name(), host.agent_log(12));
            }
        }
        self.calm = self.calm.max(undisturbed.length);
        self.silences.push(silence);
        self.lost += tally.lost();
        self.twice += tally.twice().len();
        Ok(())
    }

    fn figures(mut self) -> Figures {
        self.silences.sort_unstable();
        let silence_ms: Vec<f64> = self.silences.iter().map(|silence| ms(silence.length)).collect();
        let count = silence_ms.len();
        Figures {
            moved: self.moved,
            median_ms: (silence_ms[(count - 1) / 2] + silence_ms[count / 2]) / 2.0,
            worst_ms: silence_ms[count - 1],
            silence_ms,
            calm_ms: ms(self.calm),
            lost: self.lost,
            answered_twice: self.twice,
        }
    }
}

fn ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Faults, once each, as a table.
fn tell_faults(only: &str, json: bool, verbose: bool) -> Result<()> {
    if !json {
        println!("{:<55} {:>9} {:>8} {:>6} {:>5}", "fault", "silence", "sent", "lost", "twice");
    }
    for fault in FAULTS.iter().filter(|fault| fault.name.contains(only)) {
        let outcome = fault.run_and(|lab| {
            for host in lab.hosts().iter().filter(|_| verbose) {
                println!("{}:\n{}", host.name(), host.agent_log(80));
            }
        })?;
        if verbose {
            let from = outcome.silent_from_unix.as_secs_f64() % 60.0;
            println!("longest silence from second {from:.6} of a minute on, {}", outcome.silence.client);
        }
        let silence_ms = ms(outcome.silence.length);
        let (name, sent, lost, twice) = (fault.name, outcome.sent, outcome.lost, outcome.twice);
        if json {
            let line = serde_json::json!({
                "fault": name, "silence_ms": silence_ms, "sent": sent, "lost": lost, "answered_twice": twice
            });
            println!("{line}");
        } else {
            println!("{name:<55} {silence_ms:>6.0} ms {sent:>8} {lost:>6} {twice:>5}");
        }
    }
    Ok(())
}
