//! Two hosts and what is between them: what can happen, what comes of it, and what must hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use onemac_core::node::{Action, Event, Follow, Input, Mutation, Node, Partition, Start};
use onemac_core::report::{HostState, Report};
use onemac_core::slices::SliceSet;
use onemac_core::time::{Time, Timing};
use onemac_core::view::{Cluster, DefinitionId};

use crate::fingerprint::{Part, Writer};
use crate::host::{Host, SERVICE, Work};
use crate::step::{Kind, Step, Who, name};

/// The first instant, so that nothing is before the origin of the clock.
const ORIGIN_NS: u64 = 1_000_000_000_000;

/// So many reports can be on their way in one direction. A third one overtakes the oldest: a report replaces all earlier
/// ones, and what was overtaken is no news when it comes, so it might as well be lost.
const ON_THE_WAY: usize = 2;

/// For so many ticks after both directions were cut two owners are put down to that: a heartbeat is heard, and a kernel
/// gives up.
const APART_TICKS: u8 = 8;

/// The choices of an exploration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The protocol's timing.
    pub timing: Timing,
    /// What a part of the cluster does.
    pub partition: Partition,
    /// A rule that is left out.
    pub mutation: Option<Mutation>,
    /// How many faults may happen.
    pub faults: u8,
    /// Of which kinds.
    pub kinds: Vec<Kind>,
    /// Whether the operator gives orders.
    pub orders: bool,
    /// For how many ticks a report may be on its way, and a change wait for its kernel.
    pub slow: u64,
}

impl Config {
    /// The length of a tick: half a heartbeat, in nanoseconds.
    pub fn tick_ns(&self) -> u64 {
        self.timing.heartbeat.as_nanos() as u64 / 2
    }

    /// Within so many ticks after the last fault every slice has its owner again: three expiries and six heartbeats
    /// (docs/protocol.md).
    pub fn bound(&self) -> u8 {
        let bound = self.timing.expiry() * 3 + self.timing.heartbeat * 6;
        (bound.as_nanos() as u64).div_ceil(self.tick_ns()) as u8
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            name: "explore".into(),
            definition: DefinitionId([7; 16]),
            slices: 1,
            hosts: BTreeMap::from([("a".into(), 1), ("b".into(), 1)]),
            services: vec![SERVICE.into()],
        }
    }
}

/// What stands between the other host and this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    All,
    NoReports,
    Nothing,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub promise: &'static str,
    /// How.
    pub text: String,
}

/// What may be told.
pub type Story<'a> = Option<&'a mut Vec<String>>;

/// Everything.
#[derive(Clone)]
pub struct World {
    config: Rc<Config>,
    tick: u64,
    hosts: [Rc<Host>; 2],
    /// What is on its way to each host, the oldest first, with the tick in which it was said.
    to: [VecDeque<(u64, Arc<Report>)>; 2],
    late: [Option<Arc<Report>>; 2],
    reach: [Reach; 2],
    /// How many faults may still happen.
    faults_left: u8,
    /// How many orders the operator has given.
    orders: u8,
    /// For so many ticks more two owners are put down to a partition.
    apart: u8,
    /// For so many ticks no fault lasts, and yet something is not settled.
    unsettled: u8,
    /// The hosts, and what is on its way to them, for the state's name; none where something has happened since.
    written: [Option<Rc<Part>>; 4],
}

fn other(who: Who) -> Who {
    1 - who
}

impl World {
    /// Two hosts that have started together, and agree.
    pub fn settled(config: Config) -> Result<World, Violation> {
        let mut world = World {
            tick: 0,
            hosts: [Rc::new(Host::new()), Rc::new(Host::new())],
            to: [VecDeque::new(), VecDeque::new()],
            late: [None, None],
            reach: [Reach::All; 2],
            faults_left: config.faults,
            orders: 0,
            apart: 0,
            unsettled: 0,
            written: [const { None }; 4],
            config: Rc::new(config),
        };
        world.start(0, &mut None)?;
        world.start(1, &mut None)?;
        // Long enough that nothing depends on the start any more.
        while world.tick < u64::from(world.config.bound()) * 3 {
            // Nobody serves at first, so that is no gap.
            world.carry_out(world.usual_step(), &mut None)?;
        }
        match world.is_settled() {
            true => Ok(world),
            false => Err(world.violation("everything heals", "no agreement after a common start".into())),
        }
    }

    /// The present, on both hosts' clocks.
    pub fn now(&self) -> Time {
        Time(ORIGIN_NS + self.tick * self.config.tick_ns())
    }

    /// How many ticks have passed.
    pub fn ticks(&self) -> u64 {
        self.tick
    }

    /// Names the state: equal names go on alike.
    pub fn fingerprint(&mut self, writer: &mut Writer) -> u128 {
        for i in 0..2 {
            if self.written[i].is_none() {
                self.written[i] = Some(Rc::new(self.write_host(i, writer)));
            }
            if self.written[2 + i].is_none() {
                self.written[2 + i] = Some(Rc::new(self.write_way(i, writer)));
            }
        }
        let first = [self.faults_left, self.orders, self.apart, self.unsettled];
        let empty = Part::default();
        let parts = [0, 1, 2, 3].map(|i: usize| self.written[i].as_deref().unwrap_or(&empty));
        writer.name(&first, parts)
    }

    /// What is on its way to a host.
    fn write_way(&self, i: usize, writer: &mut Writer) -> Part {
        writer.begin(self.now().0);
        writer.bytes(&[self.reach[i] as u8, self.to[i].len() as u8, u8::from(self.late[i].is_some())]);
        for (at, report) in &self.to[i] {
            writer.bytes(&[u8::from(self.tick - at >= self.config.slow)]);
            writer.value(&**report);
        }
        self.late[i].iter().for_each(|report| writer.value(&**report));
        writer.end()
    }

    fn write_host(&self, i: usize, writer: &mut Writer) -> Part {
        let host = &self.hosts[i];
        writer.begin(self.now().0);
        let flags = [host.knows_kernel, host.paused, host.woken, host.node.is_some()];
        writer.bytes(&flags.map(u8::from));
        writer.bytes(&[host.kernel.queue.len() as u8, host.answers.len() as u8]);
        for (id, ok) in &host.answers {
            writer.bytes(&[u8::from(*id == host.asked), u8::from(*ok)]);
        }
        writer.value(&host.kernel.holds);
        // Which lease it was that has run out makes no difference.
        writer.value(&host.kernel.lease_until.max(Time(self.now().0 - 1)));
        for (at, work) in &host.kernel.queue {
            writer.bytes(&[u8::from(self.tick - at >= self.config.slow)]);
            writer.value(work);
        }
        match &host.node {
            Some(node) => writer.node(i, node),
            None => writer.bytes(&host.incarnation.to_le_bytes()),
        }
        writer.value(&host.memory);
        writer.end()
    }

    /// What can happen now.
    pub fn steps(&self, steps: &mut Vec<Step>) {
        let now = self.now();
        let mut tick = true;
        for who in [0, 1] {
            let i = usize::from(who);
            let host = &self.hosts[i];
            let overdue = |at: u64| self.tick - at >= self.config.slow;
            if let Some((at, _)) = host.kernel.queue.front() {
                steps.push(Step::Commit(who));
                tick &= !overdue(*at);
            }
            if host.awake().is_some() {
                if !host.answers.is_empty() {
                    steps.push(Step::Answer(who));
                    tick = false;
                }
                steps.extend((0..self.to[i].len()).map(|n| Step::Hear(who, n as u8)));
                tick &= !self.to[i].iter().any(|&(at, _)| overdue(at));
                if host.is_due(now) {
                    steps.push(Step::Wake(who));
                    tick = false;
                }
            }
            if self.late[i].is_some() && host.awake().is_some() {
                steps.push(Step::Late(who));
            }
            if self.reach[i] != Reach::All {
                steps.push(Step::Mend(who));
            }
            match (&host.node, host.paused) {
                (None, _) => steps.push(Step::Restart(who)),
                (_, true) => steps.push(Step::Continue(who)),
                _ => {}
            }
        }
        if self.config.orders && self.orders < 2 && self.hosts[0].awake().is_some() {
            steps.push(if self.orders == 0 { Step::Drain } else { Step::Resume });
        }
        if self.faults_left > 0 {
            let from = steps.len();
            self.faults(steps);
            let mut n = 0;
            steps.retain(|step| {
                n += 1;
                n <= from || step.fault().is_some_and(|kind| self.config.kinds.contains(&kind))
            });
        }
        if tick {
            steps.push(Step::Tick);
        }
    }

    fn faults(&self, steps: &mut Vec<Step>) {
        for who in [0, 1] {
            let i = usize::from(who);
            let host = &self.hosts[i];
            for n in 0..self.to[i].len() as u8 {
                steps.push(Step::Lose(who, n));
                if self.late[i].is_none() {
                    steps.push(Step::Double(who, n));
                }
            }
            if self.reach[i] == Reach::All {
                steps.extend([Step::Cut(who), Step::Deafen(who)]);
            }
            if host.awake().is_some() {
                steps.extend([Step::Pause(who), Step::Crash(who, false)]);
                if !host.kernel.queue.is_empty() {
                    steps.push(Step::Crash(who, true));
                }
            }
            if host.node.is_some() && matches!(host.kernel.queue.front(), Some((_, Work::Apply { .. }))) {
                steps.extend([Step::Refuse(who, false), Step::Refuse(who, true)]);
            }
        }
    }

    /// What happens where nothing is out of the ordinary.
    fn usual_step(&self) -> Step {
        let mut steps = Vec::new();
        self.steps(&mut steps);
        let usual =
            |s: &&Step| matches!(s, Step::Hear(..) | Step::Wake(_) | Step::Commit(_) | Step::Answer(_));
        steps.iter().find(usual).copied().unwrap_or(Step::Tick)
    }

    /// Does one of [`World::steps`], and judges what has come of it.
    pub fn step(&mut self, step: Step, story: &mut Story) -> Result<(), Violation> {
        self.faults_left -= u8::from(step.fault().is_some());
        self.carry_out(step, story)?;
        self.judge()
    }

    fn carry_out(&mut self, step: Step, story: &mut Story) -> Result<(), Violation> {
        if let Some(story) = story {
            let ms = self.tick as f64 * self.config.tick_ns() as f64 / 1e6;
            story.push(format!("{ms:>8.0} ms  {step}"));
        }
        if let Step::Hear(to, _)
        | Step::Lose(to, _)
        | Step::Double(to, _)
        | Step::Late(to)
        | Step::Cut(to)
        | Step::Deafen(to)
        | Step::Mend(to)
        | Step::Crash(to, _) = step
        {
            self.written[2 + usize::from(to)] = None;
        }
        match step {
            Step::Tick => self.pass(),
            Step::Hear(to, n) => {
                let heard = self.to[usize::from(to)].drain(..=usize::from(n)).next_back();
                if let Some((_, report)) = heard {
                    // A frame before it would be a moment of its own, in which a heartbeat goes out that does not answer.
                    self.feed(to, Input::Heard(report), story)?;
                    self.hear_frame(to, story)?;
                }
            }
            Step::Wake(who) => {
                self.host(who).woken = true;
                self.hear_frame(who, story)?;
                self.feed(who, Input::Tick, story)?;
            }
            Step::Commit(who) => self.commit(who, true, true, story)?,
            Step::Refuse(who, done) => self.commit(who, done, false, story)?,
            Step::Answer(who) => {
                if let Some((change, ok)) = self.host(who).answers.pop_front() {
                    self.feed(who, Input::Committed { change, ok }, story)?;
                }
            }
            Step::Drain | Step::Resume => {
                self.orders += 1;
                self.unsettled = 0;
                let service = None;
                let order =
                    if step == Step::Drain { Input::Drain { service } } else { Input::Resume { service } };
                self.feed(0, order, story)?;
            }
            Step::Lose(to, n) => drop(self.to[usize::from(to)].remove(usize::from(n))),
            Step::Double(to, n) => {
                let to = usize::from(to);
                self.late[to] = self.to[to].get(usize::from(n)).map(|(_, report)| Arc::clone(report));
            }
            Step::Late(to) => {
                self.unsettled = 0;
                if let Some(report) = self.late[usize::from(to)].take() {
                    self.feed(to, Input::Heard(report), story)?;
                }
            }
            Step::Cut(to) => self.reach[usize::from(to)] = Reach::NoReports,
            Step::Deafen(to) => self.reach[usize::from(to)] = Reach::Nothing,
            Step::Mend(to) => self.reach[usize::from(to)] = Reach::All,
            Step::Pause(who) => self.host(who).paused = true,
            Step::Continue(who) => self.host(who).paused = false,
            Step::Crash(who, goes_on) => {
                self.to[usize::from(who)].clear();
                let host = self.host(who);
                let node = host.node.take();
                host.incarnation = host.incarnation.max(node.map_or(0, |node| node.incarnation()));
                host.kernel.queue.truncate(usize::from(goes_on));
                host.answers.clear();
                host.knows_kernel = false;
                for (_, work) in &mut host.kernel.queue {
                    if let Work::Apply { wanted, .. } = work {
                        *wanted = false;
                    }
                }
            }
            Step::Restart(who) => self.start(who, story)?,
        }
        Ok(())
    }

    /// There is always something on the wire: routers and clients.
    fn hear_frame(&mut self, who: Who, story: &mut Story) -> Result<(), Violation> {
        match self.reach[usize::from(who)] {
            Reach::Nothing => Ok(()),
            Reach::All | Reach::NoReports => self.feed(who, Input::Frame, story),
        }
    }

    fn host(&mut self, who: Who) -> &mut Host {
        self.written[usize::from(who)] = None;
        Rc::make_mut(&mut self.hosts[usize::from(who)])
    }

    /// Half a heartbeat passes.
    fn pass(&mut self) {
        self.tick += 1;
        self.written = [const { None }; 4];
        for who in [0, 1] {
            if self.hosts[usize::from(who)].woken {
                self.host(who).woken = false;
            }
        }
        self.apart = match self.reach.iter().all(|&reach| reach != Reach::All) {
            true => APART_TICKS,
            false => self.apart.saturating_sub(1),
        };
        self.unsettled = match self.is_faulty() || self.is_settled() {
            true => 0,
            false => self.unsettled + 1,
        };
    }

    /// Whether a fault lasts.
    fn is_faulty(&self) -> bool {
        self.reach.iter().any(|&reach| reach != Reach::All) || self.hosts.iter().any(|h| h.awake().is_none())
    }

    /// Whether both agree and the slice has one owner.
    fn is_settled(&self) -> bool {
        let settled = |host: &Rc<Host>| {
            host.node.as_ref().is_some_and(|node| {
                node.is_settled() && matches!(node.state(), HostState::Serving | HostState::Draining)
            })
        };
        self.hosts.iter().all(settled) && self.serves().iter().filter(|s| !s.is_empty()).count() == 1
    }

    /// Starts an agent where none runs. Whoever reads a kernel's rules waits for what it has begun.
    fn start(&mut self, who: Who, story: &mut Story) -> Result<(), Violation> {
        while !self.hosts[usize::from(who)].kernel.queue.is_empty() {
            self.commit(who, true, true, story)?;
        }
        let (config, now) = (Rc::clone(&self.config), self.now());
        let host = self.host(who);
        host.incarnation += 1;
        let start = Start {
            host: name(who).into(),
            mac: [0; 6],
            cluster: config.cluster(),
            timing: config.timing,
            partition: config.partition,
            follow: Follow { services: BTreeSet::new(), drain_timeout: config.timing.lease },
            incarnation: host.incarnation,
            leftover: host.kernel.holds.clone(),
            lease_until: Some(host.kernel.lease_until),
            memory: host.memory.take(),
        };
        let mut node = Node::start(start, now);
        if let Some(rule) = config.mutation {
            node.break_rule(rule);
        }
        host.knows_kernel = node.state() != HostState::Joining;
        host.woken = false;
        host.node = Some(node);
        self.obey(who, story)?;
        Ok(())
    }

    /// The kernel does, or says that it does not do, what it was asked for first.
    fn commit(&mut self, who: Who, done: bool, ok: bool, story: &mut Story) -> Result<(), Violation> {
        let host = self.host(who);
        let Some((_, work)) = host.kernel.queue.pop_front() else { return Ok(()) };
        match work {
            Work::Renew(until) => {
                host.kernel.lease_until = until;
                if host.awake().is_some() {
                    self.feed(who, Input::Renewed { until }, story)?;
                }
            }
            Work::Apply { wanted, id, slices, lease_until } => {
                if done {
                    host.kernel.holds = slices;
                    host.kernel.lease_until = lease_until.unwrap_or_default();
                    host.knows_kernel |= wanted;
                }
                if wanted && host.awake().is_some() {
                    self.feed(who, Input::Committed { change: id, ok }, story)?;
                } else if wanted && host.node.is_some() {
                    host.answers.push_back((id, ok));
                }
            }
        }
        Ok(())
    }

    /// Gives an agent something to think about, and carries out what it decides.
    fn feed(&mut self, who: Who, input: Input, story: &mut Story) -> Result<(), Violation> {
        let now = self.now();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if let Some(node) = &mut self.host(who).node {
                node.handle(now, input);
            }
            inputs.extend(self.obey(who, story)?);
        }
        Ok(())
    }

    /// Carries out what an agent wants done; returns what it learns from that at once.
    fn obey(&mut self, who: Who, story: &mut Story) -> Result<Vec<Input>, Violation> {
        let (now, tick) = (self.now(), self.tick);
        let mut learns = Vec::new();
        while let Some(action) = self.host(who).node.as_mut().and_then(Node::poll_action) {
            match action {
                Action::Publish { report, .. } => {
                    if !learns.contains(&Input::Sent { at: now }) {
                        learns.push(Input::Sent { at: now });
                    }
                    self.publish(who, *report)?;
                }
                Action::Apply(change) => {
                    tell(story, who, || format!("asks its kernel for {}", told(&change)));
                    let host = self.host(who);
                    host.asked = change.id;
                    for (_, work) in &mut host.kernel.queue {
                        if let Work::Apply { wanted, .. } = work {
                            *wanted = false;
                        }
                    }
                    let (id, slices, lease_until) = (change.id, change.slices, change.lease_until);
                    host.kernel
                        .queue
                        .push_back((tick, Work::Apply { wanted: true, id, slices, lease_until }));
                }
                Action::Renew { lease_until } => {
                    if lease_until > now + self.config.timing.lease {
                        return Err(self.violation("no lease is longer than a lease", name(who).into()));
                    }
                    // A kernel that has nothing else to do renews at once; a late renewal only accepts less.
                    let host = self.host(who);
                    match host.kernel.queue.is_empty() && lease_until >= host.kernel.lease_until {
                        true => {
                            host.kernel.lease_until = lease_until;
                            learns.push(Input::Renewed { until: lease_until });
                        }
                        false => host.kernel.queue.push_back((tick, Work::Renew(lease_until))),
                    }
                }
                Action::Remember(memory) => self.host(who).memory = memory,
                Action::Note(event) => {
                    if self.faults_left == self.config.faults
                        && matches!(
                            event,
                            Event::LeaseLapsed | Event::Stalled { .. } | Event::HostGone { .. }
                        )
                    {
                        let text = format!("{}: {event:?}", name(who));
                        return Err(self.violation("without a fault no lease lapses", text));
                    }
                    tell(story, who, || format!("{event:?}"));
                }
                Action::Ask { .. } | Action::Changed(_) | Action::Stop => {}
            }
        }
        Ok(learns)
    }

    fn publish(&mut self, who: Who, report: Report) -> Result<(), Violation> {
        let accepts = self.accepts(who);
        let said = report.claims.get(SERVICE).filter(|_| report.state != HostState::Left);
        if !accepts.minus(&said.cloned().unwrap_or_default()).is_empty() {
            let text = format!("{} does not say that it accepts", name(who));
            return Err(self.violation("words cover deeds", text));
        }
        let to = usize::from(other(who));
        if self.reach[to] == Reach::All && self.hosts[to].node.is_some() {
            self.written[2 + to] = None;
            self.to[to].push_back((self.tick, Arc::new(report)));
            if self.to[to].len() > ON_THE_WAY {
                self.to[to].pop_front();
            }
        }
        Ok(())
    }

    fn accepts(&self, who: Who) -> SliceSet {
        self.hosts[usize::from(who)].kernel.open(self.now(), |held| held.accepted.clone())
    }

    /// What each host serves: what its kernel accepts by itself, and what the other sends on to it and it accepts then.
    fn serves(&self) -> [SliceSet; 2] {
        let now = self.now();
        [0, 1].map(|who| {
            let (host, peer) = (&self.hosts[usize::from(who)], &self.hosts[usize::from(other(who))]);
            let sent_on = peer.kernel.open(now, |h| h.relayed.get(name(who)).cloned().unwrap_or_default());
            self.accepts(who).or(&sent_on.and(&host.kernel.open(now, |held| held.incoming.clone())))
        })
    }

    /// What must hold in every state.
    fn judge(&self) -> Result<(), Violation> {
        let [a, b] = self.serves();
        let excused = self.apart > 0 && self.config.partition == Partition::Serve;
        if !excused && !a.and(&b).is_empty() {
            return Err(self.violation("never two owners", "both serve the slice".into()));
        }
        if self.faults_left == self.config.faults && a.is_empty() && b.is_empty() {
            return Err(self.violation("without a fault somebody serves", "nobody does".into()));
        }
        for who in [0, 1] {
            let host = &self.hosts[usize::from(who)];
            let Some(node) = host.node.as_ref().filter(|_| host.knows_kernel) else { continue };
            let claims = node.own_claims().get(SERVICE).cloned().unwrap_or_default();
            if !self.accepts(who).minus(&claims).is_empty() {
                let text = format!("{} accepts what its agent does not know of", name(who));
                return Err(self.violation("words cover deeds", text));
            }
        }
        if self.unsettled > self.config.bound() {
            let text = format!("not settled {} ticks after the last fault or order", self.unsettled);
            return Err(self.violation("everything heals", text));
        }
        Ok(())
    }

    fn violation(&self, promise: &'static str, text: String) -> Violation {
        Violation { promise, text }
    }
}

fn tell(story: &mut Story, who: Who, line: impl FnOnce() -> String) {
    if let Some(story) = story {
        story.push(format!("{:>13}{} {}", "", name(who), line()));
    }
}

/// What a kernel is asked for, in a word.
fn told(change: &onemac_core::node::Change) -> String {
    let standing = change.slices.get(SERVICE).map(|held| format!("{:?}", held.standing(0)));
    standing.unwrap_or_else(|| "nothing".into()).to_lowercase()
}
