//! How long the last client of a dead host waits: power cuts in a row, for two timings.
//!
//! Run by hand through `test-env/bench/healing`; no test judges a time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use onemac_test_env::dns::Prober;
use onemac_test_env::{Lab, Plan};
use serde::Serialize;

/// Hosts of the cluster.
const HOSTS: u8 = 4;
/// Clients of each family, and how often each asks.
const CLIENTS: u16 = 100;
const EVERY: Duration = Duration::from_millis(50);

/// A timing, and the median healing that it must reach.
struct Timing {
    heartbeat_ms: u32,
    lease_ms: u32,
    goal: Duration,
}

const TIMINGS: [Timing; 2] = [
    Timing { heartbeat_ms: 100, lease_ms: 800, goal: Duration::from_millis(1500) },
    Timing { heartbeat_ms: 50, lease_ms: 250, goal: Duration::from_millis(600) },
];

#[derive(Serialize)]
struct Figures {
    heartbeat_ms: u32,
    lease_ms: u32,
    goal_ms: u128,
    /// From each cut until the last client was served again, sorted.
    healing_ms: Vec<u128>,
    median_ms: u128,
    answered_twice: usize,
}

fn main() -> Result<()> {
    let mut runs = 10;
    let mut json = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => runs = args.next().and_then(|n| n.parse().ok()).context("--runs takes a number")?,
            "--quick" => runs = 1,
            "--json" => json = true,
            other => bail!("unknown option {other}; there are --runs N, --quick (one run) and --json"),
        }
    }
    let mut missed = false;
    for timing in &TIMINGS {
        let figures = measure(timing, runs)?;
        missed |= figures.median_ms > figures.goal_ms || figures.answered_twice > 0;
        match json {
            true => println!("{}", serde_json::to_string(&figures)?),
            false => println!(
                "heartbeat {} ms, lease {} ms: healed in {} ms (median of {runs}; {} to {}), goal {} ms; \
                 {} queries answered twice",
                figures.heartbeat_ms,
                figures.lease_ms,
                figures.median_ms,
                figures.healing_ms.first().copied().unwrap_or_default(),
                figures.healing_ms.last().copied().unwrap_or_default(),
                figures.goal_ms,
                figures.answered_twice
            ),
        }
    }
    if missed && runs > 1 {
        bail!("a goal was missed");
    }
    Ok(())
}

/// Cuts the power of one host after another, each time waiting until all is well again.
fn measure(timing: &Timing, runs: usize) -> Result<Figures> {
    let mut plan = Plan::hosts(HOSTS);
    plan.definition.heartbeat = Some(format!("{}ms", timing.heartbeat_ms));
    plan.definition.lease = Some(format!("{}ms", timing.lease_ms));
    let lab = Lab::start(&plan)?;
    let prober = Prober::new(lab.clients(), CLIENTS, CLIENTS);
    let (mut healing_ms, mut answered_twice) = (Vec::new(), 0);
    for run in 0..runs {
        let victim = lab.host(1 + run % usize::from(HOSTS));
        let watch = prober.watch(EVERY)?;
        // Cuts fall at another moment of the heartbeat every time.
        std::thread::sleep(EVERY * 6 + Duration::from_millis(7 * run as u64));
        let cut = Instant::now();
        victim.power_off()?;
        lab.wait_settled()?;
        std::thread::sleep(EVERY * 10);
        let log = watch.stop()?;
        let (healed, _) = log.healed(cut).context("some clients were never served again")?;
        healing_ms.push(healed.as_millis());
        answered_twice += log.duplicates().len();
        victim.power_on()?;
        lab.wait_settled()?;
    }
    healing_ms.sort_unstable();
    Ok(Figures {
        heartbeat_ms: timing.heartbeat_ms,
        lease_ms: timing.lease_ms,
        goal_ms: timing.goal.as_millis(),
        median_ms: (healing_ms[(runs - 1) / 2] + healing_ms[runs / 2]) / 2,
        healing_ms,
        answered_twice,
    })
}
