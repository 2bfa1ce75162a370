//! Connections under an operator's moves and under a host's death, and queries under the same moves: with the full
//! numbers, as tables.
//!
//! Run by hand through `test-env/bench/connections`.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use onemac_test_env::moves::{Kind, Move, Script};
use onemac_test_env::tcp::trial::{self, HEADS, Traffic};
use onemac_test_env::tcp::{Crowd, Load, Newcomers};
use onemac_test_env::{Lab, Plan};

const USAGE: &str = "\
options: --connections N (2000), --newcomers N a second (100), --moves N (40), --queries N a second (10000),
  --hosts N (4), --seed N (1), --every MS between two bytes of a connection (100), --kinds drain,resume,…,
  --only moves|death|dns|cost (one part; else moves, death and dns), --quick (300 connections, 10 moves, 2,000
  queries a second), --script (print the moves and end)";

struct Options {
    hosts: u8,
    seed: u64,
    connections: usize,
    every: Duration,
    newcomers: u32,
    moves: usize,
    kinds: Vec<Kind>,
    queries: u32,
    only: Option<String>,
    script: bool,
}

impl Options {
    fn read() -> Result<Self> {
        let mut options = Self {
            hosts: 4,
            seed: 1,
            connections: 2000,
            every: Duration::from_millis(100),
            newcomers: 100,
            moves: 40,
            kinds: Kind::ALL.to_vec(),
            queries: 10_000,
            only: None,
            script: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} takes a value"));
            match arg.as_str() {
                "--hosts" => options.hosts = value()?.parse()?,
                "--seed" => options.seed = value()?.parse()?,
                "--connections" => options.connections = value()?.parse()?,
                "--every" => options.every = Duration::from_millis(value()?.parse()?),
                "--newcomers" => options.newcomers = value()?.parse()?,
                "--moves" => options.moves = value()?.parse()?,
                "--queries" => options.queries = value()?.parse()?,
                "--kinds" => options.kinds = value()?.split(',').map(kind).collect::<Result<_>>()?,
                "--only" => options.only = Some(value()?),
                "--script" => options.script = true,
                "--quick" => (options.connections, options.moves, options.queries) = (300, 10, 2000),
                other => bail!("unknown option {other}; {USAGE}"),
            }
        }
        Ok(options)
    }

    fn does(&self, part: &str) -> bool {
        self.only.as_deref().map_or(part != "cost", |only| only == part)
    }

    fn traffic(&self) -> Traffic {
        let load = Load { every: self.every, ..Load::of(self.connections) };
        Traffic { load, newcomers: self.newcomers, seed: self.seed }
    }
}

fn kind(name: &str) -> Result<Kind> {
    let found = Kind::ALL.into_iter().find(|kind| kind.to_string() == name);
    found.with_context(|| format!("no kind of move is called {name}"))
}

fn main() -> Result<ExitCode> {
    let options = Options::read()?;
    let script = Script::random(options.seed, options.hosts, options.moves, &options.kinds);
    if options.script {
        print!("{script}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut missed = Vec::new();
    if options.does("cost") {
        cost(&options)?;
    }
    if options.does("moves") {
        missed.extend(moves(&options, &script)?);
    }
    if options.does("death") {
        // Then once more when others have connections of the dead host's slices.
        let drained = [Move::Drain(3), Move::Drain(1), Move::Resume(3)];
        for (before, when) in [(&[][..], ""), (&drained, " whose slices others have connections of")] {
            // As many connections in all.
            let crowds = 1 + before.len();
            let load = Load { every: options.every, ..Load::of(options.connections / crowds) };
            let traffic = Traffic { load, ..options.traffic() };
            let death = trial::death(&Plan::hosts(options.hosts), before, traffic)?;
            println!("\ndeath of a host{when}: {death}");
            missed.extend(death.ensure_told(0).err().map(|error| error.to_string()));
        }
    }
    if options.does("dns") {
        missed.extend(queries(&options, &script)?);
    }
    for goal in &missed {
        eprintln!("missed: {goal}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn moves(options: &Options, script: &Script) -> Result<Vec<String>> {
    let Options { connections, newcomers, hosts, seed, .. } = options;
    println!(
        "{connections} connections, {newcomers} new ones a second, {hosts} hosts, {} moves (seed {seed})\n{HEADS}",
        script.moves.len()
    );
    let mut missed = Vec::new();
    let report = trial::moves(&Plan::hosts(options.hosts), script, options.traffic(), |row| {
        println!("{row}");
        missed.extend(row.ensure_unnoticed().err().map(|error| error.to_string()));
        Ok(())
    })?;
    println!("in the end: {report}");
    Ok(missed)
}

/// Queries sent and lost by kind of move.
fn queries(options: &Options, script: &Script) -> Result<Vec<String>> {
    println!("\n{} queries a second through {} moves", options.queries, script.moves.len());
    let mut by_kind: BTreeMap<Kind, (u32, u64, u64)> = BTreeMap::new();
    let mut missed = Vec::new();
    let calm = |counts| {
        println!("{:<32} {counts}", "nothing");
        Ok(())
    };
    trial::queries(&Plan::hosts(options.hosts), script, options.queries, calm, |row| {
        let (what, counts) = (row.done.what, row.counts);
        println!("{:<32} {counts}", what.to_string());
        let (times, sent, lost) = by_kind.entry(what.kind()).or_default();
        (*times, *sent, *lost) = (*times + 1, *sent + counts.sent, *lost + counts.lost);
        if row.must_be_lossless() && counts.lost > 0 {
            missed.push(format!("{what}: {} queries lost", counts.lost));
        }
        Ok(())
    })?;
    println!("\n{:<8} {:>5} {:>9} {:>7}", "kind", "times", "sent", "lost");
    for (kind, (times, sent, lost)) in by_kind {
        println!("{kind:<8} {times:>5} {sent:>9} {lost:>7}");
    }
    Ok(missed)
}

/// What the instruments take of the machine, without any move.
fn cost(options: &Options) -> Result<()> {
    const SPAN: Duration = Duration::from_secs(10);
    let lab = Lab::build(&Plan::hosts(options.hosts))?;
    lab.start_echoes()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let measure = |what: &str| -> Result<()> {
        sleep(Duration::from_secs(1));
        let (threads, machine, at) = (by_thread()?, busy()?, Instant::now());
        let agents = of_agents(&lab)?;
        sleep(SPAN);
        let spent = at.elapsed().as_secs_f64();
        let percent = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / spent * 100.0;
        println!("\n{what}: the machine was busy for {:.1} % of one processor", percent(busy()?, machine));
        println!("  {:<12} {:5.1} %", "agents", percent(of_agents(&lab)?, agents));
        for (name, now) in by_thread()? {
            let share = percent(now, threads.get(&name).copied().unwrap_or_default());
            if share >= 0.05 {
                println!("  {name:<12} {share:5.1} %");
            }
        }
        Ok(())
    };
    measure("nothing but agents")?;
    let crowd = Crowd::open_with(lab.clients(), options.traffic().load)?;
    measure(&format!("{} connections, a byte each way every {:?}", options.connections, options.every))?;
    println!("  {}", crowd.report());
    let newcomers = Newcomers::start(lab.clients(), options.newcomers, options.seed)?;
    measure(&format!("and {} newcomers a second", options.newcomers))?;
    println!("  {}\n  {}", crowd.report(), newcomers.stop()?);
    println!("  at the end: {}", crowd.close()?);
    Ok(())
}

/// Processor time of this process's threads by name (proc(5), schedstat: nanoseconds).
fn by_thread() -> Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let name = fs::read_to_string(task.join("comm"))?.trim().to_owned();
        *times.entry(name).or_default() += ran(&task)?;
    }
    Ok(times)
}

fn of_agents(lab: &Lab) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in lab.hosts().iter().filter_map(|host| host.agent_pid()) {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            sum += ran(&task?.path())?;
        }
    }
    Ok(sum)
}

fn ran(task: &std::path::Path) -> Result<Duration> {
    let text = fs::read_to_string(task.join("schedstat"))?;
    let nanos = text.split_whitespace().next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// Time that the machine's processors did not idle (proc(5), stat: ticks of 10 ms).
fn busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy: u64 = ticks.iter().take(8).sum::<u64>() - ticks.iter().skip(3).take(2).sum::<u64>();
    Ok(Duration::from_millis(10 * busy))
}
