//! Real faults at real hosts, with 500 clients that send a number every 20 ms: no number is ever answered
//! twice, and in the end everybody is served.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use onemac_test_env::faults::FAULTS;

/// One cluster at a time: the clients' rate takes what two processors have left.
static ALONE: Mutex<()> = Mutex::new(());

fn survive(name: &str) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = FAULTS.iter().find(|fault| fault.name == name).context("no such fault")?;
    eprintln!("{name}: {}", fault.run()?);
    Ok(())
}

macro_rules! faults {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            survive($name)
        })*

        #[test]
        fn every_fault_has_a_test() {
            let tested = [$($name),*];
            for fault in FAULTS {
                assert!(tested.contains(&fault.name), "no test for: {}", fault.name);
            }
        }
    };
}

faults! {
    a_killed_agent: "an agent is killed",
    a_short_stop: "an agent is stopped for less than its lease",
    a_long_stop: "an agent is stopped for longer than its lease",
    a_cable: "a cable is out and in again",
    loss_on_the_way_out: "a third of what one host says is lost",
    loss_on_the_way_in: "a third of what one host should hear is lost",
    gossip_goes_nowhere: "one host's gossip goes nowhere",
    no_gossip_heard: "one host hears no gossip",
    a_mute_host: "one host is mute, but hears",
    a_deaf_host: "one host is deaf, but is heard",
    loss_everywhere: "a third of all words is lost",
    gossip_cut_from_one: "the gossip network is cut from one host",
    gossip_cut_from_all: "the gossip network is cut from all hosts",
    wire_cut_gossip_intact: "the clients' wire is cut from one host, gossip is not",
    wire_broken_beyond_the_port: "the clients' wire is broken beyond one host's port, gossip is not",
    busy_processors: "all processors are busy for ten seconds",
    a_death_among_busy_processors: "a host dies while all processors are busy",
    all_agents_killed: "all agents are killed at once and started again",
    all_power_lost: "all hosts lose their power at once",
    a_join_in_a_death: "a host joins in the middle of a death",
    two_joins: "two hosts join at once",
    a_leave_and_a_return: "a host leaves in order and returns",
}
