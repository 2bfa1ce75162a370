//! The lease costs nobody else anything, and the host goes on with what others do to nftables.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use onemac_test_env::{Host, Lab, Plan, dns::Prober, generation};

const PATIENCE: Duration = Duration::from_secs(60);
/// In this time a lease is renewed some thirty times.
const QUIET: Duration = Duration::from_secs(3);

fn ensure_served(lab: &Lab, when: &str) -> Result<()> {
    Prober::new(lab.clients(), 100, 100).udp()?.ensure_once(when)
}

fn lease_ms(host: &Host) -> Result<u64> {
    Ok(host.status()?["lease_ms"].as_u64().unwrap_or_default())
}

/// Whether the kernel has times to come in which it accepts.
fn holds_a_lease(host: &Host) -> Result<bool> {
    let set = host.netns().run("nft", &["list", "set", "netdev", "onemac", "lease"])?;
    Ok(set.contains("expires"))
}

/// Somebody who reads a large ruleset starts over whenever anybody commits anything.
#[test]
fn an_agent_that_goes_on_renewing_commits_nothing() -> Result<()> {
    // One that the machine makes lapse would be committed anew.
    let lab = Lab::start(&Plan::hosts(2).lease("3s"))?;
    ensure_served(&lab, "before")?;
    let host = lab.host(1);
    let mut quiet = (generation(host.netns())?, Instant::now());
    let mut renewed = 0;
    let mut lowest = u64::MAX;
    // What is left of the start may still be committed.
    lab.wait_until("renewals, and no transaction for as long", PATIENCE, || {
        let now = generation(host.netns())?;
        let left = lease_ms(host)?;
        if now != quiet.0 || left == 0 || !holds_a_lease(host)? {
            (quiet, renewed, lowest) = ((now, Instant::now()), 0, u64::MAX);
            return Ok(false);
        }
        renewed += u32::from(left > lowest);
        lowest = left;
        // On a busy machine the looks are few.
        Ok(renewed > 0 && quiet.1.elapsed() > QUIET)
    })?;
    ensure_served(&lab, "meanwhile")?;
    ensure!(generation(host.netns())? == quiet.0, "queries made the agent commit something");
    Ok(())
}

/// Others' transactions, large ones among them: nobody waits for anybody.
#[test]
fn a_host_keeps_its_lease_while_others_load_large_rulesets() -> Result<()> {
    // The machine may stand still for a second or two; the others' transactions last longer.
    let lab = Lab::start(&Plan::hosts(2).lease("3s"))?;
    let host = lab.host(1);
    let elements: Vec<String> =
        (0..200_000u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    let file = host.dir().join("large.nft");
    std::fs::write(
        &file,
        format!(
            "table ip large\ndelete table ip large\ntable ip large {{ set s {{ type ipv4_addr; elements = {{ {} }}; }}; }}\n",
            elements.join(", ")
        ),
    )?;
    for _ in 0..3 {
        host.netns().run("nft", &["-f", &file.display().to_string()])?;
        // Beside somebody who commits all the time it would not come to an end.
        host.netns().run("timeout", &["120", "nft", "list", "ruleset"])?;
    }
    sleep(Duration::from_secs(1));
    let log = host.agent_log(1000);
    ensure!(!log.contains("installing the rules anew"), "{log}");
    ensure!(!log.contains("the others did not confirm our heartbeats"), "{log}");
    lab.wait_settled()?;
    ensure_served(&lab, "afterwards")
}
