//! What an operator does: nothing is lost, nothing is served twice, no connection breaks.

use super::*;

fn owned(world: &World, i: usize) -> u32 {
    world.accepting(i).len()
}

/// A cluster at rest; from now on every slice must be served at every instant, and connections live wherever
/// they were opened.
fn watched(hosts: usize) -> World {
    let mut world = settled(hosts);
    world.connections_stay = true;
    world.no_gaps = true;
    world
}

#[test]
fn a_drained_host_keeps_its_connections_and_nobody_misses_a_beat() {
    let mut world = watched(4);
    world.feed(1, Input::Drain { service: None });
    world.run(3000, "drain");
    assert_eq!(owned(&world, 1), 0);
    assert_eq!(node(&world, 1).state(), HostState::Draining);
    let status = node(&world, 1).status(world.now);
    assert_eq!(status.services[0].moving, 8);
    // The others are silent to what they do not know.
    let shared: u32 = [0, 2, 3].iter().map(|&i| world.kernel(i).unwrap().shared.len()).sum();
    assert_eq!(shared, 8);
    // The last connection ends.
    world.connections_stay = false;
    world.hosts[1].connections.clear();
    let look = Look { at: world.now, ..Look::default() };
    world.feed(1, Input::Looked(look));
    world.run(1000, "drained");
    assert_eq!(node(&world, 1).status(world.now).services[0].moving, 0);
    assert!((0..4).all(|i| world.kernel(i).unwrap().shared.is_empty()));
    world.feed(1, Input::Resume { service: None });
    world.run(3000, "resume");
    assert_eq!(owned(&world, 1), 8);
}

#[test]
fn weights_leaves_and_returns_lose_nothing() {
    for seed in 1..=20 {
        let mut world = watched(4);
        world.dice = Dice(seed * 77);
        world.feed(2, Input::Weight(3));
        world.run(3000, "weight");
        assert_eq!(owned(&world, 2), 16);
        world.feed(0, Input::Leave);
        world.run(3000, "leave");
        assert_eq!(owned(&world, 0), 0);
        // Connections live there, so it stays.
        assert!(!world.hosts[0].stopped);
        world.feed(0, Input::Resume { service: None });
        world.run(3000, "resume");
        assert_eq!(node(&world, 0).state(), HostState::Serving);
        world.feed(0, Input::Leave);
        world.run(3000, "leave");
        world.hosts[0].connections.clear();
        world.feed(0, Input::Looked(Look { at: world.now, ..Look::default() }));
        world.run(1000, "leave");
        assert!(world.hosts[0].stopped);
        world.kill(0);
        world.run(100, "away");
        world.start(0);
        world.run(3000, "join");
        assert!(owned(&world, 0) > 0);
    }
}

#[test]
fn a_slice_is_closed_after_the_drain_timeout_whatever_lives_there() {
    let mut world = watched(2);
    world.feed(1, Input::Leave);
    world.run(590_000, "leave");
    assert!(!world.hosts[1].stopped);
    world.run(15_000, "timeout");
    assert!(world.hosts[1].stopped);
}

#[test]
fn a_definition_comes_into_force_when_all_have_it() {
    let mut world = watched(3);
    let mut cluster = world.cluster.clone();
    cluster.definition = DefinitionId([8; 16]);
    cluster.hosts.insert(name(0), 2);
    let follow = Follow { services: ["default".to_string()].into(), drain_timeout: DRAIN_TIMEOUT };
    let staged = Staged { cluster, follow };
    for i in [0, 1] {
        world.feed(i, Input::Stage(Box::new(staged.clone())));
        world.run(1000, "staged");
        let waits: Vec<String> = node(&world, i).staged().unwrap().1.into_iter().collect();
        assert!(waits.contains(&name(2)), "{waits:?}");
    }
    assert_eq!(owned(&world, 0), 11);
    world.feed(2, Input::Stage(Box::new(staged)));
    world.run(3000, "in force");
    assert_eq!((owned(&world, 0), owned(&world, 1), owned(&world, 2)), (16, 8, 8));
    assert!((0..3).all(|i| node(&world, i).staged().is_none() && node(&world, i).agreed()));
}

#[test]
fn a_host_that_the_new_definition_does_not_have_hands_over() {
    let mut world = watched(3);
    let mut cluster = world.cluster.clone();
    cluster.definition = DefinitionId([8; 16]);
    cluster.hosts.remove(&name(1));
    let follow = Follow { services: ["default".to_string()].into(), drain_timeout: DRAIN_TIMEOUT };
    let staged = Staged { cluster, follow };
    (0..3).for_each(|i| world.feed(i, Input::Stage(Box::new(staged.clone()))));
    world.run(3000, "in force");
    assert_eq!((owned(&world, 0), owned(&world, 1), owned(&world, 2)), (16, 0, 16));
    world.hosts[1].connections.clear();
    world.run(1000, "gone");
    world.feed(1, Input::Looked(Look { at: world.now, ..Look::default() }));
    world.run(1000, "gone");
    assert!(world.hosts[1].stopped);
    assert!(node(&world, 0).agreed());
}

impl World {
    /// The agent dies and a new one starts, on the kernel and the memory that are there.
    pub(super) fn restart(&mut self, i: usize, after_ms: u64) {
        self.kill(i);
        self.run(after_ms, "between agents");
        if self.kernel(i).is_none() {
            // Connections die with the lease: others answer for them.
            self.hosts[i].connections.clear();
        }
        let kernel = &self.hosts[i].kernel;
        let start = Start {
            host: name(i),
            mac: [0; 6],
            cluster: self.cluster.clone(),
            timing: TIMING,
            partition: self.partition,
            follow: Follow { services: ["default".to_string()].into(), drain_timeout: DRAIN_TIMEOUT },
            incarnation: self.hosts[i].life * 1000,
            leftover: kernel.slices.clone(),
            lease_until: Some(kernel.lease_until),
            memory: self.memory.get(&i).cloned(),
        };
        self.hosts[i].node = Some(Node::start(start, self.now));
        self.hosts[i].wake = None;
        self.carry_out(i);
    }
}

#[test]
fn an_agent_that_is_started_anew_in_time_goes_on() {
    let mut world = watched(4);
    let before = world.accepting(1);
    let incarnation = node(&world, 1).incarnation();
    for round in 0..5 {
        world.restart(1, 50 * (round + 1));
        world.run(2000, "restarted");
        assert_eq!(world.accepting(1), before);
        assert_eq!(node(&world, 1).incarnation(), incarnation);
        assert!((0..4).all(|i| node(&world, i).agreed()));
    }
}

#[test]
fn a_drained_host_comes_back_drained() {
    let mut world = watched(3);
    world.feed(1, Input::Drain { service: None });
    world.feed(1, Input::Weight(7));
    world.run(3000, "drain");
    world.restart(1, 100);
    world.run(2000, "restarted");
    assert_eq!(node(&world, 1).state(), HostState::Draining);
    assert_eq!(node(&world, 1).status(world.now).hosts[1].weight, 7);
}

#[test]
fn an_agent_that_is_started_anew_too_late_is_a_newcomer() {
    let mut world = settled(3);
    world.connections_stay = true;
    let incarnation = node(&world, 1).incarnation();
    world.restart(1, 3000);
    world.run(3000, "restarted");
    assert!(node(&world, 1).incarnation() > incarnation);
    assert_eq!(world.uncovered(), 0);
}

/// Where the others died with its last agent, it takes over like anybody who has lost them.
#[test]
fn an_agent_that_goes_on_and_hears_nobody_takes_over_after_an_expiry() {
    let mut world = settled(3);
    world.kill(0);
    world.kill(2);
    let incarnation = node(&world, 1).incarnation();
    world.restart(1, 100);
    let share = owned(&world, 1);
    world.run(800, "alone");
    assert_eq!(owned(&world, 1), share);
    world.run(300, "alone");
    assert_eq!((owned(&world, 1), node(&world, 1).incarnation()), (SLICES, incarnation));
}

/// A move, during which the agent of one host dies after so many actions; whether it came to that.
fn dies_during_a_move(host: usize, actions: u32, comes_back: bool) -> bool {
    let mut world = settled(4);
    world.connections_stay = true;
    world.dies_after = Some((host, actions));
    let story = format!("ns{host} dies after {actions} actions, comes back: {comes_back}");
    world.feed(1, Input::Drain { service: None });
    world.run(400, &story);
    let died = world.dies_after.take().is_none();
    if died && comes_back {
        let after_ms = u64::from(actions * 13 % 90);
        world.restart(host, after_ms);
    }
    // The usual bound: three expiries and six heartbeats.
    world.run(3 * TIMING.expiry().as_millis() as u64 + 600, &story);
    assert_eq!(world.uncovered(), 0, "{story}");
    let alive = (0..4).filter_map(|i| world.hosts[i].node.as_ref());
    assert!(alive.into_iter().all(Node::agreed), "{story}");
    died
}

/// At every action of the core: of the host that gives, and of one that takes.
#[test]
fn an_agent_may_die_at_any_step_of_a_move() {
    for (host, comes_back) in [(1, false), (1, true), (2, false), (2, true)] {
        let steps = (0..200).take_while(|&actions| dies_during_a_move(host, actions, comes_back)).count();
        assert!((10..200).contains(&steps), "{steps} steps of ns{host}");
    }
}
