//! Faults, each struck at a real cluster under steady numbered queries.
//!
//! The promise is the same for all: no number is ever answered twice, and in the end every client is
//! served. How long anybody was without an answer is told, not judged.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::loss::{Way, What};
use crate::numbered::{Clients, Load, Silence};
use crate::{Lab, Plan, Process, owned_slices};

/// 500 addresses, a number every 20 ms each: 25,000 a second.
const LOAD: Load = Load { v4: 250, v6: 250, every: Duration::from_millis(20) };
/// Within this everybody is served again, or it counts as not healed at all.
const HEALED: Duration = Duration::from_secs(60);
/// Undisturbed time before and after.
const CALM: Duration = Duration::from_millis(300);
/// Longer than the expiry of the default timing.
const EXPIRY: Duration = Duration::from_millis(1200);

/// A fault, and the cluster that it is struck at.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What happens.
    pub name: &'static str,
    hosts: u8,
    gossip_apart: bool,
    /// Does it, and undoes what does not end by itself.
    strike: fn(&Lab) -> Result<()>,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Numbers sent.
    pub sent: usize,
    /// Numbers without an answer.
    pub lost: usize,
    /// Numbers with more than one.
    pub twice: usize,
    /// The longest time that any client was without an answer, from the fault on.
    pub silence: Silence,
    /// When that began, from 1970 on: to find it in a log.
    pub silent_from_unix: Duration,
}

/// All of them.
pub const FAULTS: &[Fault] = &[
    lan("an agent is killed", 4, |lab| {
        lab.host(2).kill_agent();
        lab.wait_settled()?;
        lab.host(2).start_agent()
    }),
    lan("an agent is stopped for less than its lease", 4, |lab| pause(lab, Duration::from_millis(500))),
    lan("an agent is stopped for longer than its lease", 4, |lab| pause(lab, Duration::from_secs(2))),
    lan("a cable is out and in again", 4, |lab| {
        lab.host(2).set_cable(false)?;
        wait_all_owned_by(lab, &[1, 3, 4])?;
        lab.host(2).set_cable(true)
    }),
    lan("a third of what one host says is lost", 4, |lab| lose(lab, Way::From, What::Words, 30)),
    lan("a third of what one host should hear is lost", 4, |lab| lose(lab, Way::To, What::Words, 30)),
    lan("one host's gossip goes nowhere", 4, |lab| lose(lab, Way::From, What::Gossip, 100)),
    lan("one host hears no gossip", 4, |lab| lose(lab, Way::To, What::Gossip, 100)),
    lan("one host is mute, but hears", 4, |lab| lose(lab, Way::From, What::Words, 100)),
    lan("one host is deaf, but is heard", 4, |lab| lose(lab, Way::To, What::Words, 100)),
    lan("a third of all words is lost", 4, |lab| {
        for host in lab.hosts() {
            lab.switch().lose(&host.port(), Way::From, What::Words, 30)?;
        }
        sleep(EXPIRY * 2);
        lab.switch().lose_nothing()
    }),
    apart("the gossip network is cut from one host", 4, |lab| {
        lab.host(2).set_gossip_cable(false)?;
        sleep(EXPIRY * 2);
        lab.host(2).set_gossip_cable(true)
    }),
    apart("the gossip network is cut from all hosts", 4, |lab| {
        lab.hosts().iter().try_for_each(|host| host.set_gossip_cable(false))?;
        sleep(EXPIRY * 2);
        lab.hosts().iter().try_for_each(|host| host.set_gossip_cable(true))
    }),
    apart("the clients' wire is cut from one host, gossip is not", 4, |lab| {
        lab.host(2).set_cable(false)?;
        wait_all_owned_by(lab, &[1, 3, 4])?;
        lab.host(2).set_cable(true)
    }),
    apart("the clients' wire is broken beyond one host's port, gossip is not", 4, |lab| {
        for way in [Way::From, Way::To] {
            lab.switch().lose(&lab.host(2).port(), way, What::Frames, 100)?;
        }
        // It sees a carrier, but receives nothing: it is deaf, and says so.
        wait_all_owned_by(lab, &[1, 3, 4])?;
        lab.switch().lose_nothing()
    }),
    lan("all processors are busy for ten seconds", 4, |lab| {
        let _busy = Busy::start(lab, 6)?;
        sleep(Duration::from_secs(10));
        Ok(())
    }),
    lan("a host dies while all processors are busy", 4, |lab| {
        let _busy = Busy::start(lab, 4)?;
        lab.host(2).power_off()?;
        lab.wait_settled()?;
        lab.host(2).power_on()?;
        lab.wait_settled().map(drop)
    }),
    lan("all agents are killed at once and started again", 4, |lab| {
        lab.hosts().iter().for_each(crate::Host::kill_agent);
        lab.start_agents()
    }),
    lan("all hosts lose their power at once", 4, |lab| {
        lab.hosts().iter().try_for_each(crate::Host::power_off)?;
        sleep(EXPIRY);
        lab.hosts().iter().try_for_each(crate::Host::power_on)
    }),
    lan("a host joins in the middle of a death", 4, |lab| {
        away(lab, &[4])?;
        lab.host(2).power_off()?;
        // The others do not know yet.
        sleep(Duration::from_millis(400));
        lab.host(4).start_agent()?;
        lab.wait_settled()?;
        lab.host(2).power_on()
    }),
    lan("two hosts join at once", 4, |lab| {
        away(lab, &[3, 4])?;
        lab.host(3).start_agent()?;
        lab.host(4).start_agent()
    }),
    lan("a host leaves in order and returns", 4, |lab| {
        away(lab, &[2])?;
        lab.host(2).start_agent()
    }),
];

const fn lan(name: &'static str, hosts: u8, strike: fn(&Lab) -> Result<()>) -> Fault {
    Fault { name, hosts, gossip_apart: false, strike }
}

const fn apart(name: &'static str, hosts: u8, strike: fn(&Lab) -> Result<()>) -> Fault {
    Fault { name, hosts, gossip_apart: true, strike }
}

impl Fault {
    /// Strikes at a new cluster, waits until it has healed, and fails if a number was answered twice.
    ///
    /// # Errors
    /// When the promise was broken, or healing did not come.
    pub fn run(&self) -> Result<Outcome> {
        self.run_and(|_| ())
    }

    /// The same, with a look at the lab in the end.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_and(&self, look: impl FnOnce(&Lab)) -> Result<Outcome> {
        let plan = Plan::hosts(self.hosts);
        let lab = Lab::build(&if self.gossip_apart { plan.gossip_apart() } else { plan })?;
        lab.start_responders()?;
        lab.start_agents()?;
        lab.wait_settled()?;
        let clients = Clients::start(lab.clients(), LOAD)?;
        let started = Instant::now();
        lab.wait_until("every client is served", HEALED, || Ok(clients.all_answered_since(started)))?;
        sleep(CALM);
        let struck = Instant::now();
        (self.strike)(&lab).with_context(|| self.name)?;
        lab.wait_settled()?;
        let settled = Instant::now();
        lab.wait_until("every client is served again", HEALED, || Ok(clients.all_answered_since(settled)))?;
        sleep(CALM);
        let ended = Instant::now();
        let tally = clients.stop()?;
        look(&lab);
        tally.ensure_never_twice(self.name).inspect_err(|_| eprintln!("{}", lab.report()))?;
        let shares = tally.shares();
        ensure!(shares.len() == usize::from(self.hosts), "in the end these hosts serve: {shares:?}");
        let silence = tally.longest_silence(struck, ended).context("no clients")?;
        let silent_from_unix = tally.unix(silence.from);
        let (sent, lost, twice) = (tally.sent(), tally.lost(), tally.twice().len());
        Ok(Outcome { sent, lost, twice, silence, silent_from_unix })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, lost, twice, silence, .. } = self;
        let length = silence.length.as_secs_f64();
        write!(out, "longest silence {length:.3} s; of {sent} numbers {lost} lost, {twice} answered twice")
    }
}

fn pause(lab: &Lab, span: Duration) -> Result<()> {
    lab.host(2).signal_agent(Signal::SIGSTOP)?;
    sleep(span);
    lab.host(2).signal_agent(Signal::SIGCONT)
}

fn lose(lab: &Lab, way: Way, what: What, percent: u8) -> Result<()> {
    lab.switch().lose(&lab.host(2).port(), way, what, percent)?;
    sleep(EXPIRY * 2);
    lab.switch().lose_nothing()
}

/// Lets hosts leave in order, and forgets what silence that cost.
fn away(lab: &Lab, hosts: &[usize]) -> Result<()> {
    for host in hosts {
        let status = lab.host(*host).stop_agent()?;
        ensure!(status.success(), "{status}:\n{}", lab.host(*host).agent_log(20));
    }
    lab.wait_settled().map(drop)
}

fn wait_all_owned_by(lab: &Lab, hosts: &[usize]) -> Result<()> {
    let all = u64::from(lab.definition().slices);
    lab.wait_until("the others have divided its share", HEALED, || {
        let owned: Result<Vec<u64>> =
            hosts.iter().map(|host| owned_slices(&lab.host(*host).status()?)).collect();
        Ok(owned?.iter().sum::<u64>() == all)
    })
    .map(drop)
}

/// Programs that do nothing as fast as they can. Dropping it ends them.
#[derive(Debug)]
pub struct Busy {
    _loops: Vec<Process>,
}

impl Busy {
    /// Starts `count` of them.
    ///
    /// # Errors
    /// When a program can not be started.
    pub fn start(lab: &Lab, count: usize) -> Result<Self> {
        let start = || {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            Process::start(command, "a busy loop", &lab.dir().join("busy.log"), false)
        };
        Ok(Self { _loops: (0..count).map(|_| start()).collect::<Result<_>>()? })
    }
}
