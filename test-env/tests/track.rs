//! What conntrack sees of services, and what it is told to let be.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use onemac_test_env::tcp::{Crowd, Load};
use onemac_test_env::{Host, Lab, Plan, Server, addr, ask_udp, client_v4, fetch_tcp, owned_slices};
use serde_json::Value;

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
    conntrack_number(host, "count")
}

fn conntrack_number(host: &Host, what: &str) -> Result<u64> {
    let number = host.netns().run("cat", &[&format!("/proc/sys/net/netfilter/nf_conntrack_{what}")])?;
    Ok(number.trim().parse()?)
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

/// Fills a host's table, to the limit that the machine has: only its first namespace could change that.
struct Filler<'a> {
    host: &'a Host,
    max: u64,
    /// The number of the next entry.
    next: u64,
}

impl<'a> Filler<'a> {
    /// More would take too much of a machine.
    const MOST: u64 = 1_000_000;

    fn new(host: &'a Host) -> Result<Self> {
        // The first request loads conntrack.
        host.netns().run("conntrack", &["-C"])?;
        let max = conntrack_number(host, "max")?;
        ensure!(
            (1..=Self::MOST).contains(&max),
            "net.netfilter.nf_conntrack_max of this machine is {max}: this test fills a table of 1 to {} entries",
            Self::MOST
        );
        Ok(Self { host, max, next: 0 })
    }

    /// Adds established connections of elsewhere to the host's own address until the kernel takes no more. Such entries
    /// stay; those of half a connection it would throw out for others.
    fn fill(&mut self) -> Result<()> {
        let file = self.host.dir().join("entries");
        // Entries that nobody answered may go meanwhile.
        for _ in 0..20 {
            let missing = self.max.saturating_sub(conntrack_count(self.host)?) + 10;
            let mut entries = String::new();
            for number in self.next..self.next + missing {
                let (a, b, c) = (18 + (number >> 16 & 1), number >> 8 & 255, number & 255);
                let port = 1024 + (number >> 17);
                writeln!(
                    entries,
                    "-A -s 198.{a}.{b}.{c} -d {} -p tcp --sport {port} --dport 443 --state ESTABLISHED \
                     -u SEEN_REPLY,ASSURED -t 3600",
                    self.host.v4()
                )?;
            }
            self.next += missing;
            fs::write(&file, entries)?;
            match self.host.netns().run("conntrack", &["-R", &file.display().to_string()]) {
                Ok(_) => {}
                Err(error) if format!("{error:#}").contains("not enough memory") => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        bail!("the table does not become full: {} of {}", conntrack_count(self.host)?, self.max)
    }

    fn flush(&self) -> Result<()> {
        self.host.netns().run("conntrack", &["-F"]).map(drop)
    }
}

/// The warning about the table, in a host's status.
fn table_warning(host: &Host) -> Result<Option<Value>> {
    let status = host.status()?;
    let mut warnings = status["warnings"].as_array().context("no warnings")?.iter();
    let about = |w: &&Value| w["what"].as_str().is_some_and(|what| what.starts_with("conntrack's table"));
    Ok(warnings.find(about).cloned())
}

/// What may not change because of a full table.
fn standing(lab: &Lab) -> Result<Vec<(u64, Value, u64)>> {
    lab.hosts()
        .iter()
        .map(|host| {
            let status = host.status()?;
            let hosts = status["hosts"].as_array().context("no hosts")?;
            ensure!(hosts.iter().all(|h| h["alive"] == true), "{} sees: {status}", host.name());
            let life = status["incarnation"].as_u64().context("no incarnation")?;
            Ok((life, status["view"].clone(), owned_slices(&status)?))
        })
        .collect()
}

/// Full tables are told, cost this host's new TCP connections, and nothing else: neither the agent's gossip nor
/// datagrams to the shared addresses nor connections that are there. When there is room, all is as before.
#[test]
fn a_full_table_turns_away_new_connections_and_nothing_else() -> Result<()> {
    const PORT: u16 = 7;
    let mut plan = Plan::hosts(2);
    // Filling and flushing keep a processor busy: no host is to be lost for that.
    plan.definition.lease = Some("3s".into());
    let lab = Lab::build(&plan)?;
    let (full, other) = (lab.host(1), lab.host(2));
    let mut filler = Filler::new(full)?;
    // Nothing of the agents is known to conntrack yet, and nothing new will be.
    filler.fill()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    // Beacons on the service wire would do for that.
    lab.wait_until("gossip by datagrams", PATIENCE, || {
        for (host, peer) in [(full, other), (other, full)] {
            let status = host.status()?;
            let hosts = status["hosts"].as_array().context("no hosts")?;
            let heard = hosts.iter().any(|h| h["name"] == peer.name() && h["secret"].is_string());
            ensure!(heard, "{} has no datagram of {}: {status}", host.name(), peer.name());
        }
        Ok(true)
    })?;
    for host in lab.hosts() {
        let entries = host.netns().run("conntrack", &["-L", "-p", "udp", "--dport", "7946"])?;
        ensure!(entries.is_empty(), "gossip is tracked: {entries}");
    }
    let _servers: Vec<Server> = lab.hosts().iter().map(|h| h.start_server(PORT)).collect::<Result<_>>()?;
    let vip = SocketAddr::from((addr::VIP4, PORT));
    let ask_all = || -> Result<Vec<(IpAddr, String)>> {
        let ask = |client| Ok((client, ask_udp(lab.clients(), client, vip, 100, PATIENCE)?.0));
        client_v4(40).into_iter().map(ask).collect()
    };
    let connects = |client, patience| fetch_tcp(lab.clients(), client, vip, 1000, patience);
    let answered = ask_all()?;
    let clients_of = |host: &Host| -> Vec<IpAddr> {
        answered.iter().filter(|(_, name)| *name == host.name()).map(|(client, _)| *client).collect()
    };
    let (to_full, to_other) = (clients_of(full), clients_of(other));
    ensure!(to_full.len() > 4 && to_other.len() > 4, "{answered:?}");

    filler.flush()?;
    lab.wait_until("the warning to go", PATIENCE, || Ok(table_warning(full)?.is_none()))?;
    lab.start_echoes()?;
    let crowd = Crowd::open_with(lab.clients(), Load { addresses: 40, ..Load::of(80) })?;
    ensure!(crowd.report().by_host.contains_key(&1), "{}", crowd.report());
    let before = standing(&lab)?;

    filler.fill()?;
    lab.wait_until("a warning", PATIENCE, || {
        let Some(warning) = table_warning(full)? else { return Ok(false) };
        let told = warning.to_string();
        ensure!(
            told.contains(&format!("full ({} entries)", filler.max)) && told.contains("nf_conntrack_max"),
            "{told}"
        );
        Ok(true)
    })?;
    let table = &full.status()?["conntrack"];
    ensure!(table["count"] == filler.max && table["max"] == filler.max, "{table}");
    let told = full.onemac(&["status"])?.stdout;
    ensure!(told.contains("this host drops new connections"), "{told}");
    ensure!(table_warning(other)?.is_none(), "the other host's table is full too");

    // An entry may have ended by itself, and its place been taken.
    lab.wait_until("no new connection to come about", PATIENCE * 4, || {
        filler.fill()?;
        let through =
            to_full.iter().take(5).filter(|client| connects(**client, Duration::from_secs(3)).is_ok());
        let through: Vec<_> = through.collect();
        ensure!(through.is_empty(), "{through:?} connected");
        Ok(true)
    })?;
    for client in &to_other {
        connects(*client, PATIENCE)?;
    }
    let names = ask_all()?;
    ensure!(names == answered, "datagrams have gone elsewhere: {names:?}, not {answered:?}");
    crowd.wait_unbroken("with a full table", PATIENCE)?;
    let now = standing(&lab)?;
    ensure!(
        now == before,
        "{now:?}, not {before:?}; h1: {}\nh2: {}",
        full.agent_log(50),
        other.agent_log(50)
    );
    ensure!(conntrack_count(full)? == filler.max, "the table was not full all the time");

    // What an operator can do who has no time to look for the cause.
    let drained = full.onemac(&["drain"])?;
    ensure!(drained.code == 0, "{drained:?}");
    for client in &to_full {
        let who = connects(*client, PATIENCE)?;
        ensure!(who == other.name(), "{client} reached {who}, which is drained");
    }
    crowd.wait_unbroken("drained, with a full table", PATIENCE)?;
    ensure!(full.onemac(&["resume"])?.code == 0, "no resume");
    lab.wait_settled()?;
    let before: Vec<_> = before.into_iter().map(|(life, _, owned)| (life, owned)).collect();

    filler.flush()?;
    lab.wait_until("the warning to go", PATIENCE, || Ok(table_warning(full)?.is_none()))?;
    for client in &to_full {
        connects(*client, PATIENCE)?;
    }
    crowd.wait_unbroken("with room again", PATIENCE)?;
    let now: Vec<_> = standing(&lab)?.into_iter().map(|(life, _, owned)| (life, owned)).collect();
    ensure!(now == before, "{now:?}, not {before:?}");
    Ok(())
}
