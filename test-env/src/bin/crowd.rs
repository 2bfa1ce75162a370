//! Many agents on one machine with every processor busy: with the default timing nobody who lives may be
//! held for dead.
//!
//! Run by hand through `test-env/bench/crowd`.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use onemac_test_env::faults::Busy;
use onemac_test_env::numbered::{Clients, Load, be_urgent};
use onemac_test_env::{Host, Lab, Plan};
use serde::Serialize;

/// Programs that only burn time, at the ordinary priority.
const BUSY: usize = 4;
/// Some clients, so that a wrong owner would be seen; the agents are what is measured.
const LOAD: Load = Load { v4: 25, v6: 25, every: Duration::from_millis(100) };

/// What the agents' logs say when something went wrong, in the words of the agent's story.
const SIGNS: [(&str, &str); 3] = [
    ("held for dead", " is gone: silent for "),
    ("lease lapsed", "the others did not confirm our heartbeats"),
    ("stalled", "this process did not run for "),
];

#[derive(Serialize)]
struct Figures {
    hosts: u8,
    seconds: u64,
    busy_loops: usize,
    /// Each of [`SIGNS`], counted over all logs.
    false_deaths: usize,
    leases_lapsed: usize,
    stalls: usize,
    /// Processor time of one agent, of one processor, on average and at most.
    agent_cpu_percent: f64,
    agent_cpu_percent_max: f64,
    /// How long an agent stood ready and waited for a processor, as a share of all time, on average.
    agent_waits_percent: f64,
    lost: usize,
    answered_twice: usize,
    longest_silence_ms: u128,
    /// The longest time for which not even the most urgent thread ran: other guests on the same hardware.
    machine_stood_still_ms: u128,
}

fn main() -> Result<()> {
    let (mut hosts, mut span, mut json, mut verbose) = (16, Duration::from_secs(600), false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--minutes" => {
                let minutes: u64 =
                    args.next().and_then(|n| n.parse().ok()).context("--minutes takes a number")?;
                span = Duration::from_secs(60 * minutes);
            }
            "--hosts" => {
                hosts = args.next().and_then(|n| n.parse().ok()).context("--hosts takes a number")?
            }
            "--quick" => span = Duration::from_secs(20),
            "--json" => json = true,
            "--verbose" => verbose = true,
            other => bail!(
                "unknown option {other}; there are --minutes N, --hosts N, --quick (20 s), --json and \
                 --verbose (what the logs say)"
            ),
        }
    }
    let figures = measure(hosts, span, verbose)?;
    if json {
        println!("{}", serde_json::to_string(&figures)?);
    } else {
        println!(
            "{} agents, {} busy loops, {} s: {} false deaths (goal 0), {} leases lapsed, {} stalls; an agent \
             took {:.2} % of a processor ({:.2} at most) and waited for one {:.2} % of the time; longest \
             silence of a client {} ms, {} numbers lost, {} answered twice; the machine itself stood still for \
             at most {} ms",
            figures.hosts,
            figures.busy_loops,
            figures.seconds,
            figures.false_deaths,
            figures.leases_lapsed,
            figures.stalls,
            figures.agent_cpu_percent,
            figures.agent_cpu_percent_max,
            figures.agent_waits_percent,
            figures.longest_silence_ms,
            figures.lost,
            figures.answered_twice,
            figures.machine_stood_still_ms
        );
    }
    if figures.false_deaths > 0 || figures.answered_twice > 0 {
        bail!("the goal was missed");
    }
    Ok(())
}

fn measure(hosts: u8, span: Duration, verbose: bool) -> Result<Figures> {
    let lab = Lab::build(&Plan::hosts(hosts))?;
    lab.start_responders()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let clients = Clients::start(lab.clients(), LOAD)?;
    let started = Instant::now();
    lab.wait_until("every client is served", Duration::from_secs(60), || {
        Ok(clients.all_answered_since(started))
    })?;

    // What was logged so far belongs to the start.
    let logged = lab.hosts().iter().map(log_length).collect::<Result<Vec<_>>>()?;
    let before = lab.hosts().iter().map(usage).collect::<Result<Vec<_>>>()?;
    let from = Instant::now();
    let stills = Stills::watch();
    let busy = Busy::start(&lab, BUSY)?;
    sleep(span);
    let after = lab.hosts().iter().map(usage).collect::<Result<Vec<_>>>()?;
    let to = Instant::now();
    drop(busy);
    let machine_stood_still_ms = stills.longest()?.as_millis();

    let tally = clients.stop()?;
    let mut counts = [0; SIGNS.len()];
    for (host, logged) in lab.hosts().iter().zip(logged) {
        let text = fs::read_to_string(host.agent_log_path())?;
        for line in text[logged..].lines() {
            for (count, (_, sign)) in counts.iter_mut().zip(SIGNS) {
                *count += usize::from(line.contains(sign));
            }
            if verbose {
                println!("{}: {line}", host.name());
            }
        }
    }
    for (silence, host) in tally.silences(from, to, LOAD.every * 4).iter().filter(|_| verbose) {
        let at = tally.unix(silence.from).as_secs_f64() % 60.0;
        println!(
            "{} was silent for {:?} from second {at:.3} of a minute on, until h{}",
            silence.client,
            silence.length,
            host.unwrap_or(0)
        );
    }
    let spent = (to - from).as_secs_f64();
    let percent = |part: fn(&Usage) -> Duration| -> Vec<f64> {
        let used = before.iter().zip(&after).map(|(before, after)| part(after) - part(before));
        used.map(|used| used.as_secs_f64() / spent * 100.0).collect()
    };
    let (ran, waited) = (percent(|usage| usage.ran), percent(|usage| usage.waited));
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let [false_deaths, leases_lapsed, stalls] = counts;
    Ok(Figures {
        hosts,
        seconds: span.as_secs(),
        busy_loops: BUSY,
        false_deaths,
        leases_lapsed,
        stalls,
        agent_cpu_percent: mean(&ran),
        agent_cpu_percent_max: ran.iter().copied().fold(0.0, f64::max),
        agent_waits_percent: mean(&waited),
        lost: tally.lost(),
        answered_twice: tally.twice().len(),
        machine_stood_still_ms,
        longest_silence_ms: tally.longest_silence(from, to).context("no clients")?.length.as_millis(),
    })
}

fn log_length(host: &Host) -> Result<usize> {
    Ok(usize::try_from(fs::metadata(host.agent_log_path())?.len())?)
}

/// Looks every millisecond, before all ordinary programs, how much later it is.
struct Stills {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stills {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = spawn({
            let stop = Arc::clone(&stop);
            move || {
                be_urgent();
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    sleep(Duration::from_millis(1));
                    longest = longest.max(before.elapsed());
                }
                longest
            }
        });
        Self { stop, thread }
    }

    fn longest(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread that looks at the clock panicked"))
    }
}

#[derive(Clone, Copy)]
struct Usage {
    ran: Duration,
    waited: Duration,
}

/// Of all threads of the host's agent, by the scheduler's own count (proc(5), schedstat: nanoseconds).
fn usage(host: &Host) -> Result<Usage> {
    let pid = host.agent_pid().context("no agent")?;
    let mut usage = Usage { ran: Duration::ZERO, waited: Duration::ZERO };
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let mut fields = text.split_whitespace().map(str::parse::<u64>);
        let mut next = || fields.next().context("schedstat is too short")?.context("schedstat has no number");
        usage.ran += Duration::from_nanos(next()?);
        usage.waited += Duration::from_nanos(next()?);
    }
    Ok(usage)
}
