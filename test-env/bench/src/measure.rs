//! The measurement: first that everybody does what is said of him, then round after round.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::bpf::{Action, Program};
use crate::contender::{CLIENTS, Contender, Share, TRIED, Witness, client};
use crate::frame::{self, Transport};
use crate::lab::{self, DEVICE, Lab};

/// How much work is done.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Turns of every contender.
    pub rounds: usize,
    /// Timed frames in one turn.
    pub frames: u32,
    /// Frames that are handed to the stack at once.
    pub batch: u32,
    /// What is in them.
    pub transport: Transport,
}

/// What one contender took.
#[derive(Debug)]
pub struct Figure {
    /// [`Contender::name`].
    pub name: String,
    /// [`Contender::what`].
    pub what: String,
    /// Clients that it let pass, of [`TRIED`]; none for the product, whose lease nobody renews here.
    pub accepted_clients: usize,
    /// Nanoseconds of CPU time for one frame, a value for each round.
    pub ns: Vec<f64>,
}

/// A contender with its frames.
struct Turn<'a> {
    contender: &'a Contender,
    frame: Vec<u8>,
    program: Program,
    accepted_clients: usize,
}

/// Checks every contender, then measures all of them in turn.
///
/// # Errors
/// If one can not be loaded, or does not reject what it should, or the injector does not work.
pub fn all(lab: &Lab, contenders: &[Contender], effort: Effort) -> Result<Vec<Figure>> {
    let mut turns = Vec::new();
    for contender in contenders {
        turns.push(prepare(lab, contender, effort)?);
    }
    rounds(lab, &turns, effort)
}

fn rounds(lab: &Lab, turns: &[Turn<'_>], effort: Effort) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = turns
        .iter()
        .map(|turn| Figure {
            name: turn.contender.name.clone(),
            what: turn.contender.what.clone(),
            accepted_clients: turn.accepted_clients,
            ns: Vec::new(),
        })
        .collect();
    for round in 0..effort.rounds {
        for index in 0..turns.len() {
            // Another one begins each round, so that nobody always comes after the same neighbour.
            let index = (index + round) % turns.len();
            let ns = time(lab, &turns[index], effort)?;
            figures[index].ns.push(ns);
        }
    }
    Ok(figures)
}

/// The same for packets that are accepted: that every client arrives, and what that takes.
///
/// # Errors
/// As [`all`].
pub fn accepted(lab: &Lab, contenders: &[Contender], effort: Effort) -> Result<Vec<Figure>> {
    let clients: Vec<IpAddr> = (0..CLIENTS as u32).map(|n| client(contenders[0].vip, n)).collect();
    if effort.transport == Transport::Ack {
        connect(&clients, contenders[0].vip)?;
    }
    let mut turns = Vec::new();
    for contender in contenders {
        let program = mixed(contender, Action::Pass, &clients, effort.transport)?;
        let frame = frame::frame(contender.mac, clients[0], contender.vip, effort.transport);
        contender.load()?;
        lab::run_with_input("nft", &["-f", "-"], &witness(contender, 50))?;
        program.run(&frame, lab.ifindex, TRIED * 64, effort.batch)?;
        let seen = seen(contender.witness)?;
        contender.unload()?;
        ensure!(
            seen.len() == clients.len(),
            "\"{}\": {} of {} clients arrived",
            contender.name,
            seen.len(),
            clients.len()
        );
        turns.push(Turn { contender, frame, program, accepted_clients: clients.len() });
    }
    rounds(lab, &turns, effort)
}

/// Makes conntrack know a connection of each client.
fn connect(clients: &[IpAddr], vip: IpAddr) -> Result<()> {
    let lines: String = clients
        .iter()
        .map(|client| {
            format!(
                "-I -p tcp --state ESTABLISHED --timeout 100000 -u SEEN_REPLY,ASSURED -s {client} -d {vip} \
                 --sport {} --dport 80\n",
                frame::CLIENT_PORT
            )
        })
        .collect();
    lab::run_with_input("conntrack", &["--load-file", "-"], &lines).map(drop)
}

fn time(lab: &Lab, turn: &Turn, effort: Effort) -> Result<f64> {
    turn.contender.load()?;
    turn.program.run(&turn.frame, lab.ifindex, effort.frames.div_ceil(10), effort.batch)?;
    let before = cpu_ns()?;
    turn.program.run(&turn.frame, lab.ifindex, effort.frames, effort.batch)?;
    let spent = cpu_ns()? - before;
    turn.contender.unload()?;
    Ok(spent as f64 / f64::from(effort.frames))
}

/// CPU time of this thread. The frames are worked on within its own system call, so this is all of it, and
/// other processes on the core do not count; nor does the wait for a grace period with which the kernel
/// begins and ends each run.
fn cpu_ns() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's CPU time")?;
    Ok(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
}

/// Finds out whom the contender rejects, and holds it to that.
fn prepare<'a>(lab: &Lab, contender: &'a Contender, effort: Effort) -> Result<Turn<'a>> {
    let about = || format!("trying out \"{}\"", contender.name);
    let tried: Vec<IpAddr> = (0..TRIED).map(|number| client(contender.vip, number)).collect();
    let frame = frame::frame(contender.mac, tried[0], contender.vip, effort.transport);
    if contender.is_xdp() {
        let program = mixed(contender, Action::Drop, &tried, effort.transport)?;
        return Ok(Turn { contender, frame, program, accepted_clients: 0 });
    }
    // At 64 frames a client the chance that one of them is never drawn is 1e-25.
    let frames = TRIED * 64;
    let all = mixed(contender, Action::Pass, &tried, effort.transport)?;
    let feed = |program: &Program, rules: bool| -> Result<BTreeSet<IpAddr>> {
        contender.unload()?;
        if rules {
            contender.load()?;
        }
        lab::run_with_input("nft", &["-f", "-"], &witness(contender, 1000))?;
        program.run(&frame, lab.ifindex, frames, effort.batch)?;
        let seen = seen(contender.witness)?;
        contender.unload()?;
        Ok(seen)
    };
    let without = feed(&all, false).with_context(about)?;
    ensure!(
        without.len() == tried.len(),
        "{}: without any rule {} of {} clients arrived; the injector does not do what it should",
        about(),
        without.len(),
        tried.len()
    );
    let accepted = feed(&all, true).with_context(about)?;
    let rejected: Vec<IpAddr> = match &contender.share {
        Share::Told(clients) => clients.clone(),
        Share::None | Share::Seen => {
            tried.into_iter().filter(|client| !accepted.contains(client)).take(CLIENTS).collect()
        }
    };
    ensure!(
        !accepted.is_empty() || !matches!(contender.share, Share::Seen),
        "{}: it lets no client pass, so what it drops is not somebody else's share",
        about()
    );
    ensure!(
        rejected.len() == CLIENTS,
        "{}: it rejects only {} clients of {TRIED}, {CLIENTS} are needed",
        about(),
        rejected.len()
    );
    let program = mixed(contender, Action::Pass, &rejected, effort.transport)?;
    let passed = feed(&program, true).with_context(about)?;
    ensure!(passed.is_empty(), "{}: {} rejected clients passed the second time", about(), passed.len());
    Ok(Turn { contender, frame, program, accepted_clients: accepted.len() })
}

fn mixed(contender: &Contender, action: Action, clients: &[IpAddr], transport: Transport) -> Result<Program> {
    let fields = frame::client_fields(contender.vip, transport);
    let rows: Vec<Vec<u8>> = clients
        .iter()
        .map(|client| frame::frame(contender.mac, *client, contender.vip, transport))
        .map(|frame| frame::row(&frame, &fields))
        .collect();
    Program::mixed(action, &fields, &rows)
}

/// A table that notes whom it sees, behind everything with a lower priority.
fn witness(contender: &Contender, priority: i32) -> String {
    let (kind, saddr) = match contender.vip {
        IpAddr::V4(_) => ("ipv4_addr", "ip saddr"),
        IpAddr::V6(_) => ("ipv6_addr", "ip6 saddr"),
    };
    let (family, hook) = witness_place(contender.witness);
    format!(
        "table {family} witness {{\n set seen {{ type {kind}; size {TRIED}; flags dynamic; }}\n chain last \
         {{\n  type filter hook {hook} priority {priority}; policy accept;\n  add @seen {{ {saddr} }} drop\n }}\n}}\n"
    )
}

fn witness_place(witness: Witness) -> (&'static str, String) {
    match witness {
        Witness::Ingress => ("netdev", format!("ingress device \"{DEVICE}\"")),
        Witness::Input => ("ip", "input".into()),
    }
}

fn seen(witness: Witness) -> Result<BTreeSet<IpAddr>> {
    let (family, _) = witness_place(witness);
    let text = lab::run("nft", &["-j", "list", "set", family, "witness", "seen"])?;
    let listed: Value = serde_json::from_str(&text).context("nft's JSON of the witness's set")?;
    let sets = listed["nftables"].as_array().context("nft's JSON has no `nftables` list")?;
    let elements = sets.iter().filter_map(|item| item["set"]["elem"].as_array()).flatten();
    elements
        .map(|element| {
            let text = element.as_str().with_context(|| format!("not an address: {element}"))?;
            text.parse().with_context(|| format!("not an address: {text}"))
        })
        .collect()
}
