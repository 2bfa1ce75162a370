//! Services by port: each has slices of its own, and only those with connections cost conntrack.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::tcp::Crowd;
use onemac_test_env::{Host, Lab, Plan};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// How many slices a host accepts, by service.
fn owned(host: &Host) -> Result<BTreeMap<String, u64>> {
    let status = host.status()?;
    let services = status["services"].as_array().context("no services")?;
    let entry = |s: &Value| Some((s["name"].as_str()?.to_owned(), s["owned"].as_u64()?));
    services.iter().map(|s| entry(s).context("a service without its numbers")).collect()
}

fn conntrack_count(host: &Host) -> Result<u64> {
    let count = host.netns().run("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"])?;
    Ok(count.trim().parse()?)
}

fn owner(host: &Host, client: Ipv4Addr, service: &str) -> Result<String> {
    let ended = host.onemac(&["owner", &IpAddr::V4(client).to_string(), "--service", service, "--json"])?;
    let answer: Value = serde_json::from_str(&ended.stdout)?;
    Ok(answer["owner"].as_str().context("nobody")?.to_owned())
}

#[test]
fn a_drained_service_leaves_a_host_and_the_others_stay() -> Result<()> {
    let mut plan = Plan::hosts(3);
    plan.definition.more =
        "services:\n  - { name: dns, ports: [53], protocols: [udp, tcp] }\n  - { name: echo, ports: [7000-7010] }\n"
            .into();
    let lab = Lab::build(&plan)?;
    lab.start_nameservers()?;
    lab.start_echoes()?;
    lab.start_agents()?;
    let all_agree =
        || lab.hosts().iter().map(|h| Ok(h.status()?["view"]["agreed"] == true)).collect::<Result<Vec<_>>>();
    lab.wait_until("all to serve", PATIENCE, || {
        let whole = |name: &str| -> Result<u64> {
            lab.hosts().iter().map(|h| Ok(*owned(h)?.get(name).context("no such service")?)).sum()
        };
        Ok(all_agree()?.iter().all(|a| *a)
            && whole("dns")? == 1024
            && whole("echo")? == 1024
            && whole("default")? == 1024)
    })?;
    // Slices of one number have an owner for each service.
    let clients: Vec<Ipv4Addr> = (1..=60).map(|i| Ipv4Addr::new(198, 18, 0, i)).collect();
    let differ = clients
        .iter()
        .filter(|c| owner(lab.host(1), **c, "dns").ok() != owner(lab.host(1), **c, "echo").ok());
    ensure!(differ.count() > 10, "the services do not differ");

    let crowd = Crowd::open(&lab, 60)?;
    let prober = Prober::new(lab.clients(), 40, 40);
    prober.udp()?.ensure_once("before")?;
    let ended = lab.host(1).onemac(&["drain", "--host", "h2", "--service", "dns"])?;
    ensure!(ended.code == 0, "{}{}", ended.stdout, ended.stderr);
    lab.wait_until("h2 to have no DNS", PATIENCE, || Ok(owned(lab.host(2))?["dns"] == 0))?;
    ensure!(owned(lab.host(2))?["echo"] > 300, "{:?}", owned(lab.host(2))?);
    prober.udp()?.ensure_once("UDP after the drain")?;
    prober.tcp()?.ensure_once("TCP after the drain")?;
    crowd.wait_unbroken("the drain of another service", PATIENCE)?;
    Ok(())
}

#[test]
fn services_of_udp_alone_leave_conntrack_alone() -> Result<()> {
    let mut plan = Plan::hosts(2);
    plan.definition.more = "services:\n  - { name: dns, ports: [53], protocols: [udp] }\n".into();
    let lab = Lab::build(&plan)?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_until("both to serve", PATIENCE, || {
        Ok(owned(lab.host(1))?["dns"] == 512 && owned(lab.host(2))?["dns"] == 512)
    })?;
    let prober = Prober::new(lab.clients(), 40, 40);
    prober.udp()?.ensure_once("before")?;
    for host in lab.hosts() {
        ensure!(conntrack_count(host)? == 0, "{} tracks connections", host.name());
        let rules = host.netns().run("nft", &["list", "ruleset"])?;
        ensure!(!rules.contains("ct state"), "{rules}");
    }
    Ok(())
}
