//! The operator of the lab: what it is told to do happens, and what can not be done is refused before it begins.

use anyhow::{Result, ensure};
use onemac_test_env::moves::{Move, Operator};
use onemac_test_env::{Lab, Plan, poll_until};

#[test]
fn a_crashed_agent_is_started_again_and_the_cluster_followed() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let mut operator = Operator::prepare(&lab, 1)?;
    lab.start_agents()?;
    lab.wait_settled()?;
    // Every host runs a program of its own.
    let programs = lab.hosts().iter().map(|host| host.program()).collect::<Result<Vec<_>>>()?;
    ensure!(programs[0] != programs[1], "{programs:?}");
    let before = lab.host(2).agent_pid();
    let done = operator.make(Move::Crash(2), None)?;
    ensure!(lab.host(2).agent_pid() != before, "it is the same process");
    poll_until(done.took(), || Ok(lab.host(2).status()?["view"]["agreed"] == true))?;
    let refused = operator.make(Move::Join(2), None).unwrap_err();
    assert!(format!("{refused:#}").contains("not possible"), "{refused:#}");
    Ok(())
}
