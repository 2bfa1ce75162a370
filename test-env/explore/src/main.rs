//! `test-env/explore-all`: explore everything, tell what broke.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use onemac_core::node::{Mutation, Partition};
use onemac_core::time::Timing;
use onemac_explore::search::{Order, Outcome, search, tell};
use onemac_explore::step::Kind;
use onemac_explore::world::Config;

/// Goes every way that a hand-over between two hosts and its reversal can go, and says whether a promise was broken.
#[derive(Parser)]
#[command(name = "test-env/explore-all")]
struct Arguments {
    /// How many faults may happen.
    #[arg(long, default_value_t = 2)]
    faults: u8,
    /// Of which kinds [all].
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<Fault>,
    /// The operator gives no orders.
    #[arg(long)]
    no_orders: bool,
    /// What a part of the cluster does.
    #[arg(long, value_enum, default_value_t = Policy::Serve)]
    policy: Policy,
    /// For how many half heartbeats a report may be on its way, and a change wait for its kernel.
    #[arg(long, default_value_t = 1)]
    slow: u64,
    /// The heartbeat in milliseconds.
    #[arg(long, default_value_t = 110)]
    heartbeat: u64,
    /// The lease in milliseconds.
    #[arg(long, default_value_t = 550)]
    lease: u64,
    /// Stop after so many thousand states.
    #[arg(long, default_value_t = 400_000)]
    most: usize,
    /// Look at the nearest states first: the story is as short as can be, for more memory.
    #[arg(long)]
    nearest: bool,
    /// Leave out a rule of the protocol, to see it noticed.
    #[arg(long, value_name = "RULE", value_parser = rule)]
    without: Option<Mutation>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    Serve,
    Majority,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fault {
    Loss,
    Double,
    Cut,
    Deaf,
    Pause,
    Crash,
    Refusal,
}

impl Fault {
    fn kind(self) -> Kind {
        Kind::ALL[self as usize]
    }
}

/// The rules that two hosts and one service without connections can need.
const RULES: &[(&str, Mutation)] = &[
    ("margin", Mutation::NoMargin),
    ("expiry", Mutation::BelieveAtOnce),
    ("agreement", Mutation::NoAgreement),
    ("release-first", Mutation::WordsFirst),
    ("guards", Mutation::NoGuards),
    ("incarnations", Mutation::NoIncarnations),
    ("acknowledgements", Mutation::NoAcknowledgements),
    ("silence", Mutation::SilenceIsDeath),
    ("shrinking", Mutation::LeaseNeverShrinks),
    ("confirmed-renewals", Mutation::RenewalsUnconfirmed),
    ("deafness", Mutation::DeafGoesOn),
    ("deaf-not-awaited", Mutation::DeafAwaited),
    ("listening", Mutation::ShortListening),
    ("answered-listening", Mutation::HeardIsAnswered),
    ("votes", Mutation::VotesAnyway),
    ("handed", Mutation::HandedForgotten),
    ("changing", Mutation::ChangingUnheeded),
    ("awake-listening", Mutation::SleepListens),
    ("fresh-answers", Mutation::OldAnswers),
    ("probation", Mutation::NoProbation),
];

fn rule(name: &str) -> Result<Mutation, String> {
    let known = RULES.iter().find(|(known, _)| *known == name);
    let names: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
    known.map(|&(_, rule)| rule).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn print(outcome: &Outcome) {
    println!(
        "{} states, {} transitions, up to {} steps deep, {:.1} s",
        outcome.states,
        outcome.transitions,
        outcome.depth,
        outcome.took.as_secs_f64()
    );
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ms = Duration::from_millis;
    let kinds = match arguments.kinds.is_empty() {
        true => Kind::ALL.to_vec(),
        false => arguments.kinds.iter().map(|fault| fault.kind()).collect(),
    };
    let config = Config {
        timing: Timing { heartbeat: ms(arguments.heartbeat), lease: ms(arguments.lease) },
        partition: match arguments.policy {
            Policy::Serve => Partition::Serve,
            Policy::Majority => Partition::Majority,
        },
        mutation: arguments.without,
        faults: arguments.faults,
        kinds,
        orders: !arguments.no_orders,
        slow: arguments.slow,
    };
    let order = if arguments.nearest { Order::Nearest } else { Order::Deepest };
    let outcome = search(&config, order, arguments.most * 1000, print);
    if let Some((violation, way)) = &outcome.broken {
        tell(&config, way).iter().for_each(|line| println!("{line}"));
        println!("\nbroken after {} steps: {}: {}", way.len(), violation.promise, violation.text);
    }
    print(&outcome);
    match (&outcome.broken, outcome.ended) {
        (Some(_), _) => ExitCode::FAILURE,
        (None, true) => {
            println!("the search ended: every promise holds in every state");
            ExitCode::SUCCESS
        }
        (None, false) => {
            println!("the search did NOT end: there are more states than it was allowed");
            ExitCode::FAILURE
        }
    }
}
