//! How long somebody else's large ruleset takes to list on a host with an agent and on one without.
//!
//! Run by hand through `test-env/bench/listing`.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use onemac_test_env::{Host, Lab, Plan, generation};
use serde::Serialize;

/// The promise: at most so many times as long.
const AT_MOST: f64 = 1.2;
/// Then it is given up.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Figures {
    elements: u32,
    runs: usize,
    without_ms: f64,
    with_ms: f64,
    ratio: f64,
    /// Transactions on the host with the agent while its ruleset was listed.
    transactions: u32,
    /// Listings that did not come to an end in a minute.
    given_up: usize,
}

fn main() -> Result<()> {
    let (mut elements, mut runs, mut json, mut judged) = (200_000, 15, false, true);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = |what: &str| -> Result<u32> {
            args.next().and_then(|n| n.parse().ok()).with_context(|| format!("{what} takes a number"))
        };
        match arg.as_str() {
            "--elements" => elements = number("--elements")?,
            "--runs" => runs = number("--runs")? as usize,
            "--quick" => (elements, runs, judged) = (20_000, 3, false),
            "--json" => json = true,
            other => bail!(
                "unknown option {other}; there are --elements N, --runs N, --quick (few, nothing judged) and --json"
            ),
        }
    }
    ensure!(runs > 0, "--runs must be at least 1");
    let figures = measure(elements, runs)?;
    if json {
        println!("{}", serde_json::to_string(&figures)?);
    } else {
        println!(
            "`nft list ruleset` beside a set of {} elements: {:.0} ms without an agent, {:.0} ms with one: {:.2} \
             times (aim: at most {AT_MOST}); medians of {}, {} transactions meanwhile, {} given up after a minute",
            figures.elements,
            figures.without_ms,
            figures.with_ms,
            figures.ratio,
            figures.runs,
            figures.transactions,
            figures.given_up
        );
    }
    ensure!(!judged || (figures.ratio <= AT_MOST && figures.given_up == 0), "the aim was missed");
    Ok(())
}

fn measure(elements: u32, runs: usize) -> Result<Figures> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let (with, without) = (lab.host(1), lab.host(2));
    for host in [with, without] {
        load(host, elements)?;
    }
    // Alone it has all slices; the other host has no agent.
    with.start_agent()?;
    lab.wait_until("the host serves", LIMIT, || Ok(with.status().is_ok_and(|s| s["state"] == "serving")))?;
    sleep(Duration::from_secs(2));
    let before = generation(with.netns())?;
    let (mut took, mut given_up) = ([Vec::new(), Vec::new()], 0);
    for run in 0..runs {
        // In turn, and each first as often as the other.
        for which in [run % 2, 1 - run % 2] {
            match list([with, without][which])? {
                Some(time) => took[which].push(time),
                None => {
                    took[which].push(LIMIT);
                    given_up += 1;
                }
            }
        }
        if given_up > 2 {
            break;
        }
    }
    let transactions = generation(with.netns())?.wrapping_sub(before);
    let [with_ms, without_ms] = took.map(median_ms);
    Ok(Figures { elements, runs, without_ms, with_ms, ratio: with_ms / without_ms, transactions, given_up })
}

fn load(host: &Host, elements: u32) -> Result<()> {
    let all: Vec<String> = (0..elements).map(|n| Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    let file = host.dir().join("foreign.nft");
    let all = all.join(", ");
    std::fs::write(
        &file,
        format!("table ip foreign {{ set s {{ type ipv4_addr; elements = {{ {all} }}; }}; }}\n"),
    )?;
    host.netns().run("nft", &["-f", &file.display().to_string()]).map(drop)
}

/// How long it took, or `None` if it took too long.
fn list(host: &Host) -> Result<Option<Duration>> {
    let mut command = host.netns().command("nft");
    command.args(["list", "ruleset"]).stdout(Stdio::null());
    let started = Instant::now();
    let mut child = command.spawn().context("cannot start nft")?;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "nft ended with {status}");
            return Ok(Some(started.elapsed()));
        }
        if started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(Duration::from_millis(1));
    }
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
