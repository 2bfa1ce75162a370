//! Hosts that speak another version of the protocol.

use super::*;

fn hears(world: &mut World, i: usize, serves: bool, newer: bool, ms: u64) {
    for _ in 0..ms / 100 {
        world.feed(i, Input::OtherVersion { host: name(2), serves, newer });
        world.run(100, "another version");
    }
}

fn hold(world: &World, i: usize) -> Option<Hold> {
    world.hosts[i].node.as_ref().unwrap().status(world.now).hold
}

#[test]
fn who_joins_waits_for_those_who_serve_and_for_newer_ones() {
    for (serves, newer, waits) in
        [(true, false, true), (true, true, true), (false, true, true), (false, false, false)]
    {
        let mut world = World::new(3, 1);
        (0..2).for_each(|i| world.start(i));
        for _ in 0..30 {
            (0..2).for_each(|i| hears(&mut world, i, serves, newer, 100));
        }
        let expected = waits.then(|| Hold::Version { hosts: [name(2)].into() });
        assert_eq!((hold(&world, 0), hold(&world, 1)), (expected.clone(), expected));
        assert_eq!(world.uncovered(), if waits { SLICES } else { 0 });
        // They have gone.
        world.run(3000, "gone");
        assert_eq!(world.uncovered(), 0);
    }
}

#[test]
fn where_both_serve_the_older_version_gives_way() {
    for (serves, newer, stays) in [(true, false, true), (false, true, true), (true, true, false)] {
        let mut world = settled(2);
        world.kill(1);
        world.run(2000, "alone");
        hears(&mut world, 0, serves, newer, 2000);
        assert_eq!(world.accepting(0).is_empty(), !stays, "serves: {serves}, newer: {newer}");
        world.run(3000, "gone");
        assert_eq!(world.uncovered(), 0);
    }
}
