//! Stories of one host's fault, or of an operator at work: nobody else loses anything, and what that host loses
//! others serve within a stated time.

mod common;

use std::sync::Arc;
use std::time::Duration;

use onemac_core::node::{Input, Partition};
use onemac_core::report::{HostState, Report, Stamp};
use onemac_core::time::Timing;
use onemac_sim::check::{Checks, Violation};
use onemac_sim::clock::MS;
use onemac_sim::config::Config;
use onemac_sim::fault::{Fault, Hosts, Life, Order, Planned};
use onemac_sim::run::{healing_bound, is_whole};
use onemac_sim::world::World;

use self::common::{at, config, violations};

const BOTH: [Partition; 2] = [Partition::Serve, Partition::Majority];

fn bits(hosts: &[usize]) -> Hosts {
    hosts.iter().map(|h| 1 << h).sum()
}

fn cut(from: &[usize], to: &[usize], ms: u64) -> Fault {
    Fault::Cut { from: bits(from), to: bits(to), ms }
}

fn breaks_nothing(seeds: u64, plan: &[Planned], config: &Config) {
    let broken = violations(seeds, None, plan, config);
    let first = broken.first().map(ToString::to_string).unwrap_or_default();
    assert!(broken.is_empty(), "{:?}: {} of {seeds} runs: {first}", config.partition, broken.len());
}

/// Where more than that cannot be asked for.
fn never_two_owners(seeds: u64, plan: &[Planned], config: &Config) {
    let mut broken = violations(seeds, None, plan, config);
    broken.retain(|v| v.property == "never two owners");
    let first = broken.first().map(ToString::to_string).unwrap_or_default();
    assert!(broken.is_empty(), "{:?}: {} of {seeds} runs: {first}", config.partition, broken.len());
}

/// A cluster that has come to be.
fn whole(config: &Config) -> World {
    let mut world = World::new(config.clone(), &[], Checks::new(config, &[]));
    assert_eq!(world.run(6000 * MS, is_whole), Ok(true), "the cluster never came to be");
    assert_eq!(world.run(world.now + 2000 * MS, |_| false), Ok(false));
    world
}

fn is_whole_within(world: &mut World, ms: u64) -> bool {
    world.run(world.now + ms * MS, is_whole) == Ok(true)
}

#[test]
fn a_restart_keeps_its_life() {
    for policy in BOTH {
        breaks_nothing(50, &[at(4000, Fault::Restart { host: 1 })], &config(3, policy));
    }
}

#[test]
fn restarts_of_all_hosts_one_after_another_keep_all_lives() {
    let plan: Vec<Planned> =
        (0..5).map(|host| at(4000 + 500 * host as u64, Fault::Restart { host })).collect();
    for policy in BOTH {
        breaks_nothing(20, &plan, &config(5, policy));
    }
}

#[test]
fn a_kernel_that_takes_no_renewals_loses_its_share_to_others() {
    for policy in BOTH {
        breaks_nothing(50, &[at(4000, Fault::NoRenewals { host: 1, ms: 4000 })], &config(4, policy));
    }
}

#[test]
fn a_kernel_that_hangs_loses_its_share_to_others() {
    for policy in BOTH {
        breaks_nothing(50, &[at(4000, Fault::KernelStuck { host: 1, ms: 4000 })], &config(4, policy));
    }
}

#[test]
fn a_deaf_host_costs_its_own_share() {
    for policy in BOTH {
        breaks_nothing(50, &[at(4000, Fault::Deaf { host: 0, ms: 4000 })], &config(5, policy));
    }
}

#[test]
fn a_mute_host_costs_its_own_share() {
    for policy in BOTH {
        breaks_nothing(50, &[at(4000, Fault::Mute { host: 0, ms: 4000 })], &config(5, policy));
    }
}

/// Its service device receives what clients send, so it does not know that it is deaf.
#[test]
fn a_host_that_hears_its_clients_alone_costs_its_own_share() {
    for policy in BOTH {
        breaks_nothing(50, &[at(4000, cut(&[1, 2, 3, 4], &[0], 4000))], &config(5, policy));
    }
}

/// What the others say is too large for some way, what a newcomer says is not.
#[test]
fn a_newcomer_that_no_full_report_reaches_costs_nobody_anything() {
    let plan = [
        at(4000, Fault::Kill { host: 0 }),
        at(5500, Fault::Narrow { from: bits(&[1, 2, 3, 4]), to: bits(&[0]), bytes: 182, ms: 4000 }),
        at(6000, Fault::Start { host: 0, life: Life::Later }),
    ];
    for policy in BOTH {
        breaks_nothing(50, &plan, &Config { trouble_ms: 10_000, ..config(5, policy) });
    }
}

/// While one host is deaf another dies: the living take over what was the dead one's.
#[test]
fn a_deaf_host_keeps_nobody_from_taking_over_from_the_dead() {
    for policy in BOTH {
        for seed in 0..20 {
            let config = Config { seed, ..config(5, policy) };
            let mut world = whole(&config);
            world.hosts[0].deaf = 1;
            assert_eq!(world.run(world.now + 3000 * MS, |_| false), Ok(false), "{policy:?}, seed {seed}");
            world.kill(2);
            let all_served = |w: &World| {
                (1..5).map(|h| w.accepts(h).len()).sum::<u32>() == config.slices && w.accepts(0).is_empty()
            };
            let within = world.now + healing_bound(&config);
            assert_eq!(world.run(within, all_served), Ok(true), "{policy:?}, seed {seed}");
        }
    }
}

/// ns2 hears everybody; ns0 and ns1 on the one side and ns3 and ns4 on the other do not hear each other, and only
/// three get a new definition. Whoever votes for a view without a host that it hears may make two owners.
#[test]
fn who_hears_two_sides_votes_for_neither_alone() {
    let plan = [
        at(4000, cut(&[0, 1], &[3, 4], 4000)),
        at(4000, cut(&[3, 4], &[0, 1], 4000)),
        at(5500, Fault::Stage { host: 2, definition: 1 }),
        at(5510, Fault::Stage { host: 3, definition: 1 }),
        at(5520, Fault::Stage { host: 4, definition: 1 }),
    ];
    breaks_nothing(100, &plan, &config(5, Partition::Majority));
}

#[test]
fn a_reload_costs_nobody_anything() {
    for gap_ms in [0, 1, 5, 300] {
        let stage = |host: usize| at(4000 + gap_ms * host as u64, Fault::Stage { host, definition: 1 });
        let plan: Vec<Planned> = (0..6).map(stage).collect();
        for policy in BOTH {
            breaks_nothing(30, &plan, &config(6, policy));
        }
    }
}

/// Where too few are left for a majority, the operator is told before the leave begins, and the cost is theirs.
#[test]
fn a_leave_silences_nobody() {
    for (policy, hosts) in [(Partition::Serve, 2), (Partition::Serve, 3), (Partition::Majority, 3)] {
        for host in 0..hosts {
            breaks_nothing(20, &[at(4000, Fault::Leave { host })], &config(hosts, policy));
        }
    }
}

#[test]
fn drains_and_weights_cost_nobody_anything() {
    let order = |ms, host, order| at(ms, Fault::Order { host, order });
    let plan = [
        order(4000, 1, Order::Drain),
        order(4300, 2, Order::Weight(3)),
        order(5000, 1, Order::Resume),
        order(5010, 2, Order::Weight(0)),
        order(6000, 2, Order::Weight(1)),
    ];
    for policy in BOTH {
        breaks_nothing(50, &plan, &config(4, policy));
    }
}

/// A host is left out of the reckoning while nothing is heard of it, and is heard again, deaf, before it takes over.
#[test]
fn a_lease_ends_when_a_host_is_heard_again_that_has_not_heard() {
    let plan = [at(4000, cut(&[0], &[1], 3000)), at(4000, cut(&[1], &[0], 650))];
    breaks_nothing(100, &plan, &config(2, Partition::Serve));
}

fn with_timing(heartbeat_ms: u64, lease_ms: u64, hosts: usize) -> Config {
    let ms = Duration::from_millis;
    let timing = Timing { heartbeat: ms(heartbeat_ms), lease: ms(lease_ms) };
    Config { timing, ..config(hosts, Partition::Serve) }
}

#[test]
fn the_shortest_leases_have_one_owner_when_one_way_is_cut() {
    for (loss, heartbeat_ms, lease_ms) in [(0, 50, 250), (100, 100, 500), (300, 50, 250)] {
        let plan =
            [at(3500, Fault::Weather { loss, doubles: 0, slow_ms: 8 }), at(4000, cut(&[0], &[1], 2000))];
        never_two_owners(200, &plan, &with_timing(heartbeat_ms, lease_ms, 2));
    }
}

/// A newcomer hears nobody, and the only other host hears it a tenth of a second late.
#[test]
fn a_newcomer_that_is_heard_late_has_not_taken_over_before() {
    let plan = [
        at(1000, Fault::Kill { host: 1 }),
        at(4900, cut(&[0], &[1], 4000)),
        at(4900, Fault::Link { from: bits(&[1]), to: bits(&[0]), loss: 0, late_ms: 100, ms: 4000 }),
        at(5000, Fault::Start { host: 1, life: Life::Later }),
    ];
    breaks_nothing(50, &plan, &config(2, Partition::Serve));
}

/// A newcomer hears nobody. The only other host hears its first words late, and then its kernel hangs, which would
/// have to learn of a shorter lease.
#[test]
fn no_lease_need_be_shortened_for_a_newcomer() {
    let plan = [
        at(1000, Fault::Kill { host: 1 }),
        at(4900, cut(&[0], &[1], 4000)),
        at(4900, Fault::Link { from: bits(&[1]), to: bits(&[0]), loss: 0, late_ms: 300, ms: 250 }),
        at(5000, Fault::Start { host: 1, life: Life::Later }),
        at(5140, Fault::KernelStuck { host: 0, ms: 800 }),
    ];
    breaks_nothing(100, &plan, &config(2, Partition::Serve));
}

/// What cannot be written leaves what was written before.
#[test]
fn an_old_checkpoint_makes_no_second_owner() {
    let plan = [
        at(4000, Fault::NoMemory { host: 0, ms: 4000, removed: false }),
        at(4100, Fault::Unplug { host: 0, ms: 50, gossip_too: false }),
        at(4500, Fault::Kill { host: 2 }),
        at(6500, Fault::Kill { host: 0 }),
        at(6600, Fault::Start { host: 0, life: Life::Same }),
    ];
    for policy in BOTH {
        breaks_nothing(100, &plan, &config(4, policy));
    }
}

/// ns2 is dead. What it has said is said again, in the old order, to ns1, which has just started.
#[test]
fn the_words_of_the_dead_said_again_keep_nobody_from_agreeing() {
    for policy in BOTH {
        for seed in 0..20 {
            let config = Config { seed, ..config(3, policy) };
            let plan = [
                at(4000, Fault::Kill { host: 2 }),
                at(6500, Fault::Kill { host: 1 }),
                at(8000, Fault::Start { host: 1, life: Life::Later }),
                at(8001, Fault::Replay { of: 2, to: 1, ms: 9000 }),
            ];
            let mut world = World::new(config.clone(), &plan, Checks::new(&config, &plan));
            assert_eq!(world.run(8100 * MS, |_| false), Ok(false));
            let within = (healing_bound(&config) / MS) as u64;
            assert!(is_whole_within(&mut world, within), "{policy:?}, seed {seed}");
        }
    }
}

/// ns2 dies while nothing gets out of it; its last words arrive seconds later, when everybody has done without it.
#[test]
fn late_words_of_the_dead_cost_nobody_anything() {
    let plan = [
        at(4000, Fault::Mute { host: 2, ms: 1000 }),
        at(4700, Fault::Kill { host: 2 }),
        at(7000, Fault::Replay { of: 2, to: 0, ms: 500 }),
    ];
    for policy in BOTH {
        breaks_nothing(50, &plan, &config(4, policy));
    }
}

/// Whatever the time for which a host is away, in whichever way: the others notice neither that nor its return.
#[test]
fn a_host_that_comes_back_costs_nobody_anything() {
    type Away = fn(u64) -> Vec<Planned>;
    let ways: [(&str, Away); 7] = [
        ("mute", |ms| vec![at(4000, Fault::Mute { host: 1, ms })]),
        ("deaf", |ms| vec![at(4000, Fault::Deaf { host: 1, ms })]),
        ("unplugged", |ms| vec![at(4000, Fault::Unplug { host: 1, ms, gossip_too: true })]),
        ("unplugged but for gossip", |ms| vec![at(4000, Fault::Unplug { host: 1, ms, gossip_too: false })]),
        ("stopped", |ms| vec![at(4000, Fault::Pause { host: 1, ms, kernel_goes_on: true })]),
        ("killed", |ms| {
            let start = Fault::Start { host: 1, life: Life::Same };
            vec![at(4000, Fault::Kill { host: 1 }), at(4000 + ms, start)]
        }),
        ("deaf, then heard again", |ms| {
            vec![at(4000, Fault::Deaf { host: 1, ms: 4000 }), at(4100, Fault::Mute { host: 1, ms })]
        }),
    ];
    let mut broken = Vec::new();
    for policy in BOTH {
        for (way, faults) in ways {
            for ms in (50..1500).step_by(80) {
                let found =
                    violations(4, None, &faults(ms), &Config { trouble_ms: 6500, ..config(3, policy) });
                let told = |first: &Violation| format!("{policy:?}, {way} for {ms} ms: {first}");
                broken.extend(found.first().map(told));
            }
        }
    }
    assert!(broken.is_empty(), "{} times:\n{}", broken.len(), broken.join("\n"));
}

/// All others have died, and clients are few: that is no reason to take oneself for deaf.
#[test]
fn the_last_host_serves_however_few_its_clients_are() {
    for frames_every_ms in [100, 500, 2000] {
        let config = Config { frames_every_ms, ..config(2, Partition::Serve) };
        breaks_nothing(20, &[at(4000, Fault::Kill { host: 0 })], &config);
    }
}

/// Somebody who has the secret speaks, and no definition knows the name.
#[test]
fn names_outside_the_definition_count_for_nothing() {
    let mut world = whole(&config(3, Partition::Serve));
    let definition = world.cluster.definition;
    for seq in 1..100 {
        let stamp = Stamp { incarnation: 5, seq };
        let report = Arc::new(Report::plain("stranger".into(), stamp, definition, HostState::Serving));
        (0..3).for_each(|host| world.feed(host, Input::Heard(Arc::clone(&report))));
        assert!(is_whole(&world));
        assert_eq!(world.run(world.now + 50 * MS, |_| false), Ok(false));
    }
}

#[test]
fn the_last_incarnation_of_all_is_no_end() {
    let mut world = whole(&config(3, Partition::Serve));
    let stamp = Stamp { incarnation: u64::MAX, seq: 1 };
    let definition = world.cluster.definition;
    let report = Arc::new(Report::plain("ns0".into(), stamp, definition, HostState::Serving));
    world.feed(0, Input::Heard(report));
    let others_serve = |w: &World| w.accepts(1).len() + w.accepts(2).len() == 16 || is_whole(w);
    assert_eq!(world.run(world.now + 4000 * MS, others_serve), Ok(true));
}
