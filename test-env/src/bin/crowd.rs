//! Many agents on one machine with every processor busy: with the default timing nobody who lives may be
//! held for dead.
//!
//! Run by hand through `test-env/bench/crowd`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use onemac_test_env::faults::Busy;
use onemac_test_env::numbered::{Clients, Load};
use onemac_test_env::watch::{Signs, Stills, Usage, log_length, logged_since, mean, percents};
use onemac_test_env::{Lab, Plan};
use serde::Serialize;

/// Programs that only burn time, at the ordinary priority.
const BUSY: usize = 4;
/// Some clients, so that a wrong owner would be seen; the agents are what is measured.
const LOAD: Load = Load { v4: 25, v6: 25, every: Duration::from_millis(100) };

#[derive(Serialize)]
struct Figures {
    hosts: u8,
    seconds: u64,
    busy_loops: usize,
    /// These three are counted over all logs.
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
    let before = lab.hosts().iter().map(Usage::of_agent).collect::<Result<Vec<_>>>()?;
    let from = Instant::now();
    let stills = Stills::watch();
    let busy = Busy::start(&lab, BUSY)?;
    sleep(span);
    let after = lab.hosts().iter().map(Usage::of_agent).collect::<Result<Vec<_>>>()?;
    let to = Instant::now();
    drop(busy);
    let machine_stood_still_ms = stills.longest()?.as_millis();

    let tally = clients.stop()?;
    let mut signs = Signs::default();
    for (host, logged) in lab.hosts().iter().zip(logged) {
        for line in logged_since(host, logged)? {
            signs.note(&line);
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
    let (ran, waited) = percents(&before, &after, to - from);
    Ok(Figures {
        hosts,
        seconds: span.as_secs(),
        busy_loops: BUSY,
        false_deaths: signs.deaths,
        leases_lapsed: signs.lapses,
        stalls: signs.stalls,
        agent_cpu_percent: mean(&ran),
        agent_cpu_percent_max: ran.iter().copied().fold(0.0, f64::max),
        agent_waits_percent: mean(&waited),
        lost: tally.lost(),
        answered_twice: tally.twice().len(),
        machine_stood_still_ms,
        longest_silence_ms: tally.longest_silence(from, to).context("no clients")?.length.as_millis(),
    })
}
