//! One host: an agent that comes and goes, and a kernel that stays.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use onemac_core::node::{Follow, Input, Memory, Node, Start};
use onemac_core::report::{HostState, Report};
use onemac_core::time::Time;

use super::{Event, World, name};
use crate::check::Moved;
use crate::clock::{At, Clock, MS, nanos};
use crate::config::{Config, DRIFT_MAX_PPM};
use crate::dice::Dice;
use crate::fault::Life;
use crate::kernel::{Elsewhere, Holds, Kernel, Work};
use crate::mask::Mask;
use crate::network::{Datagram, Said};

/// Longer than any run.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// Which connections are followed.
pub(super) fn follow(config: &Config) -> Follow {
    Follow { services: config.services.iter().cloned().collect(), drain_timeout: DRAIN_TIMEOUT }
}

/// A host. What belongs to the agent is lost when it dies.
pub struct Host {
    /// Its clock.
    pub clock: Clock,
    /// Its kernel.
    pub kernel: Kernel,
    /// Its agent's core; none while no agent runs.
    pub node: Option<Node>,
    /// Which agent of this host runs or ran last.
    pub agent: u64,
    /// When it began: what was said before is a recording, which the transport refuses.
    pub(super) began: At,
    /// Whether the kernel has done what this agent asked for first: to forget what others left.
    pub emptied: bool,
    /// The agent does not run until then.
    pub paused_until: At,
    /// When the agent last sent a heartbeat, on the host's clock.
    pub last_sent: Time,
    /// For so many reasons nothing gets in.
    pub deaf: u32,
    /// For so many reasons nothing gets out.
    pub mute: u32,
    /// For so many reasons clients' frames do not arrive.
    pub unreached: u32,
    /// For so many reasons what other hosts say does not arrive at the service device, but elsewhere.
    pub off_the_wire: u32,
    /// The service device has no carrier.
    pub unplugged: bool,
    pub(super) plugs: u32,
    /// The service device has received a frame since the agent last looked.
    pub framed: bool,
    /// Nothing can be kept for the next agent before this.
    pub no_memory_until: At,
    /// What was kept last is not what was to be kept.
    pub(super) forgetful: bool,
    /// The definition on its disk.
    pub file: u8,
    /// Its agent is replacing itself; whoever has a new definition for it waits.
    pub(super) restarting: bool,
    /// The version of the protocol that its program speaks.
    pub version: u8,
    /// The agent runs by another definition than the cluster's.
    pub other_definition: bool,
    pub(super) wake: Option<At>,
    /// What arrived while the agent was stopped.
    pub(super) socket: Vec<Datagram>,
    /// What the kernel answered while the agent was stopped.
    pub(super) answers: Vec<Input>,
    pub(super) kernel_goes_on: bool,
    pub(super) kernel_turn: u64,
    /// What came by way of others, the newest report of each life.
    pub(super) gossip: BTreeMap<(usize, u64), Rc<Said>>,
    /// The newest report that the core was given of each host.
    pub(super) given: BTreeMap<usize, Arc<Report>>,
    /// What others have listed of their connections.
    pub(super) lists: Elsewhere,
    /// The hosts that the agent has seen die, and not come back.
    pub(super) gone: BTreeSet<usize>,
    /// Slices of which connections have died with hosts, as far as the agent could know.
    pub(super) orphaned: Mask,
    /// When the last of those died for this one.
    pub(super) bereaved_at: At,
    /// What the last agent kept for the next.
    pub(super) memory: Option<Box<Memory>>,
    pub(super) greatest_incarnation: u64,
}

impl Host {
    pub(super) fn new(dice: &mut Dice, drift_ppm: u64) -> Self {
        let fast_ppm = dice.roll(2 * drift_ppm + 1) as i64 - drift_ppm as i64;
        let origin = dice.between(1_000, 1_000_000) * MS;
        Host {
            clock: Clock { origin, fast_ppm },
            kernel: Kernel { late: dice.roll(11) * MS, slow_ms: 3, ..Kernel::default() },
            node: None,
            agent: 0,
            began: 0,
            emptied: false,
            paused_until: 0,
            last_sent: Time(0),
            deaf: 0,
            mute: 0,
            unreached: 0,
            off_the_wire: 0,
            unplugged: false,
            plugs: 0,
            framed: false,
            no_memory_until: 0,
            forgetful: false,
            file: 0,
            restarting: false,
            version: 1,
            other_definition: false,
            wake: None,
            socket: Vec::new(),
            answers: Vec::new(),
            kernel_goes_on: true,
            kernel_turn: 0,
            memory: None,
            gossip: BTreeMap::new(),
            given: BTreeMap::new(),
            lists: Elsewhere::new(),
            gone: BTreeSet::new(),
            orphaned: Mask::default(),
            bereaved_at: 0,
            greatest_incarnation: 0,
        }
    }

    /// Whether the packets of clients reach it.
    pub fn is_reached(&self) -> bool {
        self.deaf == 0 && self.unreached == 0 && !self.unplugged
    }

    /// Whether it could know that clients do not reach it, or that its answers reach nobody.
    pub fn could_know_that_it_is_useless(&self) -> bool {
        self.deaf > 0 || self.mute > 0 || self.unplugged
    }

    /// Whether the agent is handing over.
    pub fn is_leaving(&self) -> bool {
        self.node.as_ref().is_some_and(|n| n.state() == HostState::Leaving)
    }

    /// Whether an agent runs and is not stopped.
    pub fn awake(&self, now: At) -> bool {
        self.node.is_some() && self.paused_until <= now
    }
}

impl World {
    /// Starts an agent where none runs.
    pub(super) fn start(&mut self, host: usize, life: Life) {
        if self.hosts[host].node.is_some() {
            return;
        }
        self.tell(|| format!("{} starts", name(host)));
        self.kernel_finishes(host);
        let mut cluster = self.definition(self.hosts[host].file);
        if life == Life::OtherDefinition {
            cluster.definition.0[0] = 9;
        }
        if life != Life::Same {
            self.checks.share.ends(host);
        }
        let h = &mut self.hosts[host];
        h.restarting = false;
        h.agent += 1;
        h.began = self.now;
        let incarnation = match life {
            Life::Earlier => (h.greatest_incarnation / 2).max(1) + h.agent,
            Life::Later | Life::OtherDefinition | Life::Same => h.greatest_incarnation + 1000,
        };
        h.greatest_incarnation = h.greatest_incarnation.max(incarnation);
        let now = h.clock.read(self.now);
        let c = &self.config;
        let start = Start {
            host: name(host),
            mac: [0; 6],
            cluster,
            timing: c.timing,
            partition: c.partition,
            follow: follow(c),
            incarnation,
            leftover: h.kernel.holds.told.clone(),
            lease_until: Some(h.kernel.lease_until),
            memory: h.memory.take().filter(|_| life == Life::Same),
        };
        let mut node = Node::start(start, now);
        if let Some(rule) = c.mutation {
            node.break_rule(rule);
        }
        h.emptied = node.state() != HostState::Joining;
        let goes_on = h.emptied;
        // An agent that goes on remembers for whom its last one mourned.
        if !goes_on || h.forgetful {
            h.orphaned = Mask::default();
        }
        h.gone.clear();
        h.bereaved_at = self.now;
        h.node = Some(node);
        h.other_definition = life == Life::OtherDefinition;
        h.wake = None;
        h.framed = false;
        let version = h.version;
        let takes = self.takes(host);
        match goes_on {
            true => self.knowledge.runs(host, self.now, takes),
            false => self.knowledge.starts(host, version, self.now, takes),
        }
        let agent = self.hosts[host].agent;
        let first = self.now + self.dice.roll(self.config.timing.heartbeat.as_nanos() as u64);
        if self.config.relays {
            self.at(first, Event::Gossip { host, agent });
        }
        self.at(first, Event::Device { host, agent });
        self.carry_out(host);
        self.set_alarm(host);
        if self.hosts[host].unplugged {
            self.feed(host, Input::Link { up: false });
        }
    }

    /// The agent is gone; of what it asked of its kernel, only what the kernel is about to do may happen.
    pub(super) fn agent_dies(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        let Some(node) = h.node.take() else { return };
        h.greatest_incarnation = h.greatest_incarnation.max(node.incarnation());
        self.knowledge.stops(host, self.now);
        let in_kernel = usize::from(self.dice.chance(500));
        h.kernel.queue.truncate(in_kernel);
        h.kernel_goes_on = true;
        h.paused_until = 0;
        h.wake = None;
        h.socket.clear();
        h.answers.clear();
        h.gossip.clear();
        h.given.clear();
        h.lists.clear();
    }

    /// The agent ends in order and takes down what it had put up.
    pub(super) fn agent_ends(&mut self, host: usize) {
        self.tell(|| format!("{} ends", name(host)));
        self.checks.share.ends(host);
        let h = &mut self.hosts[host];
        let Some(node) = h.node.take() else { return };
        h.greatest_incarnation = h.greatest_incarnation.max(node.incarnation());
        self.knowledge.stops(host, self.now);
        h.wake = None;
        h.gossip.clear();
        h.given.clear();
        h.lists.clear();
        self.ask_kernel(host, Work::Clear);
    }

    /// Puts something into the queue of a kernel.
    pub(super) fn ask_kernel(&mut self, host: usize, work: Work) {
        let idle = self.hosts[host].kernel.queue.is_empty();
        let agent = self.hosts[host].agent;
        self.hosts[host].kernel.queue.push_back((agent, work));
        if idle {
            self.next_work(host);
        }
    }

    pub(super) fn next_work(&mut self, host: usize) {
        let takes = self.dice.between(200, self.hosts[host].kernel.slow_ms * 1000) * 1000;
        let h = &mut self.hosts[host];
        h.kernel_turn += 1;
        let turn = h.kernel_turn;
        let at = self.now.max(h.kernel.stuck_until) + takes;
        self.at(at, Event::Kernel { host, turn });
    }

    /// Whoever reads the kernel's rules waits for what is being committed.
    fn kernel_finishes(&mut self, host: usize) {
        self.hosts[host].kernel.stuck_until = 0;
        while !self.hosts[host].kernel.queue.is_empty() {
            let turn = self.hosts[host].kernel_turn;
            self.kernel_works(host, turn);
        }
    }

    /// The kernel does what is first in its queue.
    pub(super) fn kernel_works(&mut self, host: usize, turn: u64) -> Moved {
        let h = &mut self.hosts[host];
        if h.kernel_turn != turn || h.kernel.queue.is_empty() {
            return Moved::Nothing;
        }
        if h.kernel.stuck_until > self.now || (h.paused_until > self.now && !h.kernel_goes_on) {
            let until = h.kernel.stuck_until.max(h.paused_until);
            let takes = self.dice.between(200, 3000) * 1000;
            self.at(until + takes, Event::Kernel { host, turn });
            return Moved::Nothing;
        }
        let Some((agent, work)) = h.kernel.queue.pop_front() else { return Moved::Nothing };
        if !h.kernel.queue.is_empty() {
            self.next_work(host);
        }
        self.counts.commits += 1;
        self.connections_die(host);
        let h = &mut self.hosts[host];
        match work {
            Work::Clear => {
                (h.kernel.holds, h.kernel.lease_until) = (Holds::default(), Time(0));
            }
            Work::Renew(until) => {
                let refused = self.now < h.kernel.no_renewals_until || self.dice.chance(h.kernel.refuses);
                if !refused {
                    (h.kernel.lease_until, h.kernel.jumped) = (until, false);
                    self.kernel_answers(host, agent, Input::Renewed { until });
                }
            }
            Work::Apply(change, elsewhere, decided) => {
                let refused = self.dice.chance(h.kernel.refuses);
                // What was refused may yet have come about: the answer got lost.
                if !refused || self.dice.chance(200) {
                    let c = &self.config;
                    h.kernel.holds = Holds::of(&change.slices, elsewhere, &c.services, c.slices);
                    h.kernel.decided = decided;
                    h.kernel.lease_until = change.lease_until.unwrap_or_default();
                    h.kernel.jumped = false;
                    h.emptied |= h.agent == agent;
                }
                if refused {
                    // It is asked again a heartbeat later.
                    let takes = self.takes(host);
                    self.knowledge.delayed(host, self.now, takes);
                }
                self.kernel_answers(host, agent, Input::Committed { change: change.id, ok: !refused });
                if let Some(until) = change.lease_until.filter(|_| !refused) {
                    self.kernel_answers(host, agent, Input::Renewed { until });
                }
            }
        }
        Moved::Kernel(host)
    }

    /// So long at most until a host's kernel has done what its agent decides now.
    pub(super) fn takes(&self, host: usize) -> At {
        let heartbeats = nanos(self.config.timing.heartbeat) * 2;
        let slow = heartbeats * 1_000_000 / (1_000_000 - DRIFT_MAX_PPM);
        slow + self.hosts[host].kernel.takes(self.now)
    }

    fn kernel_answers(&mut self, host: usize, agent: u64, answer: Input) {
        let h = &mut self.hosts[host];
        if h.agent != agent || h.node.is_none() {
            return;
        }
        match h.paused_until > self.now {
            true => h.answers.push(answer),
            false => self.feed(host, answer),
        }
    }

    /// An agent looks whether its service device has received anything, as it does once a heartbeat.
    pub(super) fn look_at_device(&mut self, host: usize, agent: u64) {
        let h = &mut self.hosts[host];
        if h.agent != agent || h.node.is_none() {
            return;
        }
        let next = self.now.max(h.paused_until) + h.clock.lasts(self.config.timing.heartbeat);
        let framed = h.paused_until <= self.now && std::mem::take(&mut h.framed);
        self.at(next, Event::Device { host, agent });
        if framed {
            self.feed(host, Input::Frame);
        }
    }

    /// An agent whose host has a quiet moment makes room for the next one.
    pub(super) fn restart(&mut self, host: usize, agent: u64) {
        let h = &mut self.hosts[host];
        if h.agent != agent || h.node.is_none() {
            return;
        }
        let awake = h.paused_until <= self.now;
        if self.is_outdated(host) {
            // It is refused: no life goes on by another definition.
            return;
        }
        let h = &self.hosts[host];
        let settled = h.node.as_ref().is_some_and(Node::is_settled) && h.kernel.queue.is_empty();
        if !awake || !settled {
            let again = self.now.max(h.paused_until) + nanos(self.config.timing.heartbeat) / 4;
            return self.at(again, Event::Restart { host, agent });
        }
        if let Some(memory) = h.node.as_ref().and_then(Node::checkpoint) {
            self.keep(host, Some(memory));
        }
        self.agent_dies(host);
        self.hosts[host].restarting = true;
        let at = self.now + self.dice.between(5, 30) * MS;
        self.at(at, Event::Start { host, life: Life::Same });
    }

    /// Whether another definition lies on its disk than is in force.
    fn is_outdated(&self, host: usize) -> bool {
        let h = &self.hosts[host];
        let in_force = h.node.as_ref().map(Node::definition);
        in_force.is_some_and(|id| id != self.definition(h.file).definition) && !h.other_definition
    }

    /// What an agent has kept for the next one, if it could.
    pub(super) fn keep(&mut self, host: usize, memory: Option<Box<Memory>>) {
        let h = &mut self.hosts[host];
        h.forgetful = self.now < h.no_memory_until;
        if !h.forgetful {
            h.memory = memory;
        }
    }

    /// A stopped agent goes on: its timer, its socket and its kernel's answers are all ready at once.
    pub(super) fn resume(&mut self, host: usize) {
        if self.hosts[host].node.is_none() || self.hosts[host].paused_until > self.now {
            return;
        }
        self.hosts[host].paused_until = 0;
        self.hosts[host].kernel_goes_on = true;
        let takes = self.takes(host);
        self.knowledge.runs(host, self.now, takes);
        let (answers, socket) = {
            let h = &mut self.hosts[host];
            (std::mem::take(&mut h.answers), std::mem::take(&mut h.socket))
        };
        let order = self.dice.roll(6);
        for what in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][order as usize] {
            match what {
                0 => self.feed(host, Input::Tick),
                1 => answers.iter().for_each(|answer| self.feed(host, answer.clone())),
                _ => socket.iter().for_each(|datagram| self.receive(host, datagram.clone())),
            }
        }
        let up = !self.hosts[host].unplugged;
        self.feed(host, Input::Link { up });
    }
}
