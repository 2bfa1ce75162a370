//! Hosts that speak another version of the protocol.

use super::*;
use crate::report::Part;

/// A word of a host of another version.
fn foreign(world: &mut World, i: usize, of: usize, part: Part, newer: bool) {
    let stamp = Stamp { incarnation: 1, seq: world.now.0 };
    world.feed(i, Input::OtherVersion { host: name(of), stamp, part, newer });
}

/// The part that a host takes now.
fn part(world: &World, i: usize) -> Part {
    node(world, i).report().part()
}

fn hears(world: &mut World, i: usize, part: Part, newer: bool, ms: u64) {
    for _ in 0..ms / 100 {
        foreign(world, i, 2, part, newer);
        world.run(100, "another version");
    }
}

#[test]
fn who_joins_waits_for_those_who_serve_and_for_newer_ones_that_are_about_to() {
    for (part, newer, waits) in [
        (Part::Serves, false, true),
        (Part::Serves, true, true),
        (Part::Candidate, true, true),
        (Part::Candidate, false, false),
        (Part::None, true, false),
    ] {
        let mut world = World::new(3, 1);
        (0..2).for_each(|i| world.start(i));
        for _ in 0..30 {
            (0..2).for_each(|i| hears(&mut world, i, part, newer, 100));
        }
        let expected = waits.then(|| Hold::Version { hosts: [name(2)].into() });
        for i in 0..2 {
            assert_eq!(node(&world, i).status(world.now).hold, expected, "{part:?}, newer: {newer}");
        }
        assert_eq!(world.uncovered(), if waits { SLICES } else { 0 });
        // They have gone.
        world.run(3000, "gone");
        assert_eq!(world.uncovered(), 0);
    }
}

#[test]
fn where_both_serve_the_older_version_gives_way() {
    for (part, newer, stays) in
        [(Part::Serves, false, true), (Part::Candidate, true, true), (Part::Serves, true, false)]
    {
        let mut world = settled(3);
        world.kill(1);
        world.kill(2);
        world.run(2000, "alone");
        hears(&mut world, 0, part, newer, 2000);
        assert_eq!(world.accepting(0).is_empty(), !stays, "{part:?}, newer: {newer}");
        world.run(3000, "gone");
        assert_eq!(world.uncovered(), 0, "{:?}", node(&world, 0).status(world.now));
    }
}

/// Gossip and the wire can be listened to, and what was said repeated.
#[test]
fn an_old_word_of_another_version_is_none() {
    let mut world = settled(3);
    world.kill(2);
    world.run(2000, "two are left");
    let lives = node(&world, 0).incarnation();
    let word = |seq| Input::OtherVersion {
        host: name(2),
        stamp: Stamp { incarnation: 1, seq },
        part: Part::None,
        newer: true,
    };
    world.feed(0, word(7));
    world.run(2000, "silence");
    for seq in [6, 7] {
        let Input::OtherVersion { host, stamp, newer, .. } = word(seq) else { unreachable!() };
        world.feed(0, Input::OtherVersion { host, stamp, part: Part::Serves, newer });
        world.run(100, "an old word");
    }
    assert_eq!(node(&world, 0).incarnation(), lives);
}

/// Two clusters of one definition and two versions, as long as it takes: who serves in the end, and never both.
fn side_by_side(old: &mut World, olds: &[usize], new: &mut World, news: &[usize], ms: u64) {
    for _ in 0..ms / 20 {
        for (here, theirs, newer) in [(0, news, true), (1, olds, false)] {
            for &host in theirs {
                let said = part(if newer { new } else { old }, host);
                let (world, mine) = if here == 0 { (&mut *old, olds) } else { (&mut *new, news) };
                mine.iter().for_each(|&i| foreign(world, i, host, said, newer));
            }
        }
        old.run(20, "old");
        new.run(20, "new");
        let both = old.uncovered() < SLICES && new.uncovered() < SLICES;
        assert!(!both, "both versions serve at {:?}", old.now);
    }
}

/// Whoever starts first, and at any distance: one version serves.
#[test]
fn hosts_of_two_versions_that_start_together_never_serve_side_by_side() {
    for later in (0..3000).step_by(60) {
        for old_first in [true, false] {
            let (mut old, mut new) = (World::new(3, 1), World::new(3, 2));
            let start_old = |old: &mut World| (0..2).for_each(|i| old.start(i));
            if old_first {
                start_old(&mut old)
            } else {
                new.start(2)
            }
            let (olds, news): (&[usize], &[usize]) = if old_first { (&[0, 1], &[]) } else { (&[], &[2]) };
            side_by_side(&mut old, olds, &mut new, news, later);
            if old_first {
                new.start(2)
            } else {
                start_old(&mut old)
            }
            side_by_side(&mut old, &[0, 1], &mut new, &[2], 4000);
            assert!(old.uncovered() == 0 || new.uncovered() == 0, "{later} {old_first}: nobody serves");
        }
    }
}

/// Two of three hosts have the old version, one has the new one, and all start at once (power is back).
#[test]
fn a_majority_does_not_wait_for_ever_for_a_minority_of_a_newer_version() {
    let (mut old, mut new) = (World::new(3, 1), World::new(3, 2));
    (old.partition, new.partition) = (Partition::Majority, Partition::Majority);
    (0..2).for_each(|i| old.start(i));
    new.start(2);
    side_by_side(&mut old, &[0, 1], &mut new, &[2], 10_000);
    assert_eq!((old.uncovered(), new.uncovered()), (0, SLICES));
}

/// The same with `serve`, where the one new host has no carrier for a while.
#[test]
fn nobody_waits_for_a_newer_version_that_can_not_serve() {
    let (mut old, mut new) = (World::new(3, 1), World::new(3, 2));
    (0..2).for_each(|i| old.start(i));
    new.start(2);
    new.feed(2, Input::Link { up: false });
    side_by_side(&mut old, &[0, 1], &mut new, &[2], 10_000);
    assert_eq!(old.uncovered(), 0);
    new.feed(2, Input::Link { up: true });
    side_by_side(&mut old, &[0, 1], &mut new, &[2], 3000);
    assert_eq!((old.uncovered(), new.uncovered()), (0, SLICES));
}

/// The last host of a version is told to leave while connections live there, and then to stay after all.
#[test]
fn the_last_host_of_a_version_hands_over_when_it_is_stopped() {
    for older in [true, false] {
        let (mut one, mut other) = (World::new(3, 1), World::new(3, 2));
        let mut run = |leaver: &mut World, news: &[usize], ms| match older {
            true => side_by_side(leaver, &[0], &mut other, news, ms),
            false => side_by_side(&mut other, news, leaver, &[0], ms),
        };
        one.connections_stay = true;
        one.start(0);
        run(&mut one, &[], 3000);
        assert_eq!(one.uncovered(), 0);
        one.feed(0, Input::Leave);
        run(&mut one, &[], 6000);
        assert!(!one.hosts[0].stopped);
        other.start(2);
        let mut run = |leaver: &mut World, ms| match older {
            true => side_by_side(leaver, &[0], &mut other, &[2], ms),
            false => side_by_side(&mut other, &[2], leaver, &[0], ms),
        };
        run(&mut one, 6000);
        one.feed(0, Input::Resume { service: None });
        run(&mut one, 6000);
        assert_eq!(other.uncovered(), 0, "the leaver is older: {older}");
    }
}

/// Another host of that version may be about to serve as well.
#[test]
fn who_has_waited_says_for_an_expiry_that_it_is_about_to_serve() {
    for newer in [true, false] {
        let mut world = World::new(3, 1);
        world.start(0);
        hears(&mut world, 0, Part::Serves, newer, 3000);
        assert_eq!(part(&world, 0), Part::None);
        for _ in 0..8 {
            hears(&mut world, 0, Part::None, newer, 100);
            assert_eq!((part(&world, 0), world.uncovered()), (Part::Candidate, SLICES));
        }
        hears(&mut world, 0, Part::None, newer, 400);
        assert_eq!((part(&world, 0), world.uncovered()), (Part::Serves, 0));
    }
}

/// A newcomer of another version waits; its process sleeps for less than a stall, wakes by its timer, and the words of
/// those who serve are still in its socket.
#[test]
fn a_nap_does_not_count_as_silence_of_another_version() {
    for offset in (0..100).step_by(10) {
        for nap in [700, 750, 780, 795] {
            let mut world = World::new(3, 1);
            world.start(0);
            world.run(offset, "starts");
            for _ in 0..50 {
                foreign(&mut world, 0, 2, Part::Serves, false);
                world.run(100, "waits");
            }
            foreign(&mut world, 0, 2, Part::Serves, false);
            world.run(99, "waits");
            assert_eq!(world.uncovered(), SLICES);
            world.pause(0, nap);
            world.run(nap, "sleeps");
            for _ in 0..3 {
                world.run(5, "awake");
                foreign(&mut world, 0, 2, Part::Serves, false);
            }
            assert_eq!(
                world.uncovered(),
                SLICES,
                "offset {offset}, nap {nap}: serves beside another version"
            );
        }
    }
}

/// Whoever is not configured is no reason to begin anew.
#[test]
fn who_is_not_in_the_definition_holds_nobody_back() {
    let mut world = settled(2);
    let life = node(&world, 0).incarnation();
    let stamp = Stamp { incarnation: 1, seq: 1 };
    for host in ["nobody".into(), name(0)] {
        world.feed(0, Input::OtherVersion { host, stamp, part: Part::Serves, newer: true });
    }
    world.run(2000, "a name that is not configured");
    assert_eq!(node(&world, 0).incarnation(), life);
}
