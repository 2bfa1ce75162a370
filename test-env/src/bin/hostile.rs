//! Four hosts with the default timing among evils that are none of theirs: nobody who lives may be held for dead, no
//! lease may lapse, no number may be lost or answered twice.
//!
//! Run by hand through `test-env/bench/hostile`.

use std::fmt;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use onemac_test_env::flood::{Flood, Recording, Taps, in_turn, kinds_of};
use onemac_test_env::hostile::{ForeignRules, Hogs, LogPipe, Pressure, Supervisor, Swapping};
use onemac_test_env::numbered::{Clients, Load};
use onemac_test_env::watch::{Signs, Stills, Usage, be_nice, log_length, logged_since, mean, percents};
use onemac_test_env::{Host, Lab, Plan, Surroundings};
use serde::Serialize;

const USAGE: &str = "\
options: --seconds N (600), --quick (20 s), --only EVIL,EVIL,… (these together; else all), --each (one after the
  other, in a new lab each), --junk N a second (100000), --hosts N (4), --pause MS (100: of each client), --json,
  --verbose (what the logs say)
evils: calm (nothing, to compare with), hogs (processes at every priority below the agent's), memory (too little, in a
  cgroup), logs (nobody reads the log of h2), systemd (h2's supervisor does not listen), junk (noise, forged and
  recorded frames to every agent), rules (a foreign table of 5,000 addresses loaded and listed every second); and, only
  if named: swap (half as much more memory written than the machine has)";

/// Enough clients that every wrong owner shows; the agents are what is measured.
const CLIENTS: u16 = 50;
/// Whose surroundings stall.
const VICTIM: usize = 2;
/// Whose weight changes meanwhile, so that everybody has something to log.
const MOVED: &str = "h3";
const ADDRESSES: u32 = 5000;
/// An emulated machine takes longer for all.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evil {
    Hogs,
    Memory,
    Logs,
    Systemd,
    Junk,
    Rules,
    Swap,
}

const ALL: [(Evil, &str); 7] = [
    (Evil::Hogs, "hogs"),
    (Evil::Memory, "memory"),
    (Evil::Logs, "logs"),
    (Evil::Systemd, "systemd"),
    (Evil::Junk, "junk"),
    (Evil::Rules, "rules"),
    (Evil::Swap, "swap"),
];

struct Options {
    span: Duration,
    only: Vec<Evil>,
    each: bool,
    per_second: u32,
    hosts: u8,
    pause: Duration,
    json: bool,
    verbose: bool,
}

impl Options {
    fn read() -> Result<Option<Self>> {
        let mut options = Self {
            span: Duration::from_secs(600),
            // A machine that swaps does not do so to agents alone.
            only: ALL.map(|(evil, _)| evil).into_iter().filter(|evil| *evil != Evil::Swap).collect(),
            each: false,
            per_second: 100_000,
            hosts: 4,
            pause: Duration::from_millis(100),
            json: false,
            verbose: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} takes a value"));
            match arg.as_str() {
                "--seconds" => options.span = Duration::from_secs(value()?.parse()?),
                "--quick" => options.span = Duration::from_secs(20),
                "--only" => {
                    let value = value()?;
                    let named = value.split(',').filter(|name| *name != "calm").map(evil);
                    options.only = named.collect::<Result<_>>()?;
                }
                "--each" => options.each = true,
                "--junk" => options.per_second = value()?.parse()?,
                "--hosts" => options.hosts = value()?.parse()?,
                "--pause" => options.pause = Duration::from_millis(value()?.parse()?),
                "--json" => options.json = true,
                "--verbose" => options.verbose = true,
                "--help" => return Ok(None),
                other => bail!("unknown option {other}; {USAGE}"),
            }
        }
        ensure!(options.hosts >= 3, "it takes three hosts: one is struck, one is moved, one is asked");
        ensure!((1..=1_000_000).contains(&options.per_second), "--junk takes 1 to 1000000");
        Ok(Some(options))
    }
}

fn evil(name: &str) -> Result<Evil> {
    let found = ALL.into_iter().find(|(_, known)| *known == name);
    Ok(found.with_context(|| format!("no evil is called {name}; {USAGE}"))?.0)
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    evils: Vec<&'static str>,
    seconds: f64,
    /// These three are counted over all logs.
    false_deaths: usize,
    leases_lapsed: usize,
    stalls: usize,
    /// By the hosts' incarnations: a stalled log loses what it is told.
    begun_anew: usize,
    sent: usize,
    lost: usize,
    answered_twice: usize,
    longest_silence_ms: u128,
    /// Processor time of one agent, of one processor, on average and at most; and how long it waited for one.
    agent_cpu_percent: f64,
    agent_cpu_percent_max: f64,
    agent_waits_percent: f64,
    /// Not even the most urgent thread ran for so long: other guests on the same hardware.
    machine_stood_still_ms: u128,
    /// Whether all agreed again in the end; else what was missing.
    in_the_end: String,
    /// What the evils did.
    notes: Vec<String>,
}

impl Figures {
    fn is_good(&self) -> bool {
        [self.false_deaths, self.leases_lapsed, self.stalls, self.begun_anew, self.lost, self.answered_twice]
            == [0; 6]
            && self.in_the_end == "agreed"
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let evils = if self.evils.is_empty() { "calm".to_owned() } else { self.evils.join("+") };
        writeln!(
            out,
            "{evils}, {:.0} s: {} leases lapsed, {} false deaths, {} stalls, {} hosts begun anew, \
             {} numbers of {} lost, {} doubled (goal 0 of each); in the end: {}",
            self.seconds,
            self.leases_lapsed,
            self.false_deaths,
            self.stalls,
            self.begun_anew,
            self.lost,
            self.sent,
            self.answered_twice,
            self.in_the_end
        )?;
        write!(
            out,
            "  longest silence of a client {} ms; an agent took {:.1} % of a processor ({:.1} at most) and waited for one \
             {:.1} % of the time; the machine itself stood still for at most {} ms",
            self.longest_silence_ms,
            self.agent_cpu_percent,
            self.agent_cpu_percent_max,
            self.agent_waits_percent,
            self.machine_stood_still_ms
        )?;
        self.notes.iter().try_for_each(|note| write!(out, "\n  {note}"))
    }
}

fn main() -> Result<ExitCode> {
    let Some(options) = Options::read()? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    let rounds: Vec<Vec<Evil>> = match options.each {
        true => std::iter::once(Vec::new()).chain(options.only.iter().map(|evil| vec![*evil])).collect(),
        false => vec![options.only.clone()],
    };
    let mut good = true;
    for evils in rounds {
        let figures = measure(&options, &evils)?;
        good &= figures.is_good();
        match options.json {
            true => println!("{}", serde_json::to_string(&figures)?),
            false => println!("{figures}"),
        }
    }
    if !good {
        eprintln!("the goal was missed");
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(options: &Options, evils: &[Evil]) -> Result<Figures> {
    let does = |evil: Evil| evils.contains(&evil);
    be_nice(0)?;
    let lab = Lab::build(&Plan::hosts(options.hosts))?;
    lab.start_responders()?;
    let earlier = does(Evil::Junk).then(|| earlier_run(&lab)).transpose()?;
    let taps = earlier.is_some().then(|| Taps::set(&lab)).transpose()?;
    let victim = lab.host(VICTIM);
    let pipe = does(Evil::Logs).then(|| LogPipe::lay(&victim.agent_log_path())).transpose()?;
    let supervisor =
        does(Evil::Systemd).then(|| Supervisor::listen(&victim.dir().join("notify"))).transpose()?;
    for host in lab.hosts() {
        let mut surroundings = Surroundings::default();
        if host.name() == victim.name() {
            surroundings.errors = pipe.as_ref().map(LogPipe::end).transpose()?.map(Into::into);
            surroundings.environment.extend(supervisor.as_ref().map(Supervisor::environment));
        }
        host.start_agent_in(surroundings)?;
    }
    lab.settles_within(PATIENCE)?;
    // All that is started from here on watches or disturbs; the agents run already.
    be_nice(-20)?;
    let junk =
        earlier.zip(taps).map(|(earlier, taps)| junk(&lab, &earlier, &taps.recorded()?)).transpose()?;
    // Machines that have not met yet lose the first packets between them.
    let started = Instant::now();
    let load = Load { v4: CLIENTS, v6: CLIENTS, every: options.pause };
    let acquainted = Clients::start(lab.clients(), load)?;
    lab.wait_until("every client is served", PATIENCE, || Ok(acquainted.all_answered_since(started)))?;
    acquainted.stop()?;
    let clients = Clients::start(lab.clients(), load)?;

    // What was logged so far belongs to the start.
    let logged = lab.hosts().iter().map(log_length).collect::<Result<Vec<_>>>()?;
    let lives = lab.hosts().iter().map(Host::incarnation).collect::<Result<Vec<_>>>()?;
    let before = lab.hosts().iter().map(Usage::of_agent).collect::<Result<Vec<_>>>()?;
    let from = Instant::now();
    let stills = Stills::watch();
    let mut notes = Vec::new();

    let hogs = does(Evil::Hogs).then(|| Hogs::start(&lab)).transpose()?;
    let pressure = match does(Evil::Memory).then(|| Pressure::start(&lab)).transpose() {
        Ok(pressure) => pressure,
        Err(error) => {
            notes.push(format!("memory: NOT DONE: {error:#}"));
            None
        }
    };
    notes.extend(pressure.as_ref().map(|pressure| format!("memory: {}", pressure.what)));
    let swapping = does(Evil::Swap).then(|| Swapping::start(&lab)).transpose()?;
    pipe.as_ref().map(LogPipe::stall).transpose()?;
    if let Some(supervisor) = &supervisor {
        notes.push(format!("systemd: {} messages before it stalled", supervisor.heard()));
        supervisor.stall();
    }
    let flood = junk.map(|frames| Flood::start(lab.neighbour(), frames, options.per_second)).transpose()?;
    let rules = does(Evil::Rules).then(|| ForeignRules::start(&lab, ADDRESSES));
    let mut orders = 0;
    let all_loose = Instant::now();
    while all_loose.elapsed() < options.span {
        sleep(Duration::from_secs(1).min(options.span.saturating_sub(all_loose.elapsed())));
        if pipe.is_some() {
            // An agent that cannot be told is seen in the figures.
            let weight = if orders % 2 == 0 { "2" } else { "1" };
            let _ = lab.host(1).onemac(&["weight", MOVED, weight]);
            orders += 1;
        }
    }

    let after = lab.hosts().iter().map(Usage::of_agent).collect::<Result<Vec<_>>>()?;
    let to = Instant::now();
    if let Some(flood) = flood {
        notes.push(format!("junk: {} frames a second", flood.stop()?));
    }
    if let Some(rules) = rules {
        let rounds = rules.stop()?;
        notes.push(format!(
            "rules: loaded and listed {} times, {} failed{}; slowest load {} ms, slowest list {} ms",
            rounds.done,
            rounds.failed,
            rounds.why.map(|why| format!(" ({why})")).unwrap_or_default(),
            rounds.slowest_load.as_millis(),
            rounds.slowest_list.as_millis()
        ));
    }
    if let Some(swapping) = &swapping {
        notes.push(format!("swap: {}", swapping.what()?));
    }
    drop((hogs, pressure, swapping));
    let machine_stood_still_ms = stills.longest()?.as_millis();
    let tally = clients.stop()?;
    // With the evils that stall still there: they are to be lived with.
    let in_the_end = match lab.hosts().iter().find(|host| !answers(host)) {
        Some(dumb) => format!("the agent of {} does not answer", dumb.name()),
        None => lab.settles_within(PATIENCE).map_or_else(|why| format!("{why:#}"), |()| "agreed".to_owned()),
    };
    // Who cannot say has not gone on.
    let goes_on = |(host, life): &(&Host, &u64)| host.incarnation().is_ok_and(|now| now == **life);
    let begun_anew = lab.hosts().iter().zip(&lives).filter(|of| !goes_on(of)).count();
    if let Some(pipe) = &pipe {
        // What the agent could not say so far comes now.
        pipe.resume();
        let mut length = 0;
        lab.wait_until("the rest of the stalled log", PATIENCE, || {
            let before = std::mem::replace(&mut length, log_length(victim)?);
            sleep(Duration::from_millis(500));
            Ok(length == before)
        })?;
    }
    let mut signs = Signs::default();
    for (host, logged) in lab.hosts().iter().zip(logged) {
        for line in logged_since(host, logged)? {
            signs.note(&line);
            if options.verbose {
                println!("{}: {line}", host.name());
            }
        }
    }
    let (ran, waited) = percents(&before, &after, to - from);
    Ok(Figures {
        evils: ALL.iter().filter(|(evil, _)| does(*evil)).map(|(_, name)| *name).collect(),
        seconds: (to - from).as_secs_f64(),
        false_deaths: signs.deaths,
        leases_lapsed: signs.lapses,
        stalls: signs.stalls,
        begun_anew,
        sent: tally.sent(),
        lost: tally.lost(),
        answered_twice: tally.twice().len(),
        longest_silence_ms: tally.longest_silence(from, to).context("no clients")?.length.as_millis(),
        agent_cpu_percent: mean(&ran),
        agent_cpu_percent_max: ran.iter().copied().fold(0.0, f64::max),
        agent_waits_percent: mean(&waited),
        machine_stood_still_ms,
        in_the_end,
        notes,
    })
}

/// What hosts say to each other in lives that are over.
fn earlier_run(lab: &Lab) -> Result<Recording> {
    let taps = Taps::set(lab)?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let recording = taps.recorded()?;
    lab.hosts().iter().try_for_each(|host| host.stop_agent().map(drop))?;
    Ok(recording)
}

/// All kinds of frames for all hosts in turn, each as if from the next host.
fn junk(lab: &Lab, earlier: &Recording, present: &Recording) -> Result<Vec<Vec<u8>>> {
    let mut lists = Vec::new();
    for (victim, peer) in lab.hosts().iter().zip(lab.hosts().iter().cycle().skip(1)) {
        lists.extend(kinds_of(victim, peer, earlier, present)?.into_iter().map(|kind| kind.frames));
    }
    Ok(in_turn(&lists))
}

fn answers(host: &Host) -> bool {
    host.status().is_ok()
}
