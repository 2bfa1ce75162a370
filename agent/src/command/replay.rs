//! `onemac replay`: a recording told again, with what was decided and why.

use std::path::Path;

use onemac_core::holding::Holding;
use onemac_core::node::{Action, Input, Node, Recipients};
use onemac_core::report::{Claims, Part, Report};
use onemac_core::slices::SliceSet;
use onemac_core::time::Time;
use onemac_rules::MacAddr;

use crate::daemon::story;
use crate::failure::{Failure, Result};
use crate::record::{self, Entry, Start};

/// Feeds a recording to the core again and prints every input that led to a decision, and the decision;
/// with `all`, every input.
pub fn replay(path: &Path, all: bool) -> Result<()> {
    let cannot = |e: std::io::Error| Failure::failed(format_args!("cannot replay {}: {e}", path.display()));
    let mut run: Option<(Start, Node)> = None;
    for entry in record::read(path).map_err(cannot)? {
        match entry.map_err(cannot)? {
            Entry::Start(start) => {
                print_start(&start);
                let mut node = start.node();
                print_decisions(&mut node, start.at);
                run = Some((*start, node));
            }
            Entry::Told(now, input) => {
                let Some((start, node)) = &mut run else {
                    return Err(Failure::failed(format_args!(
                        "{} does not begin with the start of an agent",
                        path.display()
                    )));
                };
                let why = describe(&input);
                node.handle(now, input);
                tell(node, start.at, now, &why, all);
            }
        }
    }
    match run {
        Some(_) => Ok(()),
        None => Err(Failure::failed(format_args!("{} is empty", path.display()))),
    }
}

fn tell(node: &mut Node, origin: Time, now: Time, why: &str, all: bool) {
    let decisions = decisions(node);
    if all || decisions.iter().any(|d| d.matters) {
        println!("{:>10.3} s  {why}", now.since(origin).as_secs_f64());
        for decision in decisions.iter().filter(|d| all || d.matters) {
            println!("{:>14}-> {}", "", decision.text);
        }
    }
}

fn print_start(start: &Start) {
    let start = &start.with;
    let hosts: Vec<String> = start.cluster.hosts.iter().map(|(h, w)| format!("{h}={w}")).collect();
    println!(
        "host {} of cluster {}: {}; {} slices, heartbeat {:?}, lease {:?}, partition {:?}",
        start.host,
        start.cluster.name,
        hosts.join(" "),
        start.cluster.slices,
        start.timing.heartbeat,
        start.timing.lease,
        start.partition
    );
}

fn print_decisions(node: &mut Node, at: Time) {
    tell(node, at, at, "the agent starts", true);
}

struct Decision {
    text: String,
    /// Whether more than a heartbeat or a renewal came of it.
    matters: bool,
}

fn decisions(node: &mut Node) -> Vec<Decision> {
    std::iter::from_fn(|| node.poll_action()).map(decision).collect()
}

fn decision(action: Action) -> Decision {
    let (text, matters) = match action {
        Action::Note(event) => (story::tell(&event).1, true),
        Action::Apply(change) => {
            let count = |set: fn(&Holding) -> u32| change.slices.values().map(set).sum::<u32>();
            let lease = if change.lease_until.is_some() { "under the lease" } else { "without a lease" };
            let mut text =
                format!("kernel, change {}: accept {} slices", change.id, count(|h| h.accepted.len()));
            for (what, slices) in [
                ("shared", count(|h| h.shared.len())),
                ("heir", count(|h| h.heir.len())),
                ("taken over", count(|h| h.taking.len())),
                ("sent on", count(|h| h.all_relayed().len())),
                ("taken from who sends on", count(|h| h.incoming.len())),
                ("connections only", count(|h| h.moving.len())),
            ] {
                if slices > 0 {
                    text += &format!(", {slices} {what}");
                }
            }
            (format!("{text}, {lease}"), true)
        }
        Action::Renew { .. } => ("kernel: renew the lease".into(), false),
        Action::Publish { report, to } => {
            let to = match to {
                Recipients::All => "everybody".into(),
                Recipients::One(host) => host,
            };
            (format!("say to {to}: {}", word(&report)), false)
        }
        Action::Ask { host, slices, .. } => {
            (format!("ask {host} what lives there of {} slices", total(&slices)), true)
        }
        Action::Remember(Some(_)) => ("keep what the next agent needs".into(), false),
        Action::Remember(None) => ("keep nothing for the next agent".into(), false),
        Action::Changed(_) => ("go by the new definition".into(), true),
        Action::Stop => ("end".into(), true),
    };
    Decision { text, matters }
}

fn describe(input: &Input) -> String {
    match input {
        Input::Tick => "time passes".into(),
        Input::Heard(report) => format!("{} says: {}", report.host, word(report)),
        Input::Sent { .. } => "a heartbeat has left".into(),
        Input::Committed { change, ok: true } => format!("the kernel has made change {change}"),
        Input::Committed { change, ok: false } => format!("the kernel has refused change {change}"),
        Input::Stranger { host } => format!("somebody at {host}'s address fails authentication"),
        Input::OtherVersion { host, part, newer, .. } => {
            let which = if *newer { "a newer" } else { "an older" };
            let what = match part {
                Part::None => "takes no part",
                Part::Candidate => "is about to serve",
                Part::Serves => "serves",
            };
            format!("{host} speaks {which} version of the protocol and {what}")
        }
        Input::Leave => "the operator wants this host to leave".into(),
        Input::Drain { service } => format!("the operator drains {}", which(service)),
        Input::Resume { service } => format!("the operator resumes {}", which(service)),
        Input::Weight(weight) => format!("the operator gives this host the weight {weight}"),
        Input::Stage(_) => "the operator has another definition".into(),
        Input::Looked(look) => {
            format!("{} connections of slices that have moved on are left", look.left.connections)
        }
        Input::Listed { host, slices, .. } => {
            format!("{host} has listed its connections of {} slices", total(slices))
        }
        Input::Link { up: true } => "the service device has a carrier, and the packet path stands".into(),
        Input::Link { up: false } => "no carrier on the service device, or the packet path is broken".into(),
        Input::Mac(mac) => format!("the service device has the address {}", MacAddr(*mac)),
        Input::Frame => "the service device has received frames".into(),
        Input::Renewed { .. } => "the kernel has taken the renewal of its lease".into(),
    }
}

fn which(service: &Option<String>) -> &str {
    service.as_deref().unwrap_or("everything")
}

fn total(slices: &Claims) -> u32 {
    slices.values().map(SliceSet::len).sum()
}

/// A report in a few words.
fn word(report: &Report) -> String {
    let view = report.view.map_or_else(|| "no view".into(), |id| format!("view {id}"));
    let slices = total(&report.claims);
    format!("{:?}, {view}, {slices} slices (number {})", report.state, report.stamp.seq).to_lowercase()
}
