//! Small explorations that end, and rules left out that they notice. `test-env/explore-all` goes further.

use std::time::Duration;

use onemac_core::node::{Mutation, Partition};
use onemac_core::time::Timing;
use onemac_explore::search::{Order, Outcome, search, tell};
use onemac_explore::step::Kind;
use onemac_explore::world::Config;

/// More states than any search here has.
const MOST: usize = 2_000_000;

/// The margin is half a heartbeat by this timing, to a thousandth: what is one step too early is seen.
fn config(faults: u8, kinds: &[Kind], orders: bool) -> Config {
    let ms = Duration::from_millis;
    Config {
        timing: Timing { heartbeat: ms(110), lease: ms(550) },
        partition: Partition::Serve,
        mutation: None,
        faults,
        kinds: kinds.to_vec(),
        orders,
        slow: 0,
    }
}

fn holds(config: &Config) -> Outcome {
    let outcome = search(config, Order::Deepest, MOST, |_| {});
    if let Some((violation, way)) = &outcome.broken {
        panic!("{violation:?}:\n{}", tell(config, way).join("\n"));
    }
    assert!(outcome.ended, "it did not end: {outcome:?}");
    outcome
}

fn is_noticed(rule: Mutation, config: Config) {
    let config = Config { mutation: Some(rule), ..config };
    let outcome = search(&config, Order::Deepest, MOST, |_| {});
    let Some((violation, way)) = outcome.broken else { panic!("{rule:?} went unnoticed: {outcome:?}") };
    let story = tell(&config, &way);
    assert!(story.last().is_some_and(|line| line.contains(violation.promise)), "{story:?}");
}

#[test]
fn a_quiet_cluster_goes_round_in_a_circle() {
    let outcome = holds(&config(0, &[], false));
    // Two heartbeats' worth of orders; if a heartbeat more were another state, it would not end so soon.
    assert!(outcome.states < 200, "{outcome:?}");
}

#[test]
fn a_hand_over_and_its_reversal() {
    holds(&config(0, &[], true));
}

#[test]
fn reports_and_changes_that_take_half_a_heartbeat() {
    holds(&Config { slow: 1, ..config(0, &[], false) });
}

#[test]
fn any_one_fault() {
    holds(&config(1, &Kind::ALL, false));
}

#[test]
fn a_hand_over_with_a_report_lost_or_a_change_refused() {
    holds(&config(1, &[Kind::Loss, Kind::Refusal], true));
}

#[test]
fn an_expiry_without_its_margin() {
    is_noticed(Mutation::NoMargin, config(1, &[Kind::Crash], false));
}

#[test]
fn a_failure_detector_that_is_believed_at_once() {
    is_noticed(Mutation::BelieveAtOnce, config(1, &[Kind::Loss], false));
}

#[test]
fn slices_acquired_without_agreement() {
    is_noticed(Mutation::NoAgreement, config(1, &[Kind::Loss, Kind::Refusal], true));
}

#[test]
fn slices_released_in_words_first() {
    is_noticed(Mutation::WordsFirst, config(0, &[], true));
}

#[test]
fn a_host_that_slept_and_goes_on_as_if_nothing_had_been() {
    is_noticed(Mutation::NoGuards, config(1, &[Kind::Pause], false));
}

#[test]
fn a_lease_that_needs_no_answers() {
    is_noticed(Mutation::NoAcknowledgements, config(1, &[Kind::Cut], false));
}
