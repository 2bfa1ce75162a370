//! Stories of owners that die while others have connections of their slices.

mod common;

use onemac_core::node::{Input, Mutation, Partition};
use onemac_sim::check::{Checks, Violation};
use onemac_sim::clock::MS;
use onemac_sim::config::Config;
use onemac_sim::fault::{Fault, Life, Order, Planned};
use onemac_sim::mask::Mask;
use onemac_sim::run::{answering_bound, is_whole};
use onemac_sim::world::World;

use self::common::{at, config, violations};

/// Connections stay until their host dies.
fn faithful(hosts: usize) -> Config {
    Config { connections_end: 0, ..config(hosts, Partition::Serve) }
}

fn order(ms: u64, host: usize, order: Order) -> Planned {
    at(ms, Fault::Order { host, order })
}

fn resets(violations: &[Violation]) -> usize {
    violations.iter().filter(|v| v.property == "no living connection is reset").count()
}

fn passes(world: &mut World, ms: u64) {
    assert_eq!(world.run(world.now + ms * MS, |_| false), Ok(false));
}

/// Slices of which the connections that lived on `dead` are answered with a reset, by whoever owns them now.
fn answered(world: &World, dead: usize) -> Mask {
    let mut all = Mask::default();
    for host in world.hosts.iter().filter(|h| h.node.is_some()) {
        let holds = &host.kernel.holds;
        let unlisted = holds.heir.iter().filter(|&slice| !holds.elsewhere.contains_key(&(dead, slice)));
        holds.resets.iter().chain(unlisted).for_each(|slice| all.insert(slice));
    }
    all
}

/// A host serves no new connections any more, but has its old ones; then an owner of its slices dies.
fn bereaved(seed: u64, drained: usize, dies: usize) -> (World, Mask) {
    let config = Config { seed, ..faithful(4) };
    let mut world = World::new(config.clone(), &[], Checks::new(&config, &[]));
    assert_eq!(world.run(6000 * MS, is_whole), Ok(true), "the cluster never came to be");
    passes(&mut world, 1000);
    world.feed(drained, Input::Drain { service: None });
    passes(&mut world, 3000);
    let lived = world.hosts[dies].kernel.alive;
    world.kill(dies);
    passes(&mut world, 3000);
    (world, lived)
}

#[test]
fn an_owner_is_heir_while_others_have_connections_of_a_dead_hosts_slices() {
    let mut heirs = 0;
    for seed in 0..20 {
        let (mut world, lived) = bereaved(seed, 1, 2);
        assert_eq!(world.unanswered(answering_bound(&world.config)), vec![]);
        assert_eq!(lived.minus(&answered(&world, 2)), Mask::default(), "seed {seed}");
        // Each of them for the sake of somebody who has connections: mostly the host that was drained.
        for (i, host) in world.hosts.iter().enumerate() {
            let others = world.hosts.iter().enumerate().filter(|&(o, h)| o != i && h.node.is_some());
            let elsewhere = others.fold(Mask::default(), |all, (_, h)| all.or(&h.kernel.alive));
            assert_eq!(host.kernel.holds.heir.minus(&elsewhere), Mask::default(), "seed {seed}");
            heirs += host.kernel.holds.heir.len();
        }

        world.config.connections_end = 1000;
        passes(&mut world, 2000);
        for host in [0, 3] {
            let holds = &world.hosts[host].kernel.holds;
            assert_eq!((holds.resets, holds.heir), (holds.accepted, Mask::default()), "seed {seed}");
        }
    }
    assert!(heirs > 10, "{heirs}");
}

/// The owner of all, of a cluster with a single slice.
fn owner(world: &World) -> usize {
    (0..world.hosts.len()).find(|&h| world.accepts(h).contains(0)).expect("somebody owns it")
}

/// Two hosts have connections of the dead host's slice, and then one of them dies too: nothing else changes for the
/// heir.
#[test]
fn what_a_host_has_listed_dies_with_it() {
    let config = Config { slices: 1, ..faithful(4) };
    let mut world = World::new(config.clone(), &[], Checks::new(&config, &[]));
    assert_eq!(world.run(6000 * MS, is_whole), Ok(true), "the cluster never came to be");
    (0..4).for_each(|host| world.feed(host, Input::Weight(1)));
    passes(&mut world, 2000);
    let (mut drained, slice) = (Vec::new(), world.accepts(owner(&world)));
    for _ in 0..2 {
        drained.push(owner(&world));
        world.feed(owner(&world), Input::Drain { service: None });
        passes(&mut world, 3000);
    }
    let dead = owner(&world);
    world.kill(dead);
    passes(&mut world, 3000);
    let heir = owner(&world);
    assert_eq!(world.hosts[heir].kernel.holds.heir, slice);
    assert_eq!(answered(&world, dead), slice);
    world.kill(drained[0]);
    passes(&mut world, 3000);
    assert_eq!(world.hosts[heir].kernel.holds.heir, slice);
    assert_eq!(answered(&world, drained[0]), slice);
    assert_eq!(answered(&world, drained[1]), Mask::default());
}

/// What was asked for before a slice was given up is no answer after it has come back: ns0 is heir of slices of
/// which ns1 has connections, gives them back to ns1 and gets them again. Every letter comes twice, some seconds late.
#[test]
fn a_list_from_before_a_slice_was_given_up_is_none() {
    let plan = [
        order(3000, 1, Order::Drain),
        at(3900, Fault::Weather { loss: 0, doubles: 1000, slow_ms: 8 }),
        at(4000, Fault::Kill { host: 2 }),
        order(5200, 1, Order::Resume),
        order(5700, 1, Order::Drain),
        at(6500, Fault::Start { host: 2, life: Life::Later }),
    ];
    let broken = |rule: Option<Mutation>| violations(100, rule, &plan, &faithful(3));
    assert_eq!(broken(None), []);
    assert!(resets(&broken(Some(Mutation::StaleLists))) > 0);
}

/// ns0 is heir of slices of which ns1 has connections. ns1 is to have them again, but its kernel refuses, so ns0
/// gives them up after its patience; its kernel is slow, so that there is time for a question about them.
#[test]
fn what_is_about_to_be_given_up_is_not_asked_for() {
    let plan = [
        order(3000, 1, Order::Drain),
        at(4000, Fault::Kill { host: 2 }),
        at(6000, Fault::Kernel { host: 1, slow_ms: 3, refuses: 1000 }),
        order(6010, 1, Order::Resume),
        at(7000, Fault::Kernel { host: 0, slow_ms: 80, refuses: 0 }),
        at(7340, Fault::Kernel { host: 1, slow_ms: 3, refuses: 0 }),
        order(8500, 1, Order::Drain),
    ];
    assert_eq!(violations(200, None, &plan, &Config { trouble_ms: 10_000, ..faithful(3) }), []);
}

/// A new agent goes on with the life of the last one, and does not know what that one had asked.
#[test]
fn what_an_earlier_agent_of_the_same_life_has_asked_is_not_answered_to_the_next() {
    let plan = [
        order(3500, 3, Order::Drain),
        order(4500, 1, Order::Drain),
        at(4900, Fault::Weather { loss: 0, doubles: 1000, slow_ms: 8 }),
        at(5000, Fault::Kill { host: 2 }),
        order(6000, 1, Order::Resume),
        order(6300, 1, Order::Drain),
        at(6600, Fault::Kill { host: 0 }),
        at(6610, Fault::Start { host: 0, life: Life::Same }),
        at(6800, Fault::Kill { host: 3 }),
    ];
    let config = Config { trouble_ms: 10_000, ..faithful(4) };
    assert_eq!(violations(400, None, &plan, &config), []);
}
