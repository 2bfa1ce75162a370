//! Stories that dice tell too rarely.

mod common;

use onemac_core::node::{Mutation, Partition};
use onemac_sim::check::Checks;
use onemac_sim::clock::MS;
use onemac_sim::config::Config;
use onemac_sim::fault::{Fault, Life};
use onemac_sim::run::{is_whole, run};
use onemac_sim::world::World;

use self::common::{at, config, violations};

/// Nothing gets from some hosts to others.
fn cut(from: &[usize], to: &[usize], ms: u64) -> Fault {
    let bits = |hosts: &[usize]| hosts.iter().map(|h| 1 << h).sum();
    Fault::Cut { from: bits(from), to: bits(to), ms }
}

/// A newcomer that slept twice while the only other host spoke: its timer fires before it reads its socket.
#[test]
fn a_newcomer_that_slept_has_not_listened() {
    let plan = [
        at(100, Fault::Kill { host: 0 }),
        at(5000, Fault::Start { host: 0, life: Life::Later }),
        at(4990, cut(&[1], &[0], 970)),
        at(5010, Fault::Pause { host: 0, ms: 790, kernel_goes_on: true }),
        at(5957, Fault::Pause { host: 0, ms: 795, kernel_goes_on: true }),
    ];
    assert_eq!(violations(100, None, &plan, &config(2, Partition::Serve)), []);
}

/// Two definitions. ns1 listens by the other one and is cut off; ns2, which was joining when last heard there,
/// serves again with ns0. When ns1 gives up ns0 and begins to serve, what ns2 said as a joining host is no answer
/// to that.
#[test]
fn what_was_answered_before_a_view_was_entered_again_does_not_count() {
    let plan = [
        at(142, Fault::Kill { host: 1 }),
        at(156, Fault::Start { host: 1, life: Life::OtherDefinition }),
        at(311, cut(&[1, 2], &[0], 878)),
        at(831, Fault::Kill { host: 0 }),
        at(1299, cut(&[0, 2], &[1], 775)),
        at(1299, cut(&[1], &[0, 2], 775)),
        at(1384, Fault::Start { host: 0, life: Life::Later }),
    ];
    let broken = |rule: Option<Mutation>| violations(40, rule, &plan, &config(3, Partition::Serve));
    assert_eq!(broken(None), []);
    assert!(broken(Some(Mutation::OldAnswers)).iter().any(|v| v.property == "never two owners"));
}

/// ns1 begins a new life, and hears ns0 while its own kernel is not ready yet. It begins to listen only then, and
/// hears ns0 no more; ns0, which hears ns1, counts on being missed no sooner than an expiry after that. When ns2
/// comes, ns1 need not listen any longer.
#[test]
fn who_was_heard_before_the_listening_began_is_not_given_up_sooner_than_the_others() {
    let plan = [
        at(100, Fault::Kill { host: 2 }),
        at(5000, Fault::Unplug { host: 1, ms: 50, gossip_too: false }),
        at(5000, Fault::KernelStuck { host: 1, ms: 285 }),
        at(5215, cut(&[0], &[1, 2], 3000)),
        at(5800, Fault::Start { host: 2, life: Life::Later }),
    ];
    assert_eq!(violations(100, None, &plan, &config(3, Partition::Serve)), []);
}

/// Five hosts, ns0 and ns4 cut from the rest: ns3 loses them half a second later than ns1 and ns2 do, and ns2
/// finds them again after it has agreed to go on without them, while ns1 still counts on that.
#[test]
fn an_answer_counts_for_a_majority_only_when_nobody_can_rely_on_an_older_one() {
    let mut plan = Vec::new();
    for (one, other) in [(&[0, 4][..], &[1][..]), (&[1], &[0, 4])] {
        plan.push(at(4000, cut(one, other, 3000)));
    }
    for (one, other) in [(&[0, 4][..], &[2][..]), (&[2], &[0, 4])] {
        plan.push(at(4000, cut(one, other, 1030)));
    }
    for (one, other) in [(&[0, 4][..], &[3][..]), (&[3], &[0, 4])] {
        plan.push(at(4500, cut(one, other, 3000)));
    }
    plan.push(at(5020, cut(&[2], &[1, 3], 1000)));
    let outcome = |rule: Option<Mutation>| {
        run(&Config { mutation: rule, ..config(5, Partition::Majority) }, &plan, false).violation
    };
    assert_eq!(outcome(None), None);
    assert_eq!(outcome(Some(Mutation::NoProbation)).map(|v| v.property), Some("never two owners"));
}

/// The same faults, both policies: two owners are seen where each side serves, and never with a majority.
#[test]
fn a_total_partition_has_an_owner_on_either_side_or_only_on_the_larger_one() {
    let plan = [at(4000, cut(&[0], &[1, 2], 3000)), at(4000, cut(&[1, 2], &[0], 3000))];
    let serve = run(&config(3, Partition::Serve), &plan, false);
    assert_eq!((serve.violation, serve.excused.times), (None, 1));
    let majority = run(&config(3, Partition::Majority), &plan, false);
    assert_eq!((majority.violation, majority.excused.times), (None, 0));
}

/// Start and death are the storms in which everyone tells everyone something at once.
#[test]
fn two_hundred_and_fifty_six_hosts_agree_within_three_seconds_of_a_death() {
    let config = Config { hosts: 256, slices: 256, reads_every_ms: 5, ..config(256, Partition::Serve) };
    let mut world = World::new(config.clone(), &[], Checks::new(&config, &[]));
    assert_eq!(world.run(6000 * MS, is_whole), Ok(true), "the cluster never came to be");
    assert!(world.hosts.iter().all(|host| host.node.is_some()));
    let died = world.now;
    world.kill(100);
    assert!(!is_whole(&world));
    assert_eq!(world.run(died + 3000 * MS, is_whole), Ok(true), "no agreement in time");
    println!("agreed {} ms after the death", (world.now - died) / MS);
}
