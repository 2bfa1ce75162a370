//! What datagrams and frames cost an agent that anybody can send to it.
//!
//! Run by hand through `test-env/bench/flood`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use onemac_test_env::flood::{Flood, in_turn, kinds};
use onemac_test_env::numbered::{Clients, Load};
use onemac_test_env::watch::Usage;
use onemac_test_env::{Host, Lab, Plan, Surroundings};

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
    let kinds = kinds(&lab, victim, Surroundings::default(), lab.host(2))?;
    let (names, mut frames): (Vec<_>, Vec<_>) =
        kinds.into_iter().map(|kind| (kind.name, kind.frames)).unzip();
    frames.push(in_turn(&frames));
    frames.insert(0, Vec::new());
    let names = ["nothing"].into_iter().chain(names).chain(["all of them in turn"]);

    let lives = |lab: &Lab| lab.hosts().iter().map(Host::incarnation).collect::<Result<Vec<_>>>();
    let before = lives(&lab)?;
    println!(
        "| frames to one agent | a second | of a processor | gossip dropped | numbers lost | lives |\n|---|---|---|---|---|---|"
    );
    for (name, frames) in names.zip(frames) {
        let clients = Clients::start(lab.clients(), LOAD)?;
        let (ran, dropped, began) = (Usage::of_agent(victim)?.ran, drops(victim)?, Instant::now());
        let flood = Flood::start(lab.neighbour(), frames, rate)?;
        sleep(span);
        let share = (Usage::of_agent(victim)?.ran - ran).as_secs_f64() / began.elapsed().as_secs_f64();
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

/// What found no room in the gossip socket's buffer.
fn drops(host: &Host) -> Result<u64> {
    let table = host.netns().run("cat", &["/proc/net/udp"])?;
    let gossip = table.lines().find(|line| line.contains(":1F0A ")).context("no gossip socket")?;
    Ok(gossip.split_whitespace().last().context("an empty line")?.parse()?)
}
