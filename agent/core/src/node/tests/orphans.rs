//! Owners that die while others have connections of their slices.

use super::*;

/// A connection, in a world where each slice has one client: on which host, of which slice, and the how many-th
/// it is there.
pub(super) type Elsewhere = BTreeSet<(usize, u32, u32)>;

/// What a host knows of its own connections and of others'.
#[derive(Default)]
pub(super) struct Lists {
    of: BTreeMap<(usize, u32), Elsewhere>,
    began: BTreeMap<u32, u32>,
    served: SliceSet,
}

impl Lists {
    /// Everything that is listed of the slices of which a host is the heir.
    pub fn of(&self, slices: &Holdings) -> Elsewhere {
        let listed = slices.get("default").map(|held| held.listed.clone()).unwrap_or_default();
        let wanted =
            |host: usize, slice| listed.get(&name(host)).is_some_and(|slices| slices.contains(slice));
        let lists = self.of.iter().filter(|((host, slice), _)| wanted(*host, *slice));
        lists.flat_map(|(_, list)| list).copied().collect()
    }

    /// Whoever begins to serve a slice gets another connection of it.
    pub fn serves(&mut self, now: SliceSet) {
        for slice in now.minus(&self.served).iter() {
            *self.began.entry(slice).or_default() += 1;
        }
        self.served = now;
    }
}

impl World {
    /// Letters are lost, late and doubled as reports are.
    fn letter(&mut self, to: usize, event: impl Fn() -> super::Event) {
        for _ in 0..1 + u64::from(self.dice.roll(10) == 0) {
            let delay = Duration::from_millis(if self.dice.roll(5) == 0 { 400 } else { 8 });
            if self.dice.roll(100) >= self.loss_percent.max(10) {
                self.later(delay, to, event());
            }
        }
    }

    pub(super) fn ask(&mut self, by: usize, of: usize, round: Stamp, slices: Claims) {
        self.letter(of, || super::Event::Asked { by, round, slices: slices.clone() });
    }

    pub(super) fn list(&mut self, i: usize, to: usize, round: Stamp, wanted: &Claims) {
        let Some(node) = &self.hosts[i].node else { return };
        let slices = node.listable(wanted, self.now);
        let none = SliceSet::new();
        let alive = self.hosts[i].connections.get("default").unwrap_or(&none);
        let listed = slices.get("default").unwrap_or(&none).and(alive);
        let began = &self.hosts[i].lists.began;
        let list: Elsewhere =
            listed.iter().map(|s| (i, s, began.get(&s).copied().unwrap_or_default())).collect();
        self.letter(to, || super::Event::Listed { by: i, round, slices: slices.clone(), list: list.clone() });
    }

    pub(super) fn listed(&mut self, i: usize, by: usize, round: Stamp, slices: Claims, list: Elsewhere) {
        for slice in slices.get("default").into_iter().flat_map(SliceSet::iter) {
            let one = list.iter().filter(|(_, listed, _)| *listed == slice).copied().collect();
            self.hosts[i].lists.of.insert((by, slice), one);
        }
        self.feed(i, Input::Listed { host: name(by), round, slices });
    }

    /// Whether `owner` resets the connection of `slice` that lives on `host`.
    pub(super) fn resets(&self, owner: usize, host: usize, slice: u32) -> bool {
        let standing = self.kernel(owner).map(|held| held.standing(slice));
        let number = self.hosts[host].lists.began.get(&slice).copied().unwrap_or_default();
        match standing {
            Some(Standing::Own) => true,
            Some(Standing::Heir) => !self.hosts[owner].kernel.elsewhere.contains(&(host, slice, number)),
            _ => false,
        }
    }

    /// Slices whose owner answers connections of `dead` with a reset.
    fn answered_for(&self, dead: usize) -> SliceSet {
        let none = SliceSet::new();
        let orphans = self.hosts[dead].connections.get("default").unwrap_or(&none);
        let owners = |slice: u32| (0..self.hosts.len()).any(|owner| self.resets(owner, dead, slice));
        orphans.iter().filter(|&slice| owners(slice)).collect()
    }
}

fn crowded(hosts: usize, seed: u64) -> World {
    let mut world = settled(hosts);
    world.dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    world.connections_stay = true;
    world.run(100, "serve");
    world
}

/// ns1 has connections only, ns2 has died, ns0 is its heir.
fn bereaved() -> World {
    let mut world = crowded(3, 1);
    world.feed(1, Input::Drain { service: None });
    world.run(3000, "drain");
    world.kill(2);
    world.run(3000, "death");
    world
}

#[test]
fn clients_of_a_dead_host_are_answered_and_nobody_elses() {
    for seed in 1..=20 {
        let mut world = crowded(4, seed);
        world.feed(1, Input::Drain { service: None });
        world.run(3000, "drain");
        world.kill(2);
        world.run(3000, "death");
        let orphans = world.hosts[2].connections["default"].clone();
        assert!(orphans.len() > SLICES / 4, "{orphans:?}");
        assert_eq!(world.answered_for(2), orphans, "seed {seed}");
        // What the lists named is of no use any more when those connections have ended.
        world.connections_stay = false;
        world.hosts[1].connections.clear();
        world.feed(1, Input::Looked(Look { at: world.now, ..Look::default() }));
        world.run(1000, "end");
        let heirs: u32 = [0, 3].iter().map(|&i| world.kernel(i).unwrap().heir.len()).sum();
        assert_eq!(heirs, 0);
        let asks = |i: usize| node(&world, i).orphans.deadline() != Some(node(&world, i).orphans.until());
        assert!(![0, 3].into_iter().any(asks));
    }
}

/// The heir is drained too, and dies, and the one that was drained first takes its slices back.
#[test]
fn lists_are_asked_for_anew_wherever_slices_go() {
    for seed in 1..=60 {
        let mut world = crowded(4, seed);
        let orders = |drain: bool| match drain {
            true => Input::Drain { service: None },
            false => Input::Resume { service: None },
        };
        let mut drained = [false; 4];
        for step in 0..12 {
            let host = [0, 1, 3][world.dice.roll(3) as usize];
            drained[host] = !drained[host];
            if drained[0] && drained[1] && drained[3] {
                drained[host] = false;
            }
            world.feed(host, orders(drained[host]));
            let pause = 200 + world.dice.roll(1500);
            world.run(pause, &format!("seed {seed} step {step}"));
            if step == 4 {
                world.kill(2);
            }
        }
        world.run(5000, "healed");
        assert_eq!(world.uncovered(), 0);
        assert_eq!(world.answered_for(2), world.hosts[2].connections["default"], "seed {seed}");
    }
}

/// What was asked for before a slice was given up is no answer after it has come back.
#[test]
fn an_answer_to_an_earlier_round_is_none() {
    let mut world = bereaved();
    let before = node(&world, 0).list_round();
    let heir = world.kernel(0).unwrap().heir.clone();
    assert!(!heir.is_empty());
    world.feed(1, Input::Resume { service: None });
    world.run(3000, "resume");
    world.feed(1, Input::Drain { service: None });
    world.run(3000, "drain");
    let node = world.hosts[0].node.as_mut().unwrap();
    node.orphans.listed.clear();
    let now = node.list_round();
    let slices = Claims::from([("default".into(), heir.clone())]);
    for (round, listed) in [(before, 0), (now, heir.len())] {
        node.take_list(name(1), round, &slices);
        assert_eq!(node.heir("default", &heir).len(), listed, "{round:?} of {now:?}");
    }
}

#[test]
fn an_agent_that_goes_on_remembers_the_dead() {
    let mut world = bereaved();
    let orphans = world.hosts[2].connections["default"].clone();
    assert_eq!(world.answered_for(2), orphans);
    let before = node(&world, 0).incarnation();
    world.restart(0, 100);
    world.run(2000, "restarted");
    assert_eq!(node(&world, 0).incarnation(), before);
    assert_eq!(world.answered_for(2), orphans);
}

/// The death of a host is noticed late where one's own lease ran out with it.
#[test]
fn whoever_begins_a_new_life_remembers_whom_it_has_not_heard_since() {
    for seed in 1..=20 {
        let mut world = crowded(3, seed);
        world.feed(1, Input::Drain { service: None });
        world.run(3000, "drain");
        world.kill(2);
        world.pause(0, 900);
        world.run(6000, "death");
        assert_eq!(world.uncovered(), 0);
        assert_eq!(world.answered_for(2), world.hosts[2].connections["default"], "seed {seed}");
    }
}

/// What was listed by other ports is no list.
#[test]
fn lists_do_not_outlive_the_definition_that_they_were_made_by() {
    let mut world = bereaved();
    let before = node(&world, 0).list_round();
    assert!(!world.kernel(0).unwrap().heir.is_empty());
    let mut cluster = world.cluster.clone();
    cluster.definition = DefinitionId([9; 16]);
    let follow = Follow { services: ["default".to_string()].into(), drain_timeout: DRAIN_TIMEOUT };
    for i in 0..2 {
        let (cluster, follow) = (cluster.clone(), follow.clone());
        world.feed(i, Input::Stage(Box::new(Staged { cluster, follow })));
    }
    world.run(3000, "reload");
    assert_eq!(node(&world, 0).cluster.definition, cluster.definition);
    assert!(!world.kernel(0).unwrap().heir.is_empty());
    assert_ne!(node(&world, 0).list_round(), before, "heir by lists that the old definition made");
}

#[test]
fn orphans_are_forgotten_in_time() {
    let mut world = settled(3);
    world.kill(2);
    world.run(2000, "death");
    assert!(!node(&world, 0).orphans.slices().is_empty());
    world.run(DRAIN_TIMEOUT.as_millis() as u64 + 5000, "quiet");
    assert!(node(&world, 0).orphans.slices().is_empty());
}

/// Numbers of rounds go by those of reports, of which a new life begins anew.
#[test]
fn no_round_of_a_life_is_as_great_as_where_the_next_agent_begins() {
    let mut world = bereaved();
    let now = world.now;
    let node = world.hosts[0].node.as_mut().unwrap();
    // Two hours of heartbeats, then something is given up.
    let slices = Claims::from([("default".into(), SliceSet::from_iter([1]))]);
    node.orphans.given_up(&slices, 72_000);
    let lives = node.incarnation();
    node.begin(now, lives + 1);
    world.carry_out(0);
    world.run(5000, "new life");
    let round = self::node(&world, 0).list_round();
    let limit = self::node(&world, 0).remembered.as_ref().unwrap().seq_limit;
    assert!(round.seq <= limit, "round {round:?}, but the next agent begins after {limit}");
}

/// A host that can not list a slice (more than 3,000 connections) is asked all the same.
#[test]
fn who_does_not_list_is_asked_ever_less() {
    let mut world = bereaved();
    let now = world.now;
    let node = world.hosts[0].node.as_mut().unwrap();
    node.orphans.listed.clear();
    node.moves_stale = true;
    let mut asks = 0;
    for tick in 1..=600u64 {
        // A peer that lives is not simulated here: only the deadlines of asks.
        let at = now + Duration::from_millis(100 * tick);
        node.ask_for_lists(at);
        asks += node.actions.drain(..).filter(|a| matches!(a, Action::Ask { .. })).count();
    }
    assert!(asks <= 65, "{asks} asks in a minute, each for a look at all connections");
    // An answer that is on its way is none when something was given up; the rest is asked for anew at once.
    let one = Claims::from([("default".into(), node.stays("default").iter().take(1).collect())]);
    node.orphans.given_up(&one, 1_000_000);
    node.ask_for_lists(now + Duration::from_millis(60_001));
    let asked = node.actions.drain(..).any(|a| matches!(a, Action::Ask { .. }));
    assert!(asked);
}
