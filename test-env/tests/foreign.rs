//! What is not onemac's stays as it is; what is onemac's reads well and goes away.

use anyhow::{Result, ensure};
use onemac_test_env::{Host, Lab, Plan, Snapshot};

/// Rules, addresses, routes and settings of an operator, some of them near to what an agent touches.
fn furnish(host: &Host) -> Result<()> {
    host.netns().run(
        "nft",
        &["table inet filter { chain input { type filter hook input priority 0; policy accept; ct state invalid counter; }; }; \
           table netdev shield { chain in { type filter hook ingress device eth0 priority -10; policy accept; \
           ip saddr 203.0.113.99 drop; }; }; \
           table ip nat { set some { type ipv4_addr; elements = { 10.9.9.9 }; }; \
           chain post { type nat hook postrouting priority 100; policy accept; }; }"],
    )?;
    host.netns().ip(
        "addr add 10.9.9.1/24 dev eth0\naddr add 10.9.9.2/32 dev lo\naddr add 2001:db8:99::1/64 dev eth0 nodad\n\
         route add 10.77.0.0/16 via 192.0.2.1 metric 50\nroute add 2001:db8:77::/48 via 2001:db8:0:1::1\n\
         rule add from 10.9.9.1 table 100\nroute add default via 192.0.2.1 table 100",
    )?;
    host.netns().sysctl(&[
        ("net.ipv4.conf.eth0.rp_filter", "1"),
        ("net.ipv4.conf.eth0.arp_notify", "1"),
        ("net.ipv4.conf.default.arp_ignore", "2"),
        ("net.ipv6.conf.default.accept_dad", "2"),
        ("net.ipv6.conf.all.use_tempaddr", "1"),
        ("net.netfilter.nf_conntrack_tcp_loose", "1"),
    ])
}

/// The names of all nftables tables of a host.
fn tables(host: &Host) -> Result<Vec<String>> {
    let text = host.netns().run("nft", &["list", "tables"])?;
    Ok(text.lines().map(|line| line.trim_start_matches("table ").to_owned()).collect())
}

fn ensure_gone(host: &Host, when: &str) -> Result<()> {
    let left: Vec<String> = tables(host)?.into_iter().filter(|table| table.contains("onemac")).collect();
    ensure!(left.is_empty(), "{when}: {left:?} still there");
    let links = host.netns().run("ip", &["-o", "link", "show"])?;
    ensure!(!links.contains("onemac0"), "{when}: the device is still there");
    let addresses = host.netns().run("ip", &["-o", "addr", "show"])?;
    for vip in ["192.0.2.53", "2001:db8:0:1::53"] {
        ensure!(!addresses.contains(&format!(" {vip}/")), "{when}: {vip} is still there");
    }
    Ok(())
}

#[test]
fn foreign_configuration_is_the_same_before_and_after() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let host = lab.host(1);
    furnish(host)?;
    let before = Snapshot::take(host.netns())?;

    lab.start_agents()?;
    lab.wait_settled()?;
    let foreign: Vec<String> = tables(host)?.into_iter().filter(|table| !table.contains("onemac")).collect();
    assert_eq!(foreign, ["inet filter", "netdev shield", "ip nat"]);
    let status = host.stop_agent()?;
    ensure!(status.success(), "SIGTERM ended the agent with {status}:\n{}", host.agent_log(20));
    ensure_gone(host, "after SIGTERM")?;
    before.ensure_same(&Snapshot::take(host.netns())?, "after SIGTERM")?;

    host.start_agent()?;
    lab.wait_settled()?;
    host.kill_agent();
    let clean = host.onemac(&["clean"])?;
    ensure!(clean.code == 0, "{clean:?}");
    ensure_gone(host, "after SIGKILL and clean")?;
    before.ensure_same(&Snapshot::take(host.netns())?, "after SIGKILL and clean")?;

    // A take-over in between must not lose what the first agent found.
    host.start_agent()?;
    lab.wait_settled()?;
    host.kill_agent();
    host.start_agent()?;
    lab.wait_settled()?;
    ensure!(host.stop_agent()?.success(), "{}", host.agent_log(20));
    ensure_gone(host, "after a take-over and SIGTERM")?;
    before.ensure_same(&Snapshot::take(host.netns())?, "after a take-over and SIGTERM")?;

    // Cleaning what is clean does nothing.
    let clean = host.onemac(&["clean"])?;
    ensure!(clean.code == 0, "{clean:?}");
    before.ensure_same(&Snapshot::take(host.netns())?, "after a needless clean")
}

#[test]
fn the_ruleset_lists_and_every_table_is_named_after_the_project() -> Result<()> {
    for slices in [16, 1024, 4096] {
        let mut plan = Plan::hosts(2);
        plan.definition.slices = slices;
        let lab = Lab::build(&plan)?;
        lab.start_agents()?;
        lab.wait_settled()?;
        let host = lab.host(1);
        // Debian 12's nft is known to crash on some sets; run() fails on any exit status but 0.
        let text = host.netns().run("nft", &["list", "ruleset"])?;
        let names = tables(host)?;
        ensure!(!names.is_empty() && names.iter().all(|name| name.contains("onemac")), "{names:?}");
        for part in ["192.0.2.53", "2001:db8:0:1::53", "jhash", "02:bf:c0:00:02:35", "eth0"] {
            ensure!(text.contains(part), "no {part} in the listing with {slices} slices:\n{text}");
        }
        let json = host.netns().run("nft", &["-j", "list", "ruleset"])?;
        let _: serde_json::Value = serde_json::from_str(&json)?;
    }
    Ok(())
}
