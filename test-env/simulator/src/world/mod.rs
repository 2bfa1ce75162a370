//! The world: hosts, links and a queue of what happens next.

mod connections;
mod faults;
mod gossip;
mod host;
mod lists;

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;

use onemac_core::holding::Holding;
use onemac_core::node::{Action, Input, Node, Recipients};
use onemac_core::report::{HostState, Report};
use onemac_core::slices::SliceSet;
use onemac_core::view::{Cluster, DefinitionId};

pub use self::host::Host;
use self::lists::Seen;
pub use self::lists::{Ask, List};
use crate::check::{Checks, Excused, Moved, Violation};
use crate::clock::{At, MS};
use crate::config::Config;
use crate::dice::Dice;
use crate::fault::{Fault, Life, Planned};
use crate::kernel::Work;
use crate::knowledge::Knowledge;
use crate::mask::Mask;
use crate::network::{Content, Datagram, Network, Said, Trouble};

/// How often the checkers look even if nothing happens.
const LOOK: At = 20 * MS;

/// What happens to a host, or to all.
#[derive(Debug)]
enum Event {
    /// A fault of the plan, by its place.
    Fault(usize),
    /// Links are mended that a fault of the plan has cut.
    Mend(usize),
    /// An agent starts.
    Start { host: usize, life: Life },
    /// An agent that is to restart looks whether it can.
    Restart { host: usize, agent: u64 },
    /// An agent looks at its service device.
    Device { host: usize, agent: u64 },
    /// A frame of a client is flooded.
    Client,
    /// An agent's timer fires.
    Wake { host: usize, agent: u64 },
    /// An agent goes on after a pause.
    Resume { host: usize },
    /// An agent's turn to gossip.
    Gossip { host: usize, agent: u64 },
    /// A datagram arrives.
    Arrive { to: usize, datagram: Datagram },
    /// An agent reads its socket.
    Read { host: usize },
    /// An agent has looked at connections because it was asked to.
    Seen { host: usize, agent: u64, by: usize, seen: Seen },
    /// A kernel has finished what is first in its queue.
    Kernel { host: usize, turn: u64 },
    /// The checkers look.
    Look,
}

struct Queued {
    at: At,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Faults that took place, by [`Fault::kind`].
    pub faults: [u64; Fault::KINDS.len()],
    /// Runs in which what one host's fault, or an operator, costs was looked at.
    pub judged: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Changes that kernels made.
    pub commits: u64,
    /// Lists of connections that were asked for.
    pub asks: u64,
    /// Lists that came in time.
    pub lists: u64,
    /// Lists that came when the slice had been given up since.
    pub late_lists: u64,
}

/// A cluster and everything around it.
pub struct World {
    /// The choices of the run.
    pub config: Config,
    /// What every host's definition says, or should say in the end.
    pub cluster: Cluster,
    first: Cluster,
    /// True time.
    pub now: At,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The links.
    pub network: Network,
    /// Who knows what.
    pub knowledge: Knowledge,
    /// What happened so far.
    pub counts: Counts,
    /// The story, if it is to be told.
    pub story: Option<Vec<String>>,
    plan: Vec<Planned>,
    /// By host, some of what it has said, if it is to be said again.
    records: Vec<Vec<Rc<Said>>>,
    dice: Dice,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
    checks: Checks,
    /// Processes run late by up to so many microseconds.
    late_us: u64,
}

/// What a kernel is asked for, in words.
fn told(service: &str, held: &Holding) -> String {
    let list = |slices: &SliceSet| format!("{:?}", slices.iter().collect::<Vec<_>>());
    let mut text = format!("{service}: {}", list(&held.accepted));
    for (what, slices) in [
        ("shared", &held.shared),
        ("heir", &held.heir),
        ("taking", &held.taking),
        ("incoming", &held.incoming),
        ("moving", &held.moving),
    ] {
        if !slices.is_empty() {
            text += &format!(" {what} {}", list(slices));
        }
    }
    for (to, slices) in &held.relayed {
        text += &format!(" to {to} {}", list(slices));
    }
    text + "; "
}

/// The name of a host.
pub fn name(host: usize) -> String {
    format!("ns{host}")
}

/// The host of a name.
pub fn index(name: &str) -> Option<usize> {
    name.strip_prefix("ns")?.parse().ok()
}

impl World {
    /// A world in which all hosts are about to start and the plan is about to happen.
    pub fn new(config: Config, plan: &[Planned], checks: Checks) -> Self {
        let mut dice = Dice::new(config.seed, 3);
        let weight = |dice: &mut Dice| if dice.chance(800) { 1 } else { dice.roll(4) as u8 };
        let mut weights: Vec<u8> = (0..config.hosts).map(|_| weight(&mut dice)).collect();
        weights[0] = weights[0].max(1);
        let cluster = Cluster {
            name: "sim".into(),
            definition: DefinitionId([7; 16]),
            slices: config.slices,
            hosts: weights.iter().enumerate().map(|(i, &w)| (name(i), w)).collect(),
            services: config.services.clone(),
        };
        let hosts = (0..config.hosts).map(|_| Host::new(&mut dice, config.drift_ppm)).collect();
        let late_us = dice.pick(&[500, 3_000, 3_000, 40_000]);
        let mut world = World {
            network: Network::new(config.hosts),
            knowledge: Knowledge::new(config.hosts, checks.apart()),
            config,
            first: cluster.clone(),
            cluster,
            now: 0,
            hosts,
            counts: Counts::default(),
            story: None,
            plan: plan.to_vec(),
            records: Vec::new(),
            dice,
            queue: BinaryHeap::new(),
            number: 0,
            checks,
            late_us,
        };
        if plan.iter().any(|p| matches!(p.fault, Fault::Replay { .. })) {
            world.records = vec![Vec::new(); world.config.hosts];
        }
        world.arrange();
        world
    }

    /// Puts the starts, the plan and the checkers' looks into the queue.
    fn arrange(&mut self) {
        let apart = match self.dice.roll(3) {
            0 => 1,
            1 => 100,
            _ => self.config.timing.lease.as_millis() as u64 * 2,
        };
        for host in 0..self.config.hosts {
            let at = self.dice.roll(apart) * MS;
            self.at(at, Event::Start { host, life: Life::Later });
        }
        for i in 0..self.plan.len() {
            self.at(self.plan[i].at, Event::Fault(i));
        }
        if self.config.frames_every_ms > 0 {
            self.at(self.config.frames_every_ms * MS, Event::Client);
        }
        self.at(LOOK, Event::Look);
    }

    /// A frame of a client reaches every host that can be reached.
    fn client(&mut self) {
        self.at(self.now + self.config.frames_every_ms * MS, Event::Client);
        self.hosts.iter_mut().filter(|h| h.is_reached()).for_each(|h| h.framed = true);
    }

    fn at(&mut self, at: At, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Queued { at, number: self.number, event }));
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>9.3} ms  {}", self.now as f64 / MS as f64, line()));
        }
    }

    /// Lets time pass until `end` or until `done`, which is asked now and then; stops at a violation.
    pub fn run(&mut self, end: At, mut done: impl FnMut(&World) -> bool) -> Result<bool, Violation> {
        while self.queue.peek().is_some_and(|q| q.0.at <= end) {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = next.at;
            let moved = self.happen(next.event);
            let mut checks = std::mem::take(&mut self.checks);
            let found = checks.look(self, moved);
            self.checks = checks;
            found?;
            if moved != Moved::Nothing && done(self) {
                return Ok(true);
            }
        }
        self.now = end;
        Ok(false)
    }

    /// Carries out one event.
    fn happen(&mut self, event: Event) -> Moved {
        match event {
            Event::Fault(i) => self.fault(i),
            Event::Mend(i) => self.mend(i),
            Event::Start { host, life } => self.start(host, life),
            Event::Restart { host, agent } => self.restart(host, agent),
            Event::Device { host, agent } => self.look_at_device(host, agent),
            Event::Client => self.client(),
            Event::Wake { host, agent } => self.wake(host, agent),
            Event::Resume { host } => self.resume(host),
            Event::Gossip { host, agent } => self.gossip(host, agent),
            Event::Arrive { to, datagram } => self.arrive(to, datagram),
            Event::Read { host } => self.read(host),
            Event::Seen { host, agent, by, seen } => self.seen(host, agent, by, seen),
            Event::Kernel { host, turn } => return self.kernel_works(host, turn),
            Event::Look => {
                self.at(self.now + LOOK, Event::Look);
                self.connections_come_and_go();
                return Moved::Time;
            }
        }
        Moved::Nothing
    }

    fn wake(&mut self, host: usize, agent: u64) {
        let h = &mut self.hosts[host];
        if h.agent != agent || h.node.is_none() || h.wake != Some(self.now) {
            return;
        }
        h.wake = None;
        if h.paused_until > self.now {
            return;
        }
        let now = h.clock.read(self.now);
        match h.node.as_ref().is_some_and(|n| n.next_deadline() <= now) {
            true => self.feed(host, Input::Tick),
            false => self.set_alarm(host),
        }
    }

    /// Gives an agent something to think about, and carries out what it decides.
    pub fn feed(&mut self, host: usize, input: Input) {
        let h = &mut self.hosts[host];
        let Some(node) = &mut h.node else { return };
        let now = h.clock.read(self.now);
        node.handle(now, input);
        if self.carry_out(host) {
            self.feed_sent(host);
        }
        self.set_alarm(host);
    }

    fn feed_sent(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if let Some(node) = &mut h.node {
            let at = h.clock.read(self.now);
            h.last_sent = at;
            node.handle(at, Input::Sent { at });
            self.carry_out(host);
        }
    }

    fn set_alarm(&mut self, host: usize) {
        let late = self.dice.roll(self.late_us) * 1000;
        let h = &mut self.hosts[host];
        let Some(node) = &h.node else { return };
        let due = h.clock.when(node.next_deadline()).max(self.now + 1);
        if h.wake.is_none_or(|wake| wake > due + late && due < wake) {
            h.wake = Some(due + late);
            let agent = h.agent;
            self.at(due + late, Event::Wake { host, agent });
        }
    }

    /// Carries out what an agent wants done; says whether anything was sent.
    fn carry_out(&mut self, host: usize) -> bool {
        let mut sent = false;
        while let Some(action) = self.hosts[host].node.as_mut().and_then(Node::poll_action) {
            match action {
                Action::Publish { report, to } => {
                    sent |= self.config.hosts > 1;
                    self.publish(host, *report, &to);
                }
                Action::Apply(change) => {
                    self.tell(|| {
                        let lines = change.slices.iter().map(|(service, held)| told(service, held));
                        format!("{} asks its kernel for {}", name(host), lines.collect::<String>())
                    });
                    let h = &self.hosts[host];
                    let elsewhere = h.elsewhere(&change.slices, &self.config.services, self.config.slices);
                    self.ask_kernel(host, Work::Apply(change, elsewhere, self.now));
                }
                Action::Renew { lease_until } => self.ask_kernel(host, Work::Renew(lease_until)),
                Action::Remember(memory) => self.keep(host, memory),
                Action::Changed(_) => {}
                Action::Ask { host: of, round, slices } => self.ask(host, &of, Ask { round, slices }),
                Action::Note(event) => {
                    self.note_deaths(host, &event);
                    self.checks.share.decided(host, &event, self.now);
                    self.tell(|| format!("{} {event:?}", name(host)));
                }
                Action::Stop => self.agent_ends(host),
            }
        }
        sent
    }

    fn publish(&mut self, host: usize, report: Report, to: &Recipients) {
        self.checks.published(&self.hosts[host], host, &report, self.now, &self.cluster);
        let version = self.hosts[host].version;
        let said = Rc::new(Said { report: Arc::new(report), at: self.now, version });
        self.record(host, &said);
        self.hosts[host].remember(host, &said);
        let only = match to {
            Recipients::One(name) => index(name),
            Recipients::All => None,
        };
        for other in (0..self.config.hosts).filter(|&o| o != host && only.is_none_or(|only| only == o)) {
            self.send(other, Datagram { from: host, content: Content::Report(Rc::clone(&said)) });
        }
    }

    /// Sends a datagram, once, twice, or into the void.
    fn send(&mut self, to: usize, datagram: Datagram) {
        self.counts.datagrams += 1;
        let from = datagram.from;
        if self.hosts[from].mute > 0 {
            return;
        }
        let (mut lost, mut late) = (false, 0);
        for trouble in self.network.troubles(from, to) {
            match *trouble {
                Trouble::Cut => lost = true,
                Trouble::Poor(loss, late_ms) => {
                    lost |= self.dice.chance(loss);
                    late += late_ms * MS;
                }
                Trouble::Narrow(bytes) => lost |= datagram.content.size() > bytes,
            }
        }
        if lost {
            return;
        }
        if self.dice.chance(self.network.doubles) {
            // The second one may come much later, from a queue that nobody thought of.
            let later = if self.dice.chance(200) { self.dice.roll(3000) * MS } else { 0 };
            let at = self.now + self.network.way(&mut self.dice) + later + late;
            self.at(at, Event::Arrive { to, datagram: datagram.clone() });
        }
        if !self.dice.chance(self.network.loss) {
            let at = self.now + self.network.way(&mut self.dice) + late;
            self.at(at, Event::Arrive { to, datagram });
        }
    }

    fn arrive(&mut self, to: usize, datagram: Datagram) {
        let h = &mut self.hosts[to];
        if h.deaf > 0 {
            return;
        }
        h.framed |= h.off_the_wire == 0 && !h.unplugged;
        if h.node.is_none() {
            return;
        }
        if self.hosts[to].paused_until > self.now {
            self.hosts[to].socket.push(datagram);
        } else if self.config.reads_every_ms > 0 {
            if self.hosts[to].socket.is_empty() {
                self.at(self.now + self.config.reads_every_ms * MS, Event::Read { host: to });
            }
            self.hosts[to].socket.push(datagram);
        } else {
            self.receive(to, datagram);
        }
    }

    /// An agent reads what has come in; one that is stopped does so when it goes on.
    fn read(&mut self, host: usize) {
        if self.hosts[host].awake(self.now) {
            let socket = std::mem::take(&mut self.hosts[host].socket);
            socket.into_iter().for_each(|datagram| self.receive(host, datagram));
        }
    }

    /// What was put down to a partition.
    pub fn excused(&self) -> Excused {
        self.checks.excused()
    }

    /// Whether the hosts without this one may serve, and would take slices.
    pub fn could_be_served_without(&self, lone: Option<usize>) -> bool {
        let takes = |host: usize| {
            let node = self.hosts[host].node.as_ref().filter(|_| Some(host) != lone);
            let weight = |node: &Node| {
                let status = node.status(self.hosts[host].clock.read(self.now));
                status.hosts.iter().find(|h| index(&h.name) == Some(host)).map_or(0, |h| h.weight)
            };
            node.is_some_and(|node| node.state() == HostState::Serving && weight(node) > 0)
        };
        let counts = |host: &String| index(host) != lone;
        (0..self.hosts.len()).any(takes) && self.config.partition.suffices(&self.cluster, counts)
    }

    /// The new flows that each host serves now: those that its kernel accepts by itself, and those that
    /// others send on to it and it accepts then.
    pub fn serves(&self) -> Vec<Mask> {
        let open = |host: &&Host| host.kernel.is_open(host.clock.read(self.now));
        let mut serves: Vec<Mask> = (0..self.hosts.len()).map(|h| self.accepts(h)).collect();
        for (to, slices) in self.hosts.iter().filter(open).flat_map(|h| &h.kernel.holds.relayed) {
            let other = &self.hosts[*to];
            if open(&other) {
                serves[*to] = serves[*to].or(&slices.and(&other.kernel.holds.incoming));
            }
        }
        serves
    }

    /// Who makes `host` serve a slice now.
    pub fn deciders(&self, slice: u32, host: usize) -> Vec<usize> {
        if self.accepts(host).contains(slice) {
            return vec![host];
        }
        let sends = |other: &Host| {
            let open = other.kernel.is_open(other.clock.read(self.now));
            open && other
                .kernel
                .holds
                .relayed
                .iter()
                .any(|(to, slices)| *to == host && slices.contains(slice))
        };
        self.hosts.iter().enumerate().filter(|(_, other)| sends(other)).map(|(i, _)| i).collect()
    }

    /// What the kernel of a host accepts by itself now.
    pub fn accepts(&self, host: usize) -> Mask {
        let h = &self.hosts[host];
        h.kernel.accepts(h.clock.read(self.now))
    }
}
