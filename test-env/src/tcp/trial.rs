//! Trials: a whole cluster, connections and newcomers under way, and something done to it.

use std::fmt;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::connection::How;
use super::{Arrivals, Crowd, Load, Newcomers, Phase, Report};
use crate::dns::{Counts, Dnsperf};
use crate::lab::{Lab, Plan};
use crate::moves::{Done, Kind, Move, Operator, Script};

/// Within this what was broken has mended, or it counts as broken. Generous: a connection whose segments were
/// lost for a second waits as long again.
const MEND: Duration = Duration::from_secs(30);
/// Undisturbed time after each move: who was disturbed by its end shows in its row.
const CALM: Duration = Duration::from_millis(300);
/// A connection of a dead host is told within this.
const TOLD: Duration = Duration::from_secs(1);

/// How much is under way.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The connections that last.
    pub load: Load,
    /// New connections a second.
    pub newcomers: u32,
    /// Of the newcomers' addresses.
    pub seed: u64,
}

/// What one move did.
#[derive(Clone, Debug)]
pub struct Row {
    /// The move.
    pub done: Done,
    /// Connections that it broke.
    pub broken: usize,
    /// The longest time that any connection was without an answer.
    pub longest_gap: Duration,
    /// Who came meanwhile.
    pub newcomers: Arrivals,
    /// The crowd after it.
    pub report: Report,
}

impl Row {
    /// Fails when a connection was broken, a newcomer turned away, or, if the move was planned, a newcomer had to
    /// wait for a retransmission.
    ///
    /// # Errors
    /// Saying what happened to whom.
    pub fn ensure_unnoticed(&self) -> Result<()> {
        let when = self.done.what.to_string();
        ensure!(self.broken == 0, "{when}: {} connections were broken: {}", self.broken, self.report);
        if self.done.what.kind().is_planned() {
            self.newcomers.ensure_at_once(&when)
        } else {
            self.newcomers.ensure_served(&when)
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |span: Duration| span.as_secs_f64() * 1e3;
        let (what, come) = (self.done.what.to_string(), &self.newcomers);
        write!(
            out,
            "{what:<32} {:>7.0} {:>6} {:>7.1}",
            ms(self.done.took()),
            self.broken,
            ms(self.longest_gap)
        )?;
        write!(out, " {:>6} {:>6} {:>6}", come.0.len(), come.failed(), come.waited())?;
        write!(out, " {:>8.1} {:>7.1}", ms(come.slowest(Phase::Connect)), ms(come.slowest(Phase::Echo)))
    }
}

/// The heads of the columns of a [`Row`].
pub const HEADS: &str =
    "move                             took ms broken  gap ms    new failed waited  connect    echo";

/// Makes the moves of a script at a new cluster by this plan under this traffic, and lets each be looked at.
///
/// # Errors
/// When a move can not be made, or `look` fails; the state of every host is then printed.
pub fn moves(
    plan: &Plan,
    script: &Script,
    traffic: Traffic,
    mut look: impl FnMut(&Row) -> Result<()>,
) -> Result<Report> {
    let lab = Lab::build(plan)?;
    let mut operator = Operator::prepare(&lab, script.seed)?;
    let (crowd, newcomers) = under_way(&lab, traffic)?;
    let mut broken = 0;
    for what in &script.moves {
        let from = Instant::now();
        // Gaps of before are nobody's.
        let _ = crowd.take_longest_gap();
        let done = operator.make(*what, Some(&crowd))?;
        sleep(CALM);
        let to = Instant::now();
        // What waits mends, or does not.
        let _ = crowd.wait_unbroken("after a move", MEND);
        let report = crowd.report();
        let newcomers = newcomers.until(to)?.between(from, to);
        let lost = report.lost() + report.stalled;
        let longest_gap = crowd.take_longest_gap();
        let row = Row { done, broken: lost.saturating_sub(broken), longest_gap, newcomers, report };
        broken = lost;
        look(&row).inspect_err(|_| eprintln!("{}", lab.report()))?;
    }
    newcomers.stop()?;
    crowd.close()
}

/// Starts the servers and the agents of a lab, then this traffic, and lets it run for a moment.
fn under_way(lab: &Lab, traffic: Traffic) -> Result<(Crowd, Newcomers)> {
    lab.start_echoes()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    acquaint(lab)?;
    let crowd = Crowd::open_with(lab.clients(), traffic.load)?;
    let newcomers = Newcomers::start(lab.clients(), traffic.newcomers, traffic.seed)?;
    sleep(CALM);
    Ok((crowd, newcomers))
}

/// Machines that have not met yet hold back or lose the first packets between them: that is no move's doing.
fn acquaint(lab: &Lab) -> Result<()> {
    let crowd = Crowd::open_with(lab.clients(), Load { addresses: 100, ..Load::of(200) })?;
    sleep(CALM);
    crowd.close().map(drop)
}

/// What the death of a host did.
#[derive(Clone, Debug)]
pub struct Death {
    /// Connections that it had.
    pub had: usize,
    /// Of these, connections of clients that had another connection on another host then: what becomes of them the
    /// new owner can not know by itself.
    pub entangled: usize,
    /// Of all, connections whose clients got a reset.
    pub reset: usize,
    /// From the death until the others had divided its share.
    pub healed_after: Duration,
    /// The longest time from the first segment that was sent after healing until the reset.
    pub slowest_told: Duration,
    /// How many waited for that longer than a second: a segment of theirs came while slices still moved.
    pub told_late: usize,
    /// The longest time from the death until the reset: TCP sends again ever less often.
    pub slowest_reset: Duration,
    /// Connections of other hosts that were broken.
    pub others_broken: usize,
    /// Who came after healing.
    pub newcomers: Arrivals,
}

impl Death {
    /// Fails when a client of the dead host was not told, more of them than allowed were told late, or another
    /// connection was broken.
    ///
    /// # Errors
    /// With the figures.
    pub fn ensure_told(&self, late: usize) -> Result<()> {
        ensure!(self.had > 0, "the host had no connections: {self}");
        ensure!(self.others_broken == 0, "connections of other hosts were broken: {self}");
        ensure!(self.reset == self.had, "not every client was told: {self}");
        ensure!(self.told_late <= late, "{} clients were told late: {self}", self.told_late);
        self.newcomers.ensure_served("after a death")
    }
}

impl fmt::Display for Death {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { had, entangled, reset, others_broken, .. } = self;
        let seconds =
            [self.healed_after, self.slowest_told, self.slowest_reset].map(|span| span.as_secs_f64());
        let [healed, told, after_death] = seconds;
        write!(
            out,
            "{reset} of {had} connections of the dead host reset ({entangled} of clients that had another one \
             elsewhere), {others_broken} of others broken; "
        )?;
        write!(
            out,
            "healed after {healed:.2} s; slowest reset {told:.3} s after the first packet since then, "
        )?;
        write!(out, "{after_death:.2} s after the death; newcomers after healing: {}", self.newcomers)
    }
}

/// The power of the second host of a cluster by this plan goes, under this traffic. Before that these moves are made,
/// and after each the same clients open as many connections once more. In the end all other agents are started anew.
///
/// # Errors
/// When a move can not be made, the others do not divide the dead host's share, or its connections do not end
/// within half a minute.
pub fn death(plan: &Plan, before: &[Move], traffic: Traffic) -> Result<Death> {
    const VICTIM: u8 = 2;
    let lab = Lab::build(plan)?;
    let (crowd, newcomers) = under_way(&lab, traffic)?;
    let mut operator = Operator::prepare(&lab, traffic.seed)?;
    let mut crowds = vec![crowd];
    for what in before {
        operator.make(*what, None)?;
        crowds.push(Crowd::open_with(lab.clients(), traffic.load)?);
    }
    let all = || crowds.iter().flat_map(Crowd::connections);
    let elsewhere = |ip: IpAddr| all().any(|other| other.client.ip() == ip && other.host != Some(VICTIM));
    let entangled = all().filter(|one| one.host == Some(VICTIM) && elsewhere(one.client.ip())).count();
    let died = Instant::now();
    lab.host(VICTIM.into()).power_off()?;
    lab.wait_settled()?;
    let healed = Instant::now();
    let of_victim = || all().filter(|one| one.host == Some(VICTIM));
    lab.wait_until("every client of the dead host is told", MEND, || {
        Ok(of_victim().all(|one| one.ended.is_some()))
    })?;
    // What the heirs know of others' connections they know no more when they are started anew.
    for host in lab.hosts().iter().filter(|host| host.agent_is_living()) {
        let ended = host.onemac(&["restart"])?;
        ensure!(ended.code == 0, "{} can not be restarted: {}", host.name(), ended.stderr);
        lab.wait_settled()?;
    }
    // Who is of another host and was disturbed shows by now.
    sleep(CALM);
    for crowd in &crowds {
        let _ = crowd.wait_unbroken("after a death", MEND);
    }
    let victims: Vec<_> = of_victim().filter_map(|one| one.ended).collect();
    let resets = || victims.iter().filter(|ended| ended.how == How::Reset);
    let broken: usize = crowds.iter().map(Crowd::report).map(|report| report.lost() + report.stalled).sum();
    let to = Instant::now();
    Ok(Death {
        had: victims.len(),
        entangled,
        reset: resets().count(),
        healed_after: healed - died,
        told_late: victims.iter().filter(|ended| ended.told_after(healed) > TOLD).count(),
        slowest_told: victims.iter().map(|ended| ended.told_after(healed)).max().unwrap_or_default(),
        slowest_reset: resets()
            .map(|ended| ended.at.saturating_duration_since(died))
            .max()
            .unwrap_or_default(),
        others_broken: broken.saturating_sub(victims.len()),
        newcomers: newcomers.until(to)?.between(healed, to),
    })
}

/// What one move did to queries.
#[derive(Clone, Copy, Debug)]
pub struct Queries {
    /// The move.
    pub done: Done,
    /// What dnsperf counted from before it until after it.
    pub counts: Counts,
}

impl Queries {
    /// Whether not one query may be lost by this move.
    #[must_use]
    pub fn must_be_lossless(&self) -> bool {
        matches!(self.done.what.kind(), Kind::Drain | Kind::Resume | Kind::Weight | Kind::Reload)
    }
}

/// Makes the moves of a script at a new cluster by this plan under so many queries a second, and lets each be looked at. Before
/// them, `calm` sees what the machine does with as many when nothing happens.
///
/// # Errors
/// When a move can not be made, or a look fails; the state of every host is then printed.
pub fn queries(
    plan: &Plan,
    script: &Script,
    per_second: u32,
    calm: impl FnOnce(Counts) -> Result<()>,
    mut look: impl FnMut(&Queries) -> Result<()>,
) -> Result<()> {
    let lab = Lab::build(plan)?;
    let mut operator = Operator::prepare(&lab, script.seed)?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    // See acquaint.
    Dnsperf::start(&lab, per_second / 10)?.stop()?;
    let undisturbed = Dnsperf::start(&lab, per_second)?;
    sleep(CALM);
    calm(undisturbed.stop()?)?;
    for what in &script.moves {
        let perf = Dnsperf::start(&lab, per_second)?;
        sleep(CALM);
        let done = operator.make(*what, None)?;
        sleep(CALM);
        let counts = perf.stop()?;
        look(&Queries { done, counts }).inspect_err(|_| eprintln!("{}", lab.report()))?;
    }
    Ok(())
}
