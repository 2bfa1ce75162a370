//! `test-env/sim`: run the simulator, tell what broke.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use onemac_core::node::{Mutation, Partition};
use onemac_sim::clock::MS;
use onemac_sim::fault::{Fault, plan};
use onemac_sim::run::run;
use onemac_sim::shorten::shorten;
use onemac_sim::summary::{Series, Summary, run_all};

/// Runs the protocol through every fault that dice can think of, and says whether a promise was broken.
#[derive(Parser)]
#[command(name = "test-env/sim")]
struct Arguments {
    /// How many runs.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first seed. The same seed is the same run, to the letter.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Hosts of every run, 2 to 10 [by seed: 3 to 9].
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=10))]
    hosts: Option<u8>,
    /// What a part of a cluster does [by seed: every fourth run is `majority`].
    #[arg(long)]
    policy: Option<Policy>,
    /// Runs at a time [one a processor].
    #[arg(long)]
    threads: Option<usize>,
    /// After so many violations no more runs are begun.
    #[arg(long, default_value_t = 20)]
    enough: usize,
    /// Tell the run of the first seed in full, whether it breaks a promise or not.
    #[arg(long)]
    tell: bool,
    /// Leave out a rule of the protocol, to see it noticed.
    #[arg(long, value_name = "RULE")]
    without: Option<Rule>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    Serve,
    Majority,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rule {
    Margin,
    Expiry,
    Agreement,
    ReleaseFirst,
    Guards,
    Incarnations,
    Acknowledgements,
    PromptAnswers,
    AwakeListening,
    FreshAnswers,
    Probation,
    Relays,
    Silence,
    Lists,
    FreshLists,
    ShrinkingLease,
    ConfirmedRenewals,
    Deafness,
    DeafUnawaited,
    LongListening,
    AnsweredNewcomers,
    Votes,
    OtherDefinitions,
    Handed,
    Changing,
    RestartHandover,
}

impl Rule {
    fn mutation(self) -> Mutation {
        match self {
            Rule::Margin => Mutation::NoMargin,
            Rule::Expiry => Mutation::BelieveAtOnce,
            Rule::Agreement => Mutation::NoAgreement,
            Rule::ReleaseFirst => Mutation::WordsFirst,
            Rule::Guards => Mutation::NoGuards,
            Rule::Incarnations => Mutation::NoIncarnations,
            Rule::Acknowledgements => Mutation::NoAcknowledgements,
            Rule::PromptAnswers => Mutation::SilenceIsDeath,
            Rule::AwakeListening => Mutation::SleepListens,
            Rule::FreshAnswers => Mutation::OldAnswers,
            Rule::Probation => Mutation::NoProbation,
            Rule::Relays => Mutation::RelaysUnheeded,
            Rule::Silence => Mutation::ResetsAll,
            Rule::Lists => Mutation::NoLists,
            Rule::FreshLists => Mutation::StaleLists,
            Rule::ShrinkingLease => Mutation::LeaseNeverShrinks,
            Rule::ConfirmedRenewals => Mutation::RenewalsUnconfirmed,
            Rule::Deafness => Mutation::DeafGoesOn,
            Rule::DeafUnawaited => Mutation::DeafAwaited,
            Rule::LongListening => Mutation::ShortListening,
            Rule::AnsweredNewcomers => Mutation::HeardIsAnswered,
            Rule::Votes => Mutation::VotesAnyway,
            Rule::OtherDefinitions => Mutation::DefinitionsUnheeded,
            Rule::Handed => Mutation::HandedForgotten,
            Rule::Changing => Mutation::ChangingUnheeded,
            Rule::RestartHandover => Mutation::RestartForgets,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let series = Series {
        from: arguments.from,
        seeds: if arguments.tell { 1 } else { arguments.seeds },
        hosts: arguments.hosts.map(usize::from),
        partition: arguments.policy.map(|p| match p {
            Policy::Serve => Partition::Serve,
            Policy::Majority => Partition::Majority,
        }),
        mutation: arguments.without.map(Rule::mutation),
        threads: threads.unwrap_or(1),
        enough: arguments.enough,
    };
    if arguments.tell {
        let config = series.config(series.from);
        let plan = plan(&config);
        run(&config, &plan, true).story.iter().for_each(|line| println!("{line}"));
    }
    let begun = std::time::Instant::now();
    let summary = run_all(&series, |done| {
        if done.is_multiple_of(5000) {
            eprintln!("{done} runs, {:.0} s", begun.elapsed().as_secs_f64());
        }
    });
    if let Some((seed, violation)) = summary.violations.first() {
        let config = series.config(*seed);
        let (short, how) = shorten(&config, &plan(&config), violation);
        println!(
            "seed {seed}: {} hosts, policy {:?}, heartbeat {:?}, lease {:?}, relays {}",
            config.hosts, config.partition, config.timing.heartbeat, config.timing.lease, config.relays
        );
        println!("{violation}\nthe same with fewer faults:");
        short.iter().for_each(|planned| println!("{planned}"));
        println!("{how}\n");
    }
    print(&summary, begun.elapsed().as_secs_f64());
    if summary.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(summary: &Summary, seconds: f64) {
    let at = |part: usize| {
        let healed = &summary.healed;
        healed.get((healed.len() * part / 1000).min(healed.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    println!("{} runs, {:.0} s of cluster time in {seconds:.1} s", summary.runs, summary.lasted as f64 / 1e9);
    println!(
        "{} faults, {} datagrams, {} kernel changes",
        summary.counts.faults.iter().sum::<u64>(),
        summary.counts.datagrams,
        summary.counts.commits
    );
    let kinds = Fault::KINDS.iter().zip(summary.counts.faults);
    let kinds: Vec<String> = kinds.map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("faults by kind: {}", kinds.join(", "));
    println!("{} runs with one host's faults, or an operator's orders, alone", summary.counts.judged);
    println!(
        "{} lists of connections asked for, {} taken in, {} too late",
        summary.counts.asks, summary.counts.lists, summary.counts.late_lists
    );
    println!(
        "healed: median {:.2}, 99 % {:.2}, all {:.2} of the bound; slowest {:.0} ms",
        f64::from(at(500)) / 1000.0,
        f64::from(at(990)) / 1000.0,
        f64::from(at(1000)) / 1000.0,
        summary.slowest as f64 / MS as f64
    );
    let excused = summary.excused;
    println!(
        "{} total partitions with an owner on either side, {:.0} s in all",
        excused.times,
        excused.lasted as f64 / 1e9
    );
    println!("{} violations", summary.violations.len());
    for (seed, violation) in &summary.violations {
        println!("  seed {seed} {violation}");
    }
}
