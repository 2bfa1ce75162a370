//! Who serves whom: every query is answered once, by the host that the shares say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::{Capture, Lab, Plan, frames, owned_slices};

#[test]
fn every_query_is_answered_once_by_udp_and_tcp_v4_and_v6() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(4))?;
    let prober = Prober::new(lab.clients(), 250, 250);
    let tap = Capture::start(lab.clients(), "eth0")?;
    let udp = prober.udp()?;
    udp.ensure_once("UDP")?;
    let tcp = prober.tcp()?;
    tcp.ensure_once("TCP")?;
    // The same client has the same server, whatever it asks by.
    for client in prober.clients() {
        assert_eq!(udp.server_of(*client), tcp.server_of(*client), "{client}");
    }
    assert_eq!(udp.shares().len(), 4, "somebody serves nobody: {:?}", udp.shares());
    // On the wire too: one host accepted each connection, as its one initial sequence number shows.
    let mut accepted: BTreeMap<(IpAddr, u16), BTreeSet<u32>> = BTreeMap::new();
    for frame in tap.stop()?.iter().filter(|frame| !frame.outgoing) {
        if let (Some((53, port, flags, sequence)), Some((_, client))) =
            (frames::tcp(&frame.data), frames::addresses(&frame.data))
            && flags & 0x12 == 0x12
        {
            accepted.entry((client, port)).or_default().insert(sequence);
        }
    }
    assert_eq!(accepted.len(), 500);
    let twice: Vec<_> = accepted.iter().filter(|(_, sequences)| sequences.len() > 1).collect();
    assert!(twice.is_empty(), "accepted by several hosts: {twice:?}");
    Ok(())
}

#[test]
fn hosts_have_their_quota_of_slices_and_serve_the_clients_of_these() -> Result<()> {
    let mut plan = Plan::hosts(3);
    // 1024 slices at 3 : 2 : 0 are 614.4 and 409.6, so 614 and 410 by largest remainder.
    for (member, weight) in plan.definition.hosts.iter_mut().zip([3, 2, 0]) {
        member.weight = weight;
    }
    let lab = Lab::start(&plan)?;
    for (host, quota) in lab.hosts().iter().zip([614, 410, 0]) {
        assert_eq!(owned_slices(&host.status()?)?, quota, "{}", host.name());
    }
    // What one host says of all is the same.
    lab.wait_until("every host tells the same shares", Duration::from_secs(20), || {
        for host in lab.hosts() {
            let status = host.status()?;
            let told: Vec<u64> = status["hosts"]
                .as_array()
                .context("no hosts")?
                .iter()
                .map(|host| host["slices"]["default"].as_u64().unwrap_or(0))
                .collect();
            ensure!(told == [614, 410, 0], "{} tells {told:?}", host.name());
        }
        Ok(true)
    })?;
    let prober = Prober::new(lab.clients(), 500, 500);
    let log = prober.udp()?;
    log.ensure_once("UDP")?;
    let shares = log.shares();
    assert!(!shares.contains_key("h3"), "a host of weight 0 serves: {shares:?}");
    // 1000 clients of which 60 % are expected at h1: standard deviation 15.5, so 8 of them lie within ±124.
    let (v4, v6) = shares["h1"];
    assert!((476..=724).contains(&(v4 + v6)), "{shares:?}");
    Ok(())
}

#[test]
fn owner_tells_who_answers() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(3))?;
    let prober = Prober::new(lab.clients(), 12, 12);
    let log = prober.udp()?;
    log.ensure_once("UDP")?;
    for client in prober.clients() {
        let told = lab.host(1).onemac(&["owner", &client.to_string(), "--json"])?;
        assert_eq!(told.code, 0, "{told:?}");
        let told: serde_json::Value = serde_json::from_str(&told.stdout)?;
        assert_eq!(told["owner"].as_str(), log.server_of(*client), "{client}: {told}");
    }
    Ok(())
}
