//! What datagrams and frames cost an agent that anybody can send to it.
//!
//! Run by hand through `test-env/bench/flood`.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use onemac_test_env::flood::{Flood, kinds};
use onemac_test_env::numbered::{Clients, Load};
use onemac_test_env::{Host, Lab, Plan, Surroundings};
use serde_json::Value;

const LOAD: Load = Load { v4: 25, v6: 25, every: Duration::from_millis(100) };

fn main() -> Result<()> {
    let (mut rate, mut span) = (100_000, Duration::from_secs(20));
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok()).context("a number is missing");
        match arg.as_str() {
            "--rate" => rate = number()?,
            "--seconds" => span = Duration::from_secs(number()?.into()),
            other => {
                bail!("unknown option {other}; there are --rate N (a second) and --seconds N (of each kind)")
            }
        }
    }
    let lab = Lab::build(&Plan::hosts(3))?;
    lab.start_responders()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let victim = lab.host(1);
    let mut kinds: Vec<_> = kinds(&lab, victim, Surroundings::default(), lab.host(2))?
        .into_iter()
        .map(|kind| (kind.name, kind.frames))
        .collect();
    kinds.insert(0, ("nothing", Vec::new()));
    let longest = kinds.iter().map(|(_, frames)| frames.len()).max().unwrap_or_default();
    let of_each =
        |i| kinds.iter().filter_map(move |(_, frames)| frames.get(i % frames.len().max(1)).cloned());
    kinds.push(("all of them in turn", (0..longest).flat_map(of_each).collect()));

    let lives = |lab: &Lab| lab.hosts().iter().map(life).collect::<Result<Vec<_>>>();
    let before = lives(&lab)?;
    println!(
        "| frames to one agent | a second | of a processor | gossip dropped | numbers lost | lives |\n|---|---|---|---|---|---|"
    );
    for (name, frames) in kinds {
        let clients = Clients::start(lab.clients(), LOAD)?;
        let (ran, dropped, began) = (processor_time(victim)?, drops(victim)?, Instant::now());
        let flood = Flood::start(lab.neighbour(), frames, rate)?;
        sleep(span);
        let share = (processor_time(victim)? - ran).as_secs_f64() / began.elapsed().as_secs_f64();
        let sent = flood.stop()?;
        let tally = clients.stop()?;
        tally.ensure_never_twice(name)?;
        println!(
            "| {name} | {sent} | {share:.3} | {} | {} of {} | {} |",
            drops(victim)? - dropped,
            tally.lost(),
            tally.sent(),
            if lives(&lab)? == before { "all go on" } else { "BEGAN ANEW" }
        );
    }
    if lives(&lab)? != before {
        bail!("a host lost its lease");
    }
    Ok(())
}

fn life(host: &Host) -> Result<Value> {
    Ok(host.status()?["incarnation"].clone())
}

/// Of all threads of the agent (proc(5), schedstat: nanoseconds).
fn processor_time(host: &Host) -> Result<Duration> {
    let pid = host.agent_pid().context("no agent")?;
    let mut ran = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        ran += text.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(ran))
}

/// What found no room in the gossip socket's buffer.
fn drops(host: &Host) -> Result<u64> {
    let table = host.netns().run("cat", &["/proc/net/udp"])?;
    let gossip = table.lines().find(|line| line.contains(":1F0A ")).context("no gossip socket")?;
    Ok(gossip.split_whitespace().last().context("an empty line")?.parse()?)
}
