//! Nanoseconds per rejected packet: onemac's rules beside the bare drop, XDP and the older recipes.
//!
//! One run, one device, one injector; every contender in turn, round after round. See README.md beside this.

mod bpf;
mod contender;
mod frame;
mod lab;
mod measure;
mod product;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::contender::Contender;
use crate::frame::Transport;
use crate::lab::Lab;
use crate::measure::Effort;

/// What to do, as typed.
#[derive(Parser, Debug)]
#[command(name = "reject", about = "Nanoseconds per rejected packet, and whether onemac's promises hold")]
struct Args {
    /// Print the figures as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Working order only: a few frames, and the ratios are not judged.
    #[arg(long)]
    quick: bool,
    /// How often every contender gets its turn.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// Frames that are timed in one turn.
    #[arg(long, default_value_t = 100_000)]
    frames: u32,
    /// Frames that the stack is handed at once, as a driver does with what one poll brings; at most 256.
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// What the frames carry.
    #[arg(long, value_enum, default_value = "udp")]
    transport: Transport,
    /// The core to stay on; the last one unless told.
    #[arg(long)]
    core: Option<usize>,
    /// Which iptables carries the older recipes: nft (Debian's own) or legacy.
    #[arg(long, default_value = "nft", value_parser = ["nft", "legacy"])]
    iptables: String,
    /// Measure the emulation of xt_cluster, as on a kernel that lacks it.
    #[arg(long)]
    emulate_xt_cluster: bool,
    /// Measure packets that are accepted: what it costs that connections are followed. No promises.
    #[arg(long)]
    accepted: bool,
    /// Also measure this nft file (device "service"; it must let some of 10.0.0.0/8 pass and drop others).
    #[arg(long = "try", value_name = "FILE")]
    tries: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("reject: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if every promise held, or none was judged.
fn run(args: &Args) -> Result<bool> {
    ensure!((1..=256).contains(&args.batch), "--batch {}: must be 1 to 256", args.batch);
    ensure!(args.rounds > 0 && args.frames > 0, "--rounds and --frames must be at least 1");
    let (rounds, frames) = if args.quick { (2, 20_000) } else { (args.rounds, args.frames) };
    let effort = Effort { rounds, frames, batch: args.batch, transport: args.transport };
    if args.accepted {
        let lab = Lab::enter()?;
        lab::pin(args.core)?;
        let figures = measure::accepted(&lab, &contender::accepting(), effort)?;
        let outcome = report::Outcome { figures, promises: Vec::new(), effort, judged: false };
        if args.json {
            println!("{}", outcome.json()?);
        } else {
            print!("{}", outcome.table());
        }
        return Ok(true);
    }
    // The product is asked before there is a namespace: it needs none for this.
    let ours = contender::ours()?;
    let lab = Lab::enter()?;
    lab::pin(args.core)?;
    let mut contenders = contender::rivals(&args.iptables, args.emulate_xt_cluster)?;
    contenders.extend(ours);
    contenders.extend(contender::ours_by_port());
    for file in &args.tries {
        contenders.push(Contender::from_file(file)?);
    }
    let figures = measure::all(&lab, &contenders, effort)?;
    let promises = report::promises(&figures)?;
    let outcome = report::Outcome { figures, promises, effort, judged: !args.quick };
    if args.json {
        println!("{}", outcome.json()?);
    } else {
        print!("{}", outcome.table());
    }
    Ok(outcome.held())
}
