//! What conntrack sees of services, and what it is told to let be.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::{Host, Lab, Plan, Server, addr, client_v4, fetch_tcp};

const PATIENCE: Duration = Duration::from_secs(30);
const PUBLIC: u16 = 53;
const INSIDE: u16 = 5353;

fn start(services: &str) -> Result<Lab> {
    let mut plan = Plan::hosts(2);
    plan.definition.more = format!("services:\n{services}");
    let lab = Lab::build(&plan)?;
    lab.start_agents()?;
    lab.wait_settled()?;
    Ok(lab)
}

fn conntrack_count(host: &Host) -> Result<u64> {
    let count = host.netns().run("cat", &["/proc/sys/net/netfilter/nf_conntrack_count"])?;
    Ok(count.trim().parse()?)
}

/// Who answers a datagram to the shared address, from the port that was asked.
fn ask(lab: &Lab, client: IpAddr) -> Result<String> {
    lab.clients().within(|| {
        let socket = UdpSocket::bind((client, 0))?;
        // Answers from elsewhere do not get through.
        socket.connect(SocketAddr::from((addr::VIP4, PUBLIC)))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send(b"question")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).with_context(|| format!("{client} got no answer"))?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// The hosts translate the public port to the server's own, as operators and Docker do it.
#[test]
fn datagrams_can_be_translated_where_the_service_is_tracked() -> Result<()> {
    let lab = start(
        "  - { name: dns, ports: [53], protocols: [udp], track: always }\n  - { name: web, ports: [80] }\n",
    )?;
    let mut servers = Vec::new();
    for host in lab.hosts() {
        servers.push(host.start_server(INSIDE)?);
        host.netns().run("nft", &["add", "table", "ip", "nat"])?;
        let chain = "{ type nat hook prerouting priority dstnat; }";
        host.netns().run("nft", &["add", "chain", "ip", "nat", "in", chain])?;
        let rule = format!("udp dport {PUBLIC} redirect to :{INSIDE}");
        host.netns().run("nft", &["add", "rule", "ip", "nat", "in", &rule])?;
    }
    let clients = client_v4(40);
    let mut answers = Vec::new();
    for client in clients {
        lab.wait_until("an answer", PATIENCE, || {
            answers.push(ask(&lab, client)?);
            Ok(true)
        })?;
    }
    for host in ["h1 ", "h2 "] {
        ensure!(answers.iter().any(|answer| answer.starts_with(host)), "{host}answers nobody: {answers:?}");
    }
    Ok(())
}

#[test]
fn a_service_that_is_not_tracked_leaves_no_entry_and_others_do() -> Result<()> {
    let ask_all = |lab: &Lab, port: u16| -> Result<()> {
        let _servers: Vec<Server> =
            lab.hosts().iter().map(|h| h.start_server(port)).collect::<Result<_>>()?;
        for client in client_v4(10) {
            fetch_tcp(lab.clients(), client, (addr::VIP4, port).into(), 1000, PATIENCE)?;
        }
        Ok(())
    };
    // Where conntrack is at work, it has entries of the agents' own gossip too.
    let entries = |lab: &Lab, port: u16| -> Result<usize> {
        let port = port.to_string();
        let list = ["-L", "-p", "tcp", "--dport", &port];
        lab.hosts().iter().map(|host| Ok(host.netns().run("conntrack", &list)?.lines().count())).sum()
    };
    let quiet = start("  - { name: web, ports: [80], track: never }\n  - { name: default, track: never }\n")?;
    ask_all(&quiet, 80)?;
    for host in quiet.hosts() {
        ensure!(conntrack_count(host)? == 0, "conntrack has entries");
    }
    let both = start("  - { name: web, ports: [80], track: never }\n  - { name: mail, ports: [25] }\n")?;
    for port in [80, 25] {
        ask_all(&both, port)?;
    }
    ensure!(entries(&both, 80)? == 0, "conntrack has entries of the service that is not tracked");
    ensure!(entries(&both, 25)? > 0, "conntrack is not at work at all");
    let status = both.host(1).status()?;
    let table = &status["conntrack"];
    ensure!(table["count"].is_u64() && table["max"].as_u64() > Some(0), "{status}");
    let told = both.host(1).onemac(&["status"])?.stdout;
    ensure!(!told.contains("table is"), "{told}");
    let log = both.host(1).agent_log(1000);
    ensure!(log.contains("because TCP connections of mail are to survive"), "{log}");
    Ok(())
}
