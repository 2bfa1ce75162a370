//! The wire fails between hosts, not the hosts: who serves, and that nobody is served twice.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use onemac_test_env::dns::{Log, Prober};
use onemac_test_env::{Lab, Plan, owned_slices};

const EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

fn prober(lab: &Lab) -> Prober {
    Prober::new(lab.clients(), 100, 100)
}

fn ensure_served(lab: &Lab, when: &str, hosts: &[&str]) -> Result<Log> {
    let log = prober(lab).udp()?;
    log.ensure_once(when)?;
    let shares = log.shares();
    let serving: Vec<&str> = shares.keys().map(String::as_str).collect();
    ensure!(serving == hosts, "{when}: served by {shares:?} instead of {hosts:?}");
    Ok(log)
}

/// Waits until these hosts own every slice between them, and the others own `rest` between them.
fn wait_owned(lab: &Lab, what: &str, hosts: &[usize], rest: u64) -> Result<()> {
    let all = u64::from(lab.definition().slices);
    lab.wait_until(what, PATIENCE, || {
        let (mut inside, mut outside) = (0, 0);
        for (index, host) in lab.hosts().iter().enumerate() {
            let owned = owned_slices(&host.status()?)?;
            if hosts.contains(&(index + 1)) { inside += owned } else { outside += owned }
        }
        ensure!(inside == all && outside == rest, "{inside} of {all} are owned, and {outside} elsewhere");
        Ok(true)
    })?;
    Ok(())
}

#[test]
fn a_host_without_its_cable_holds_nothing_and_comes_back_as_a_newcomer() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(3))?;
    let watch = prober(&lab).watch(EVERY)?;
    lab.host(1).set_cable(false)?;
    wait_owned(&lab, "the others have divided its share, and it has none", &[2, 3], 0)?;
    ensure_served(&lab, "while the cable is out", &["h2", "h3"])?;
    lab.host(1).set_cable(true)?;
    lab.wait_settled()?;
    sleep(EVERY * 5);
    watch.stop()?.ensure_never_twice("through the cut")?;
    ensure_served(&lab, "at the end", &["h1", "h2", "h3"])?;
    Ok(())
}

#[test]
fn the_smaller_side_falls_silent_where_the_majority_is_to_serve() -> Result<()> {
    let mut plan = Plan::hosts(3);
    plan.definition.more = "partition: majority\n".to_owned();
    let lab = Lab::start(&plan)?;
    let watch = prober(&lab).watch(EVERY)?;
    // The clients go on reaching all three.
    lab.switch().part(&["h1"], &["h2", "h3"], "")?;
    wait_owned(&lab, "the larger side serves all", &[2, 3], 0)?;
    ensure_served(&lab, "while parted", &["h2", "h3"])?;
    lab.switch().join()?;
    lab.wait_settled()?;
    sleep(EVERY * 5);
    watch.stop()?.ensure_never_twice("through the partition")?;
    ensure_served(&lab, "at the end", &["h1", "h2", "h3"])?;
    Ok(())
}

#[test]
fn both_sides_serve_where_each_has_its_own_clients() -> Result<()> {
    // The router and its clients are on the side of h2 and h3; h1's side has the neighbour.
    let lab = Lab::start(&Plan::hosts(3))?;
    let watch = prober(&lab).watch(EVERY)?;
    lab.switch().part(&["h1", "lan"], &["h2", "h3", "router"], "")?;
    let all = u64::from(lab.definition().slices);
    // Who hears nothing of anybody serves nobody: on h1's side too there are clients that ask.
    let neighbours = onemac_test_env::neighbour_v4(20).into_iter().map(Into::into);
    let near = Prober::at(lab.neighbour(), neighbours.collect());
    let asking = near.watch(EVERY)?;
    wait_owned(&lab, "each side owns everything", &[2, 3], all)?;
    asking.stop()?.ensure_never_twice("on h1's side")?;
    ensure_served(&lab, "on the router's side", &["h2", "h3"])?;
    near.udp()?.ensure_once("on h1's side")?;
    let back = Instant::now();
    lab.switch().join()?;
    lab.wait_settled()?;
    let settled = Instant::now();
    sleep(EVERY * 5);
    let log = watch.stop()?;
    // For the moment until the sides hear each other, both are reached by everybody. At no other time.
    let elsewhen: Vec<_> = log
        .clients
        .iter()
        .flat_map(|client| client.queries.iter().map(move |query| (client.client, query)))
        .filter(|(_, query)| query.answers.len() > 1 && !(back..settled).contains(&query.sent))
        .collect();
    ensure!(elsewhen.is_empty(), "answered twice: {elsewhen:?}");
    ensure_served(&lab, "at the end", &["h1", "h2", "h3"])?;
    Ok(())
}

#[test]
fn a_cut_gossip_network_is_no_cut_cluster() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(3))?;
    let before = ensure_served(&lab, "before", &["h1", "h2", "h3"])?;
    let watch = prober(&lab).watch(EVERY)?;
    // Gossip of h1 is lost both ways; every other frame passes, as between hosts that gossip elsewhere.
    lab.switch().part(&["h1"], &["h2", "h3"], "udp dport 7946")?;
    // Several times the expiry, in which a split would show.
    sleep(Duration::from_secs(5));
    lab.wait_settled()?;
    let log = watch.stop()?;
    log.ensure_never_twice("without gossip")?;
    // A share that moved, even once, would have cost each of its clients several queries.
    ensure!(log.lost() * 100 <= log.queries(), "{} of {} queries were lost", log.lost(), log.queries());
    let after = ensure_served(&lab, "without gossip", &["h1", "h2", "h3"])?;
    assert_eq!(before.shares(), after.shares());
    Ok(())
}

/// An operator hears before a leave what it costs those who stay, and the log has it.
#[test]
fn a_leave_after_which_nobody_serves_says_so_before() -> Result<()> {
    let mut plan = Plan::hosts(2);
    plan.definition.more = "partition: majority\n".to_owned();
    let lab = Lab::start(&plan)?;
    let (first, second) = (lab.host(1), lab.host(2));
    let says = "if h1 leaves, nobody serves";
    let status = first.status()?;
    ensure!(status["notes"][0]["what"].as_str().is_some_and(|what| what.starts_with(says)), "{status}");
    ensure!(status["warnings"].as_array().is_some_and(Vec::is_empty), "a note is no warning: {status}");
    let text = first.onemac(&["status"])?.stdout;
    ensure!(text.contains(&format!("note: {says}")) && text.contains("-> add a host"), "{text}");
    let other = second.status()?;
    ensure!(other["notes"].as_array().is_some_and(Vec::is_empty), "h1 alone may serve: {other}");

    first.stop_agent()?;
    let log = first.agent_log(1000);
    let (warned, left) = (log.find(says), log.find("leaving: handing the slices over"));
    ensure!(warned.is_some() && warned < left, "{log}");
    lab.wait_until("h2 to fall silent", PATIENCE, || Ok(owned_slices(&second.status()?)? == 0))?;
    Ok(())
}

/// Who knows the secret and runs by another definition, in which it is, has no part in this cluster.
#[test]
fn a_host_that_is_in_nobodys_definition_is_not_listened_to() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3).lease("3s"))?;
    let mut without = lab.definition().clone();
    without.hosts.pop();
    let ours = [lab.host(1), lab.host(2)];
    for host in ours {
        host.write_definition(&without)?;
        host.start_agent()?;
    }
    let serve = || -> Result<bool> {
        for host in ours {
            let status = host.status()?;
            ensure!(status["view"]["agreed"] == true && owned_slices(&status)? == 512, "{status}");
        }
        Ok(true)
    };
    lab.wait_until("two hosts to serve", PATIENCE, serve)?;
    let lives = [ours[0].incarnation()?, ours[1].incarnation()?];
    lab.host(3).start_agent()?;
    let told = "h3 speaks, with our secret, and is not in the definition";
    for host in ours {
        lab.wait_until(told, PATIENCE, || Ok(host.agent_log(1000).contains(told)))?;
    }
    // Longer than a lease.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        serve()?;
        sleep(EVERY);
    }
    ensure!(lives == [ours[0].incarnation()?, ours[1].incarnation()?], "one began anew");
    for host in ours {
        ensure!(host.agent_log(1000).matches(told).count() == 1, "{}", host.agent_log(30));
    }
    Ok(())
}
