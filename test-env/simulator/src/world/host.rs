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
use crate::clock::{At, Clock, MS};
use crate::dice::Dice;
use crate::fault::Life;
use crate::kernel::{Elsewhere, Holds, Kernel, Work};
use crate::mask::Mask;
use crate::network::{Datagram, Said};

/// Longer than any run.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

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
    /// Whether the kernel has done what this agent asked for first: to forget what others left.
    pub emptied: bool,
    /// The agent does not run until then.
    pub paused_until: At,
    /// When the agent last sent a heartbeat, on the host's clock.
    pub last_sent: Time,
    /// No datagram gets in or out.
    pub mute: bool,
    /// The service device has no carrier.
    pub unplugged: bool,
    /// The agent runs by another definition than the cluster's.
    pub other_definition: bool,
    pub(super) wake: Option<At>,
    /// What arrived while the agent was stopped.
    pub(super) socket: Vec<Datagram>,
    /// What the kernel answered while the agent was stopped.
    pub(super) answers: Vec<(u64, bool)>,
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
            emptied: false,
            paused_until: 0,
            last_sent: Time(0),
            mute: false,
            unplugged: false,
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
        let mut cluster = self.cluster.clone();
        if life == Life::OtherDefinition {
            cluster.definition.0[0] = 9;
        }
        let h = &mut self.hosts[host];
        h.agent += 1;
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
            follow: Follow { services: c.services.iter().cloned().collect(), drain_timeout: DRAIN_TIMEOUT },
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
        if !goes_on {
            h.orphaned = Mask::default();
        }
        h.gone.clear();
        h.bereaved_at = self.now;
        h.node = Some(node);
        h.other_definition = life == Life::OtherDefinition;
        h.wake = None;
        match goes_on {
            true => self.knowledge.acts(host, true, self.now),
            false => self.knowledge.starts(host, self.now),
        }
        let agent = h.agent;
        let first = self.now + self.dice.roll(self.config.timing.heartbeat.as_nanos() as u64);
        if self.config.relays {
            self.at(first, Event::Gossip { host, agent });
        }
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
        self.knowledge.acts(host, false, self.now);
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
        let h = &mut self.hosts[host];
        let Some(node) = h.node.take() else { return };
        h.greatest_incarnation = h.greatest_incarnation.max(node.incarnation());
        self.knowledge.acts(host, false, self.now);
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
                h.kernel.lease_until = until;
                if h.agent == agent && h.node.is_some() && h.paused_until <= self.now {
                    self.feed(host, Input::Renewed { until });
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
                    h.emptied |= h.agent == agent;
                }
                if h.agent == agent && h.node.is_some() {
                    self.kernel_answers(host, change.id, !refused);
                }
            }
        }
        Moved::Kernel(host)
    }

    fn kernel_answers(&mut self, host: usize, change: u64, ok: bool) {
        let h = &mut self.hosts[host];
        match h.paused_until > self.now {
            true => h.answers.push((change, ok)),
            false => self.feed(host, Input::Committed { change, ok }),
        }
    }

    /// A stopped agent goes on: its timer, its socket and its kernel's answers are all ready at once.
    pub(super) fn resume(&mut self, host: usize) {
        if self.hosts[host].node.is_none() || self.hosts[host].paused_until > self.now {
            return;
        }
        self.hosts[host].paused_until = 0;
        self.hosts[host].kernel_goes_on = true;
        self.knowledge.acts(host, true, self.now);
        let (answers, socket) = {
            let h = &mut self.hosts[host];
            (std::mem::take(&mut h.answers), std::mem::take(&mut h.socket))
        };
        let order = self.dice.roll(6);
        for what in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][order as usize] {
            match what {
                0 => self.feed(host, Input::Tick),
                1 => {
                    answers.iter().for_each(|&(change, ok)| self.feed(host, Input::Committed { change, ok }))
                }
                _ => socket.iter().for_each(|datagram| self.receive(host, datagram.clone())),
            }
        }
        let up = !self.hosts[host].unplugged;
        self.feed(host, Input::Link { up });
    }
}
