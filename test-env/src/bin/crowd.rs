//! Many agents on one machine with every processor busy: with the default timing nobody who lives may be
//! held for dead.
//!
//! With `--idle` nothing else runs: what agents cost that have nothing to do, and how soon all agree that start together.
//!
//! Run by hand through `test-env/bench/crowd`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use onemac_test_env::faults::Busy;
use onemac_test_env::numbered::{Clients, Load};
use onemac_test_env::watch::{Signs, Stills, Usage, log_length, logged_since, mean, percents};
use onemac_test_env::{Host, Lab, Plan};
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
    let (mut idle, mut apart) = (false, false);
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
            "--idle" => idle = true,
            "--apart" => apart = true,
            "--json" => json = true,
            "--verbose" => verbose = true,
            other => bail!(
                "unknown option {other}; there are --minutes N, --hosts N, --quick (20 s), --idle (nothing else \
                 runs; with --apart, gossip has a network of its own), --json and --verbose (what the logs say)"
            ),
        }
    }
    if idle {
        let idle = rest(hosts, span, apart)?;
        if json {
            println!("{}", serde_json::to_string(&idle)?);
        } else {
            println!(
                "{} idle agents: agreed {:.1} s after a common start; each sent {:.1} KiB/s in {:.0} frames a \
                 second and received {:.1} KiB/s in {:.0}, and took {:.2} % of a processor ({:.2} at most); load {}",
                idle.hosts,
                idle.agreed_s,
                idle.out_kib_s,
                idle.out_frames_s,
                idle.in_kib_s,
                idle.in_frames_s,
                idle.agent_cpu_percent,
                idle.agent_cpu_percent_max,
                idle.load
            );
        }
        return Ok(());
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

/// What agents cost that have nothing to do.
#[derive(Serialize)]
struct Idle {
    hosts: u8,
    gossip_apart: bool,
    seconds: u64,
    /// From the start of the first until all agree and every slice has its owner.
    agreed_s: f64,
    /// Of one host, whole frames on all its devices, on average.
    out_kib_s: f64,
    out_frames_s: f64,
    in_kib_s: f64,
    in_frames_s: f64,
    /// Of one agent, on average and at most.
    agent_cpu_percent: f64,
    agent_cpu_percent_max: f64,
    /// How many programs ran or wanted to on the whole machine, on average over the last minute.
    load: String,
}

/// The hosts' second card.
const GOSSIP_DEVICE: &str = "eth1";

/// Until they agree nobody waits longer.
const AGREED: Duration = Duration::from_secs(300);
/// What follows a start has passed.
const CALM: Duration = Duration::from_secs(5);

fn rest(hosts: u8, span: Duration, apart: bool) -> Result<Idle> {
    let mut plan = Plan::hosts(hosts);
    if apart {
        plan = plan.gossip_apart();
    }
    let lab = Lab::build(&plan)?;
    let began = Instant::now();
    lab.start_agents()?;
    lab.settles_within(AGREED)?;
    let agreed_s = began.elapsed().as_secs_f64();
    sleep(CALM);
    let usage = || lab.hosts().iter().map(Usage::of_agent).collect::<Result<Vec<_>>>();
    let traffic = || lab.hosts().iter().map(|host| traffic(host, apart)).collect::<Result<Vec<_>>>();
    let (before, sent, from) = (usage()?, traffic()?, Instant::now());
    sleep(span);
    let (sent_after, after, took) = (traffic()?, usage()?, from.elapsed());
    let rate = |n: usize| {
        let total: u64 = sent_after.iter().zip(&sent).map(|(after, before)| after[n] - before[n]).sum();
        total as f64 / f64::from(hosts) / took.as_secs_f64()
    };
    let (ran, _) = percents(&before, &after, took);
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(Idle {
        hosts,
        gossip_apart: apart,
        seconds: span.as_secs(),
        agreed_s,
        out_kib_s: rate(0) / 1024.0,
        out_frames_s: rate(1),
        in_kib_s: rate(2) / 1024.0,
        in_frames_s: rate(3),
        agent_cpu_percent: mean(&ran),
        agent_cpu_percent_max: ran.iter().copied().fold(0.0, f64::max),
        load: load.split(' ').next().unwrap_or_default().into(),
    })
}

/// What a host has sent and received: bytes and frames out, bytes and frames in.
fn traffic(host: &Host, apart: bool) -> Result<[u64; 4]> {
    let mut sum = [0; 4];
    let devices: &[&str] = if apart { &["eth0", GOSSIP_DEVICE] } else { &["eth0"] };
    for device in devices {
        for (sum, what) in sum.iter_mut().zip(["tx_bytes", "tx_packets", "rx_bytes", "rx_packets"]) {
            let file = format!("/sys/class/net/{device}/statistics/{what}");
            *sum += host.netns().run("cat", &[&file])?.trim().parse::<u64>()?;
        }
    }
    Ok(sum)
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
