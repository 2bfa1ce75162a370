//! One run: trouble, then healing.

use std::collections::BTreeMap;

use onemac_core::node::{ASK_PAUSE_MAX, Partition};
use onemac_core::ownership::{self, Candidate};
use onemac_core::report::HostState;

use crate::check::{Checks, Excused, Violation};
use crate::clock::{At, MS, nanos};
use crate::config::Config;
use crate::dice::Dice;
use crate::fault::Planned;
use crate::mask::Mask;
use crate::world::{Counts, Host, World, name};

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How much happened.
    pub counts: Counts,
    /// What was put down to a partition.
    pub excused: Excused,
    /// From the end of all faults until every slice had its owner.
    pub healed: Option<At>,
    /// Simulated time.
    pub lasted: At,
    /// The promise that was broken.
    pub violation: Option<Violation>,
    /// What happened, if it was to be told.
    pub story: Vec<String>,
}

/// Within this time after the last fault every slice must have its owner; see `docs/protocol.md`.
pub fn healing_bound(config: &Config) -> At {
    nanos(config.timing.expiry() * 4 + config.timing.heartbeat * 6)
}

/// So long after that, clients whose connections have died with a host that its heir saw dying must be told,
/// whoever else has connections of the slice: the heir asks again after [`ASK_PAUSE_MAX`] at last, of a question nothing
/// is lost any more, and then its kernel has to change.
pub fn answering_bound(config: &Config) -> At {
    nanos(ASK_PAUSE_MAX + config.timing.heartbeat * 4)
}

/// For this long afterwards nothing may move.
fn calm(config: &Config) -> At {
    nanos(config.timing.expiry() * 2).max(answering_bound(config) + nanos(config.timing.heartbeat))
}

/// Runs a plan.
pub fn run(config: &Config, plan: &[Planned], tell: bool) -> Outcome {
    let mut world = World::new(config.clone(), plan, Checks::new(config, plan));
    world.story = tell.then(Vec::new);
    let mut healed = None;
    let violation = phases(&mut world, &mut healed).err();
    Outcome {
        counts: world.counts,
        excused: world.excused(),
        healed,
        lasted: world.now,
        violation,
        story: world.story.take().unwrap_or_default(),
    }
}

fn phases(world: &mut World, healed: &mut Option<At>) -> Result<(), Violation> {
    let config = world.config.clone();
    world.run(config.trouble_ms * MS, |_| false)?;

    let start = world.now;
    world.settle_definition();
    let returns = who_returns(world, &mut Dice::new(config.seed, 4));
    world.heal(|host| returns.contains(&host));
    let bound = start + healing_bound(&config);
    loop {
        if !world.run(bound, is_whole)? {
            let text = what_is_not_whole(world);
            return Err(Violation { at: world.now, property: "healed in time", text });
        }
        let whole_since = world.now;
        // Whatever was on its way before the healing may break it once more, but not for longer than the bound.
        let patience = answering_bound(&config);
        let unanswered = |w: &World| w.now >= whole_since + patience && !w.unanswered(patience).is_empty();
        if !world.run(world.now + calm(&config), |w| !is_whole(w) || unanswered(w))? {
            *healed = Some(whole_since - start);
            return Ok(());
        }
        if is_whole(world) {
            let text = what_is_unanswered(world, patience);
            return Err(Violation { at: world.now, property: "clients of the dead are told", text });
        }
    }
}

/// In most runs all hosts come back; in others the survivors must do, if they suffice.
fn who_returns(world: &World, dice: &mut Dice) -> Vec<usize> {
    let all = world.config.hosts;
    if dice.chance(700) {
        return (0..all).collect();
    }
    let mut runs: Vec<bool> = world.hosts.iter().map(|h| h.node.is_some() && !h.is_leaving()).collect();
    let mut returns = Vec::new();
    for host in 0..all {
        let weight: u32 =
            (0..all).filter(|&h| runs[h]).map(|h| u32::from(world.cluster.hosts[&name(h)])).sum();
        let count = runs.iter().filter(|&&r| r).count();
        let enough = world.config.partition == Partition::Serve || count * 2 > all;
        if (weight == 0 || !enough) && !runs[host] {
            runs[host] = true;
            returns.push(host);
        }
    }
    returns
}

/// Who should accept what, by the hosts whose agents run.
fn wanted(world: &World) -> Vec<Mask> {
    let c = &world.cluster;
    let candidates: BTreeMap<String, Candidate> = (0..world.config.hosts)
        .map(|h| (name(h), Candidate { weight: c.hosts[&name(h)], eligible: world.hosts[h].node.is_some() }))
        .collect();
    let mut wanted = vec![Mask::default(); world.config.hosts];
    for (i, service) in c.services.iter().enumerate() {
        let table = ownership::table(&c.name, service, &candidates, c.slices);
        for slice in 0..c.slices {
            if let Some(owner) = table.owner(slice).and_then(crate::world::index) {
                wanted[owner].insert(i as u32 * c.slices + slice);
            }
        }
    }
    wanted
}

/// Whether every slice is accepted by the host that the table names, and by nobody else, and all agree.
pub fn is_whole(world: &World) -> bool {
    let slices = world.cluster.slices * world.cluster.services.len() as u32;
    let all_served = || (0..world.hosts.len()).map(|h| world.accepts(h).len()).sum::<u32>() == slices;
    let owned = || wanted(world).iter().enumerate().all(|(h, wanted)| world.accepts(h) == *wanted);
    world.hosts.iter().all(is_settled) && all_served() && owned()
}

fn is_settled(host: &Host) -> bool {
    host.node.as_ref().is_none_or(|node| node.state() == HostState::Serving && node.agreed())
}

fn what_is_unanswered(world: &World, patience: At) -> String {
    let line = |(host, slices): (usize, Mask)| {
        format!("{} is silent about {:?}", name(host), slices.iter().collect::<Vec<_>>())
    };
    world.unanswered(patience).into_iter().map(line).collect::<Vec<_>>().join("; ")
}

fn what_is_not_whole(world: &World) -> String {
    let wanted = wanted(world);
    let mut lines = Vec::new();
    for (h, host) in world.hosts.iter().enumerate() {
        let accepts = world.accepts(h);
        if accepts == wanted[h] && is_settled(host) {
            continue;
        }
        let state = match &host.node {
            None => "does not run".to_string(),
            Some(node) => {
                let status = node.status(host.clock.read(world.now));
                format!(
                    "{:?}, hold {:?}, view {:?}, agreed {}",
                    status.state, status.hold, status.view, status.agreed
                )
            }
        };
        lines.push(format!(
            "{} ({state}) lacks {:?} and has {:?} too much",
            name(h),
            wanted[h].minus(&accepts).iter().collect::<Vec<_>>(),
            accepts.minus(&wanted[h]).iter().collect::<Vec<_>>(),
        ));
    }
    lines.join("; ")
}
