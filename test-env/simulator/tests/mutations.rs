//! Leave out one rule of the protocol, and the simulator notices: each within 2,000 seeds.

use onemac_core::node::Mutation;
use onemac_sim::config::Config;
use onemac_sim::fault::plan;
use onemac_sim::run::run;
use onemac_sim::shorten::shorten;
use onemac_sim::summary::{Series, run_all};

const SEEDS: u64 = 2000;

fn is_caught(mutation: Mutation) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mutation = Some(mutation);
    let series = Series { from: 0, seeds: SEEDS, hosts: None, partition: None, mutation, threads, enough: 1 };
    let summary = run_all(&series, |_| {});
    assert!(!summary.violations.is_empty(), "{mutation:?} went unnoticed in {SEEDS} runs");
}

#[test]
fn an_expiry_without_its_margin() {
    is_caught(Mutation::NoMargin);
}

#[test]
fn a_failure_detector_that_is_believed_at_once() {
    is_caught(Mutation::BelieveAtOnce);
}

#[test]
fn slices_acquired_without_agreement() {
    is_caught(Mutation::NoAgreement);
}

#[test]
fn slices_released_in_words_first() {
    is_caught(Mutation::WordsFirst);
}

#[test]
fn a_host_that_slept_and_goes_on_as_if_nothing_had_been() {
    is_caught(Mutation::NoGuards);
}

#[test]
fn lives_of_a_host_taken_for_one() {
    is_caught(Mutation::NoIncarnations);
}

#[test]
fn a_lease_that_needs_no_answers() {
    is_caught(Mutation::NoAcknowledgements);
}

#[test]
fn a_silent_host_taken_for_dead_although_it_had_stopped_answering() {
    is_caught(Mutation::SilenceIsDeath);
}

#[test]
fn a_lease_that_never_shrinks() {
    is_caught(Mutation::LeaseNeverShrinks);
}

#[test]
fn a_renewal_that_the_kernel_has_not_taken() {
    is_caught(Mutation::RenewalsUnconfirmed);
}

#[test]
fn a_deaf_host_that_goes_on() {
    is_caught(Mutation::DeafGoesOn);
}

#[test]
fn a_deaf_host_that_is_waited_for() {
    is_caught(Mutation::DeafAwaited);
}

#[test]
fn a_newcomer_that_listens_for_one_expiry() {
    is_caught(Mutation::ShortListening);
}

#[test]
fn an_answer_to_an_earlier_entry() {
    is_caught(Mutation::OldAnswers);
}

#[test]
fn a_restart_that_hands_nothing_over() {
    is_caught(Mutation::RestartForgets);
}

#[test]
fn slices_taken_while_they_are_sent_on_to_a_third_host() {
    is_caught(Mutation::RelaysUnheeded);
}

#[test]
fn connections_reset_that_live_elsewhere() {
    is_caught(Mutation::ResetsAll);
}

#[test]
fn slices_of_the_dead_answered_for_without_lists() {
    is_caught(Mutation::NoLists);
}

#[test]
fn a_failing_run_is_told_with_fewer_faults_that_break_the_same_promise() {
    let (config, faults, violation) = (0..SEEDS)
        .find_map(|seed| {
            let config = Config::of_seed(seed, None, None).broken(Mutation::NoMargin);
            let faults = plan(&config);
            let violation = run(&config, &faults, false).violation?;
            Some((config, faults, violation))
        })
        .unwrap();
    let (short, again) = shorten(&config, &faults, &violation);
    assert_eq!(again.property, violation.property);
    assert!(short.len() < faults.len(), "{} of {} faults", short.len(), faults.len());
    assert_eq!(run(&config, &short, false).violation, Some(again));
}
