//! The protocol keeps its promises, and the simulator is what it says it is.

use onemac_core::node::Partition;
use onemac_sim::config::Config;
use onemac_sim::fault::plan;
use onemac_sim::run::run;
use onemac_sim::summary::{Series, run_all};

fn series(seeds: u64) -> Series {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Series { from: 0, seeds, hosts: None, partition: None, mutation: None, threads, enough: 1 }
}

#[test]
fn two_thousand_runs_break_no_promise() {
    let summary = run_all(&series(2000), |_| {});
    assert_eq!(summary.violations, []);
    assert_eq!(summary.runs, 2000);
    // The troubles are real: so many faults, each kind of them, and partitions with an owner on either side.
    let counts = summary.counts;
    assert!(counts.faults.iter().sum::<u64>() > 20_000 && summary.excused.times > 5, "{counts:?}");
    assert!(counts.faults.iter().all(|&of_a_kind| of_a_kind > 50), "{counts:?}");
    // And so are the runs in which nobody but one host may notice.
    assert!(counts.judged > 350, "{counts:?}");
}

#[test]
fn a_majority_is_never_excused() {
    let all = Series { partition: Some(Partition::Majority), ..series(300) };
    let summary = run_all(&all, |_| {});
    assert_eq!((summary.violations, summary.excused.times), (vec![], 0));
}

#[test]
fn a_seed_is_the_same_run_to_the_letter() {
    for seed in [1, 7, 42] {
        let config = Config::of_seed(seed, None, None);
        let once = run(&config, &plan(&config), true);
        let again = run(&config, &plan(&config), true);
        assert!(once.story.len() > 100);
        assert_eq!(once.story, again.story);
    }
}
