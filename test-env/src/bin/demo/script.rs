//! The play: what is done, what is measured, which promises are held against it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use onemac_test_env::dns::{Log, Prober};
use onemac_test_env::{Lab, Plan, addr, owned_slices};
use serde::Serialize;

use crate::LABEL;
use crate::paper::{Paper, Promise};

const HOSTS: u8 = 4;
/// Clients of each family.
const CLIENTS: u16 = 250;
/// How often each client asks while power goes and comes.
const EVERY: Duration = Duration::from_millis(100);
/// The host that loses its power.
const VICTIM: usize = 2;
/// A healing that takes longer is a broken promise. The median with these timings is far below; this is
/// the worst that a busy machine may show.
const HEALING_LIMIT: Duration = Duration::from_secs(3);

/// Everything measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub hosts: u8,
    pub clients: usize,
    pub start_s: f64,
    pub before: Round,
    pub power_cut: Healing,
    pub without: Round,
    pub return_s: f64,
    pub return_longest_silence_s: f64,
    pub after: Round,
    pub promises: Vec<Promise>,
}

/// All clients asked once by UDP and once by TCP.
#[derive(Debug, Serialize)]
pub struct Round {
    pub slices: BTreeMap<String, u64>,
    pub udp: Asked,
    pub tcp: Asked,
}

/// What came back.
#[derive(Debug, Serialize)]
pub struct Asked {
    pub queries: usize,
    pub answered_once: usize,
    pub answered_twice: usize,
    pub unanswered: usize,
    pub clients_v4_by_host: BTreeMap<String, usize>,
    pub clients_v6_by_host: BTreeMap<String, usize>,
}

/// The power cut.
#[derive(Debug, Serialize)]
pub struct Healing {
    pub clients_hit: usize,
    pub last_client_served_again_s: Option<f64>,
    pub queries: usize,
    pub answered_twice: usize,
}

/// Plays it all. The lab is returned standing.
pub fn play(paper: &Paper) -> Result<(Figures, Lab)> {
    let mut plan = Plan::hosts(HOSTS);
    plan.label = Some(LABEL.to_owned());
    let started = Instant::now();
    paper.title(&format!(
        "{HOSTS} hosts, one address: {} and {}, one MAC address: {}",
        addr::VIP4,
        addr::VIP6,
        addr::CLUSTER_MAC
    ));
    let lab = Lab::build(&plan)?;
    let mut switch = lab.switch().watch(lab.dir())?;
    lab.start_nameservers()?;
    paper.time("switch, router, clients and hosts with a nameserver each", started.elapsed());
    let agents = Instant::now();
    lab.start_agents()?;
    lab.wait_settled()?;
    let start = agents.elapsed();
    paper.time("agents started, every slice has one owner", start);

    let prober = Prober::new(lab.clients(), CLIENTS, CLIENTS);
    let mut promises = Vec::new();
    paper.title(&format!("{CLIENTS} v4 and {CLIENTS} v6 clients ask for a name, by UDP and by TCP"));
    let before = round(paper, &lab, &prober, "with all hosts", usize::from(HOSTS), &mut promises)?;

    let victim = lab.host(VICTIM);
    paper.title(&format!("{} loses its power, while every client asks every {EVERY:?}", victim.name()));
    let watch = prober.watch(EVERY)?;
    std::thread::sleep(EVERY * 5);
    let cut = Instant::now();
    victim.power_off()?;
    lab.wait_settled()?;
    // A few more rounds after the cluster has agreed, so that the log shows the last client served.
    std::thread::sleep(EVERY * 10);
    let log = watch.stop()?;
    let power_cut = healing(paper, &log, cut, &mut promises);
    paper.title(&format!("Without {}", victim.name()));
    let without = round(paper, &lab, &prober, "with one host less", usize::from(HOSTS) - 1, &mut promises)?;

    paper.title(&format!("{} comes back", victim.name()));
    let watch = prober.watch(EVERY)?;
    std::thread::sleep(EVERY * 5);
    let (back, from) = (Instant::now(), Instant::now());
    victim.power_on()?;
    lab.wait_settled()?;
    let returned = back.elapsed();
    std::thread::sleep(EVERY * 10);
    let until = Instant::now();
    let log = watch.stop()?;
    let silence = log.longest_silence(from, until).map(|(silence, _)| silence).unwrap_or_default();
    paper.time("booted, joined, has its share", returned);
    paper.time("longest that any client went without an answer meanwhile", silence);
    promises.push(promise(
        "no query answered twice during the return",
        log.duplicates().is_empty(),
        &twice(&log),
    ));
    let after = round(paper, &lab, &prober, "after the return", usize::from(HOSTS), &mut promises)?;

    let sightings = switch.sightings(addr::CLUSTER_MAC)?;
    promises.push(promise(
        "the switch never learned the cluster MAC",
        sightings.is_empty(),
        &format!("{} sightings", sightings.len()),
    ));
    let figures = Figures {
        hosts: HOSTS,
        clients: prober.clients().len(),
        start_s: start.as_secs_f64(),
        before,
        power_cut,
        without,
        return_s: returned.as_secs_f64(),
        return_longest_silence_s: silence.as_secs_f64(),
        after,
        promises,
    };
    Ok((figures, lab))
}

fn round(
    paper: &Paper,
    lab: &Lab,
    prober: &Prober,
    when: &str,
    serving: usize,
    promises: &mut Vec<Promise>,
) -> Result<Round> {
    let (udp, tcp) = (prober.udp()?, prober.tcp()?);
    let mut slices = Vec::new();
    for host in lab.hosts().iter().filter(|host| host.agent_is_living()) {
        slices.push((host.name(), owned_slices(&host.status()?)?));
    }
    paper.shares(lab, &slices, &udp, &tcp);
    let asked = udp.queries() + tcp.queries();
    let once = udp.answered_once() + tcp.answered_once();
    promises.push(promise(
        &format!("every query answered exactly once {when}"),
        once == asked && udp.errors().is_empty() && tcp.errors().is_empty(),
        &format!("{once} of {asked}"),
    ));
    for (client, who) in udp.losers().into_iter().take(5) {
        paper.note(&format!(
            "{client}: a query by UDP was lost; served at last by {}",
            who.unwrap_or("nobody")
        ));
    }
    for error in
        udp.errors().iter().chain(&tcp.errors()).chain(&udp.duplicates()).chain(&tcp.duplicates()).take(5)
    {
        paper.note(error);
    }
    let servers = udp.shares().len();
    promises.push(promise(
        &format!("every living host serves {when}"),
        servers == serving,
        &format!("{servers} of {serving}"),
    ));
    Ok(Round { slices: slices.into_iter().collect(), udp: asked_of(&udp), tcp: asked_of(&tcp) })
}

fn healing(paper: &Paper, log: &Log, cut: Instant, promises: &mut Vec<Promise>) -> Healing {
    let healed = log.healed(cut);
    let hit = log.clients.iter().filter(|client| client.served_again(cut).is_some()).count();
    paper.figure("clients that lost a query", &format!("{hit} of {}", log.clients.len()));
    if let Some((time, _)) = healed {
        paper.time("from the cut until the last of them is served again", time);
    }
    promises.push(promise(
        &format!("all clients served again within {} s", HEALING_LIMIT.as_secs()),
        healed.is_some_and(|(time, _)| time <= HEALING_LIMIT),
        &healed
            .map_or("some are still unserved".to_owned(), |(time, _)| format!("{:.2} s", time.as_secs_f64())),
    ));
    promises.push(promise(
        "no query answered twice during the healing",
        log.duplicates().is_empty(),
        &twice(log),
    ));
    Healing {
        clients_hit: hit,
        last_client_served_again_s: healed.map(|(time, _)| time.as_secs_f64()),
        queries: log.queries(),
        answered_twice: log.duplicates().len(),
    }
}

fn twice(log: &Log) -> String {
    format!("{} of {}", log.duplicates().len(), log.queries())
}

fn asked_of(log: &Log) -> Asked {
    let shares = log.shares();
    Asked {
        queries: log.queries(),
        answered_once: log.answered_once(),
        answered_twice: log.duplicates().len(),
        unanswered: log.lost(),
        clients_v4_by_host: shares.iter().map(|(host, (v4, _))| (host.clone(), *v4)).collect(),
        clients_v6_by_host: shares.iter().map(|(host, (_, v6))| (host.clone(), *v6)).collect(),
    }
}

fn promise(text: &str, kept: bool, seen: &str) -> Promise {
    Promise { promise: text.to_owned(), kept, seen: seen.to_owned() }
}
