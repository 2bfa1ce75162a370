//! The node against a small world: messages that are late, lost, doubled and reordered, kernels that
//! take their time or refuse, hosts that stop, die and return. True time is the time of every clock here.

extern crate std;

mod moves;
mod orphans;
mod versions;

use alloc::collections::{BTreeMap, BinaryHeap};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use self::orphans::{Elsewhere, Lists};
use super::*;
use crate::holding::{Holding, Standing};
use crate::report::{HostState, Report};
use crate::slices::SliceSet;
use crate::view::DefinitionId;

const SLICES: u32 = 32;
const TIMING: Timing = Timing { heartbeat: Duration::from_millis(100), lease: Duration::from_millis(800) };

/// xorshift64*: the tests' own dice, so that a seed is a story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}

#[derive(Default)]
struct Kernel {
    slices: Holdings,
    lease_until: Time,
    elsewhere: Elsewhere,
}

enum Event {
    Wake,
    Deliver(Arc<Report>),
    Kernel(Kernelwork),
    /// Somebody looks at the kernel's connections.
    Look,
    /// This host wants to know what lives here.
    Asked {
        by: usize,
        round: Stamp,
        slices: Claims,
    },
    /// What lives there.
    Listed {
        by: usize,
        round: Stamp,
        slices: Claims,
        list: Elsewhere,
    },
}

#[derive(Clone)]
enum Kernelwork {
    Apply(Change, Elsewhere),
    Renew(Time),
}

struct Host {
    node: Option<Node>,
    kernel: Kernel,
    kernel_free: Time,
    life: u64,
    paused_until: Time,
    stopped: bool,
    wake: Option<Time>,
    /// Slices of which connections live here.
    connections: Claims,
    /// What other hosts have listed, and how often connections began here, by slice.
    lists: Lists,
}

struct World {
    now: Time,
    dice: Dice,
    hosts: Vec<Host>,
    queue: BinaryHeap<Reverse<(Time, u64, usize, u64)>>,
    events: BTreeMap<u64, Event>,
    count: u64,
    loss_percent: u64,
    kernel_trouble: bool,
    cluster: Cluster,
    partition: Partition,
    /// Every slice is served at every instant, or the test fails.
    no_gaps: bool,
    /// What a host has served once goes on to live there.
    connections_stay: bool,
    /// The agent of this host dies after so many more actions.
    dies_after: Option<(usize, u32)>,
    /// What the agents kept, by host.
    memory: BTreeMap<usize, Box<Memory>>,
}

fn name(i: usize) -> String {
    format!("ns{i}")
}

fn index(name: &str) -> usize {
    name[2..].parse().unwrap()
}

fn cluster(hosts: usize) -> Cluster {
    Cluster {
        name: "test".into(),
        definition: DefinitionId([7; 16]),
        slices: SLICES,
        hosts: (0..hosts).map(|i| (name(i), 1)).collect(),
        services: ["default".to_string()].into(),
    }
}

impl World {
    fn new(hosts: usize, seed: u64) -> Self {
        let host = |_| Host {
            node: None,
            kernel: Kernel::default(),
            kernel_free: Time(0),
            life: 0,
            paused_until: Time(0),
            stopped: false,
            wake: None,
            connections: Claims::new(),
            lists: Lists::default(),
        };
        World {
            now: Time::from_millis(1000),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            hosts: (0..hosts).map(host).collect(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            count: 0,
            loss_percent: 0,
            kernel_trouble: false,
            cluster: cluster(hosts),
            partition: Partition::Serve,
            no_gaps: false,
            connections_stay: false,
            dies_after: None,
            memory: BTreeMap::new(),
        }
    }

    fn later(&mut self, delay: Duration, host: usize, event: Event) {
        self.count += 1;
        self.events.insert(self.count, event);
        self.queue.push(Reverse((self.now + delay, self.count, host, self.hosts[host].life)));
    }

    fn start(&mut self, i: usize) {
        self.hosts[i].life += 1;
        let incarnation = self.hosts[i].life * 1000;
        let node = Node::with_partition(
            &name(i),
            self.cluster.clone(),
            TIMING,
            self.partition,
            incarnation,
            self.now,
        );
        self.hosts[i].node = Some(node);
        self.hosts[i].stopped = false;
        self.hosts[i].wake = None;
        self.carry_out(i);
    }

    /// The agent dies; its kernel goes on by itself.
    fn kill(&mut self, i: usize) {
        self.hosts[i].node = None;
        self.hosts[i].life += 1;
    }

    fn pause(&mut self, i: usize, ms: u64) {
        self.hosts[i].paused_until = self.now + Duration::from_millis(ms);
    }

    fn feed(&mut self, i: usize, input: Input) {
        let now = self.now;
        if let Some(node) = &mut self.hosts[i].node {
            node.handle(now, input);
            self.carry_out(i);
        }
    }

    fn carry_out(&mut self, i: usize) {
        let mut sent = false;
        while let Some(action) = self.hosts[i].node.as_mut().and_then(Node::poll_action) {
            match &mut self.dies_after {
                Some((host, 0)) if *host == i => {
                    self.dies_after = None;
                    return self.kill(i);
                }
                Some((host, left)) if *host == i => *left -= 1,
                _ => {}
            }
            match action {
                Action::Publish { report, to } => {
                    sent = true;
                    self.spread(i, &report, &to);
                }
                Action::Apply(change) => {
                    let elsewhere = self.hosts[i].lists.of(&change.slices);
                    self.kernel_work(i, Kernelwork::Apply(change, elsewhere));
                }
                Action::Ask { host, round, slices } => self.ask(i, index(&host), round, slices),
                Action::Renew { lease_until } => self.kernel_work(i, Kernelwork::Renew(lease_until)),
                Action::Remember(Some(memory)) => drop(self.memory.insert(i, memory)),
                Action::Remember(None) => drop(self.memory.remove(&i)),
                Action::Note(_) | Action::Changed(_) => {}
                Action::Stop => self.hosts[i].stopped = true,
            }
        }
        if sent {
            let at = self.now;
            self.feed(i, Input::Sent { at });
        }
        if let Some(node) = &self.hosts[i].node {
            let at = node.next_deadline().max(self.now + Duration::from_millis(1));
            if self.hosts[i].wake != Some(at) {
                self.hosts[i].wake = Some(at);
                self.later(at.since(self.now), i, Event::Wake);
            }
        }
    }

    fn spread(&mut self, from: usize, report: &Report, to: &Recipients) {
        for other in (0..self.hosts.len()).filter(|&o| o != from) {
            let direct = match to {
                Recipients::One(name) => index(name) == other,
                Recipients::All => true,
            };
            for (wanted, slowest) in [(true, 200), (direct, 8)] {
                let copies = if self.dice.roll(20) == 0 { 2 } else { 1 };
                for _ in 0..copies {
                    let delay = Duration::from_millis(self.dice.roll(slowest));
                    if wanted && self.dice.roll(100) >= self.loss_percent {
                        self.later(delay, other, Event::Deliver(Arc::new(report.clone())));
                    }
                }
            }
        }
    }

    fn kernel_work(&mut self, i: usize, work: Kernelwork) {
        let slow = if self.kernel_trouble { 60 } else { 3 };
        let takes = Duration::from_millis(self.dice.roll(slow));
        let done = self.hosts[i].kernel_free.max(self.now) + takes;
        self.hosts[i].kernel_free = done;
        let delay = done.since(self.now);
        self.later(delay, i, Event::Kernel(work));
    }

    fn commit(&mut self, i: usize, work: Kernelwork) {
        match work {
            Kernelwork::Renew(until) => {
                self.hosts[i].kernel.lease_until = until;
                self.feed(i, Input::Renewed { until });
            }
            Kernelwork::Apply(change, elsewhere) => {
                let refused = self.kernel_trouble && self.dice.roll(10) == 0;
                if !refused {
                    self.hosts[i].kernel.slices = change.slices;
                    self.hosts[i].kernel.elsewhere = elsewhere;
                    self.hosts[i].kernel.lease_until = change.lease_until.unwrap_or_default();
                }
                self.feed(i, Input::Committed { change: change.id, ok: !refused });
                self.later(Duration::from_millis(30), i, Event::Look);
            }
        }
    }

    fn run(&mut self, ms: u64, story: &str) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(&Reverse((at, id, host, life))) = self.queue.peek() {
            if at > end {
                break;
            }
            self.queue.pop();
            let Some(event) = self.events.remove(&id) else { continue };
            let h = &self.hosts[host];
            // A kernel commits what a dead agent sent just before it died; nothing else of it goes on.
            if h.life != life && !matches!(event, Event::Kernel(_) | Event::Deliver(_)) {
                continue;
            }
            if h.paused_until > at && !matches!(event, Event::Kernel(_)) {
                self.events.insert(id, event);
                self.queue.push(Reverse((self.hosts[host].paused_until, id, host, life)));
                continue;
            }
            self.now = at;
            match event {
                Event::Wake => {
                    // A wake that an earlier or later one has replaced is no wake, unless a pause moved it.
                    if self.hosts[host].wake.is_some_and(|wake| wake <= at) {
                        self.hosts[host].wake = None;
                        self.feed(host, Input::Frame);
                    }
                }
                Event::Deliver(report) => self.feed(host, Input::Heard(report)),
                Event::Kernel(work) => self.commit(host, work),
                Event::Look => {
                    let look = Look { at, alive: self.hosts[host].connections.clone(), ..Look::default() };
                    self.feed(host, Input::Looked(look));
                }
                Event::Asked { by, round, slices } => self.list(host, by, round, &slices),
                Event::Listed { by, round, slices, list } => self.listed(host, by, round, slices, list),
            }
            self.no_two_owners(story);
            self.connect();
            self.no_living_connection_is_reset(story);
            let gap = if self.no_gaps { self.uncovered() } else { 0 };
            assert_eq!(gap, 0, "{story}: at {at:?} nobody serves some slices");
        }
        self.now = end;
    }

    fn kernel(&self, i: usize) -> Option<&Holding> {
        let kernel = &self.hosts[i].kernel;
        kernel.slices.get("default").filter(|_| kernel.lease_until > self.now)
    }

    /// Whose new flows a host serves: what it accepts, and what others relay to it and it accepts then.
    fn accepting(&self, i: usize) -> SliceSet {
        let Some(held) = self.kernel(i) else { return SliceSet::new() };
        let relayed = (0..self.hosts.len()).filter_map(|o| self.kernel(o)?.relayed.get(&name(i)));
        let relayed = relayed.fold(SliceSet::new(), |all, slices| all.or(slices));
        held.accepted.or(&relayed.and(&held.incoming))
    }

    fn no_two_owners(&self, story: &str) {
        let mut all = SliceSet::new();
        for i in 0..self.hosts.len() {
            let mine = self.accepting(i);
            let twice = all.and(&mine);
            assert!(twice.is_empty(), "{story}: at {:?} slices {twice:?} have two owners", self.now);
            all = all.or(&mine);
        }
    }

    /// Clients open connections wherever they are served.
    fn connect(&mut self) {
        for i in 0..if self.connections_stay { self.hosts.len() } else { 0 } {
            let served = self.accepting(i);
            let known = self.hosts[i].connections.entry("default".into()).or_default();
            *known = known.or(&served);
            self.hosts[i].lists.serves(served);
        }
    }

    /// A host resets what it does not know only where no other host may know it.
    fn no_living_connection_is_reset(&self, story: &str) {
        for i in 0..self.hosts.len() {
            let (Some(held), Some(alive)) = (self.kernel(i), self.hosts[i].connections.get("default")) else {
                continue;
            };
            for slice in alive.and(&held.connections()).iter() {
                let resets = |o: &usize| self.resets(*o, i, slice);
                let by = (0..self.hosts.len()).filter(|&o| o != i).find(resets);
                assert_eq!(by, None, "{story}: at {:?} ns{i} has connections of slice {slice}", self.now);
            }
        }
    }

    fn uncovered(&self) -> u32 {
        let all = (0..self.hosts.len()).fold(SliceSet::new(), |all, i| all.or(&self.accepting(i)));
        SLICES - all.len()
    }
}

fn node(world: &World, i: usize) -> &Node {
    world.hosts[i].node.as_ref().unwrap()
}

fn settled(hosts: usize) -> World {
    let mut world = World::new(hosts, 1);
    (0..hosts).for_each(|i| world.start(i));
    world.run(1500, "start");
    assert_eq!(world.uncovered(), 0);
    world
}

#[test]
fn a_cluster_that_starts_together_serves_as_soon_as_all_have_been_heard() {
    let mut world = World::new(4, 1);
    (0..4).for_each(|i| world.start(i));
    world.run(600, "start");
    assert_eq!(world.uncovered(), 0);
    for i in 0..4 {
        assert_eq!(world.accepting(i).len(), SLICES / 4);
    }
}

#[test]
fn a_host_alone_waits_out_an_expiry_and_then_serves_everything() {
    let mut world = World::new(3, 1);
    world.start(0);
    world.run(TIMING.expiry().as_millis() as u64 * 2 - 5, "alone");
    assert_eq!(world.uncovered(), SLICES);
    world.run(300, "alone");
    assert_eq!(world.uncovered(), 0);
}

/// Whoever sleeps until the next deadline must not find it in the past again and again.
#[test]
fn a_host_that_receives_no_frame_has_its_next_deadline_in_the_future() {
    let mut world = settled(2);
    let now = world.now;
    let report = node(&world, 1).report();
    let node = world.hosts[0].node.as_mut().unwrap();
    for ms in (0..700).step_by(10) {
        let at = now + Duration::from_millis(ms);
        if ms % 100 == 0 {
            let seq = report.stamp.seq + 1 + ms;
            let stamp = Stamp { seq, ..report.stamp };
            node.handle(at, Input::Heard(Arc::new(Report { stamp, ..report.clone() })));
        }
        node.handle(at, Input::Tick);
        assert!(node.next_deadline() > at, "{ms} ms after the last frame");
        while node.poll_action().is_some() {}
    }
}

#[test]
fn the_only_configured_host_serves_without_anyone_to_send_to() {
    let mut world = settled(1);
    world.run(5000, "one");
    assert_eq!(world.uncovered(), 0);
}

#[test]
fn a_dead_hosts_share_is_divided_after_the_expiry_and_not_before() {
    let mut world = settled(4);
    world.kill(2);
    world.run(TIMING.lease.as_millis() as u64 - 250, "death");
    assert_eq!(world.accepting(0).len(), SLICES / 4);
    world.run(600, "death");
    assert_eq!(world.uncovered(), 0);
}

#[test]
fn a_returning_host_gets_its_share_without_an_overlap() {
    let mut world = settled(4);
    world.kill(2);
    world.run(3000, "death");
    world.start(2);
    world.run(1500, "return");
    assert_eq!((world.uncovered(), world.accepting(2).len()), (0, SLICES / 4));
}

#[test]
fn a_leaving_host_stops_only_when_the_others_have_taken_over() {
    let mut world = settled(3);
    world.feed(1, Input::Leave);
    world.run(600, "leave");
    assert!(world.hosts[1].stopped);
    assert_eq!((world.uncovered(), world.accepting(1).len()), (0, 0));
}

#[test]
fn a_stopped_host_is_silent_and_wakes_as_a_newcomer() {
    let mut world = settled(3);
    world.pause(0, 4000);
    world.run(1000, "pause");
    assert_eq!(world.accepting(0).len(), 0);
    world.run(2000, "pause");
    assert_eq!(world.uncovered(), 0);
    let before = world.hosts[0].node.as_ref().unwrap().incarnation();
    world.run(3000, "wake");
    assert_eq!(world.hosts[0].node.as_ref().unwrap().incarnation(), before + 1);
    assert!(world.accepting(0).len() >= SLICES / 3);
}

#[test]
fn a_host_without_its_link_holds_nothing_and_comes_back_as_a_newcomer() {
    let mut world = settled(3);
    world.feed(1, Input::Link { up: false });
    world.run(1500, "link down");
    assert_eq!((world.uncovered(), world.accepting(1).len()), (0, 0));
    let status = world.hosts[1].node.as_ref().unwrap().status(world.now);
    assert_eq!(status.hold, Some(Hold::NoLink));
    world.feed(1, Input::Link { up: true });
    world.run(1500, "link up");
    assert_eq!(world.uncovered(), 0);
    assert!(world.accepting(1).len() >= SLICES / 3);
}

#[test]
fn a_minority_holds_nothing_and_says_so() {
    let mut world = World::new(3, 1);
    world.partition = Partition::Majority;
    (0..3).for_each(|i| world.start(i));
    world.run(2500, "start");
    assert_eq!(world.uncovered(), 0);
    world.kill(1);
    world.run(2500, "one death");
    assert_eq!(world.uncovered(), 0);
    world.kill(2);
    world.run(2500, "two deaths");
    assert_eq!(world.uncovered(), SLICES);
    let status = world.hosts[0].node.as_ref().unwrap().status(world.now);
    assert_eq!(status.hold, Some(Hold::Minority { missing: [name(1), name(2)].into() }));
    world.start(1);
    world.run(2500, "return");
    assert_eq!(world.uncovered(), 0);
}

#[test]
fn a_host_with_another_definition_holds_back_and_says_so() {
    let mut world = settled(3);
    world.kill(2);
    world.run(2000, "death");
    world.cluster.definition = DefinitionId([9; 16]);
    world.start(2);
    world.run(3000, "other definition");
    let status = world.hosts[2].node.as_ref().unwrap().status(world.now);
    assert_eq!(status.hold, Some(Hold::Definition { hosts: [name(0), name(1)].into() }));
    assert_eq!((world.uncovered(), world.accepting(2).len()), (0, 0));
    let seen = world.hosts[0].node.as_ref().unwrap().status(world.now);
    assert!(!seen.hosts[2].same_definition && seen.hosts[2].alive);
}

#[test]
fn where_all_start_together_the_odd_definition_out_holds_back() {
    let mut world = World::new(4, 3);
    (0..3).for_each(|i| world.start(i));
    world.cluster.definition = DefinitionId([9; 16]);
    world.start(3);
    world.run(3000, "start");
    assert_eq!((world.uncovered(), world.accepting(3).len()), (0, 0));
}

#[test]
fn a_host_that_hears_only_strangers_holds_back() {
    let mut world = World::new(2, 1);
    world.start(0);
    for _ in 0..40 {
        world.run(100, "strangers");
        world.feed(0, Input::Stranger { host: name(1) });
    }
    let status = world.hosts[0].node.as_ref().unwrap().status(world.now);
    assert_eq!(status.hold, Some(Hold::Secret { hosts: [name(1)].into() }));
    assert_eq!(world.uncovered(), SLICES);
    world.run(2000, "silence");
    assert_eq!(world.uncovered(), 0);
}

#[test]
fn an_agent_whose_clock_went_back_starts_a_later_life() {
    let mut world = settled(2);
    world.hosts[1].life += 5;
    world.kill(1);
    world.start(1);
    world.run(3000, "life 7000");
    world.hosts[1].life = 2;
    world.start(1);
    world.run(200, "life 3000");
    let stamp = Stamp { incarnation: 7000, seq: 9 };
    let old = Report::plain(name(1), stamp, world.cluster.definition, HostState::Serving);
    world.feed(1, Input::Heard(Arc::new(old)));
    assert!(world.hosts[1].node.as_ref().unwrap().incarnation() > 7000);
    world.run(3000, "life 7001");
    assert_eq!(world.uncovered(), 0);
}

/// Faults for a while, then peace: never two owners, and in the end everyone is served.
fn story(seed: u64) {
    let hosts = 3 + (seed % 5) as usize;
    let mut world = World::new(hosts, seed);
    let story = format!("seed {seed}, {hosts} hosts");
    (0..hosts).for_each(|i| world.start(i));
    world.loss_percent = [0, 5, 20][world.dice.roll(3) as usize];
    world.kernel_trouble = world.dice.roll(2) == 0;
    for _ in 0..25 {
        let ms = world.dice.roll(900);
        world.run(ms, &story);
        let i = world.dice.roll(hosts as u64) as usize;
        match world.dice.roll(4) {
            0 => world.kill(i),
            1 if world.hosts[i].node.is_none() || world.hosts[i].stopped => world.start(i),
            2 => {
                let ms = world.dice.roll(2500);
                world.pause(i, ms);
            }
            3 if world.dice.roll(4) == 0 => world.feed(i, Input::Leave),
            _ => {}
        }
    }
    world.loss_percent = 0;
    world.kernel_trouble = false;
    world.run(3000, &story);
    for i in 0..hosts {
        if world.hosts[i].node.is_none() || world.hosts[i].stopped {
            world.start(i);
        }
    }
    world.run(4000, &story);
    assert_eq!(world.uncovered(), 0, "{story}: not healed");
}

#[test]
fn stories() {
    (0..300).for_each(story);
}
