//! Whatever one host does, hears or fails to do costs at most its own slices, and those for at most a stated time;
//! and what an operator does to a healthy cluster costs nobody anything.
//!
//! It is looked at in runs in which all that goes wrong can be said to be one host's fault, or is no fault at all,
//! from the first fault on, if the cluster was whole by then, until everything heals.

use onemac_core::node::{Event as Decision, Partition};
use onemac_core::report::HostState;

use super::Violation;
use crate::clock::{At, MS, nanos};
use crate::config::{Config, DRIFT_MAX_PPM};
use crate::fault::{Fault, Hosts, Planned};
use crate::mask::Mask;
use crate::world::{Host, World, name};

/// Which runs are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Of {
    /// None.
    #[default]
    None,
    /// All is this host's fault.
    Lone(usize),
    /// Nobody's: an operator at work.
    Operator,
}

/// The checker.
#[derive(Debug, Default)]
pub struct Share {
    of: Of,
    /// Whether it looks now.
    armed: bool,
    /// The hosts that must not lose anything now.
    whole: Hosts,
    /// When something has last begun or ended to be wrong.
    stirred: At,
    /// By slice: since when nobody serves it, and whether that is the faulty host's share.
    unserved: Vec<Option<(At, bool)>>,
    /// The slices that the faulty host had to do with at first, or when they were last served.
    lone: Mask,
    first: Mask,
    /// For so long its share may be unserved.
    bound: At,
    /// For so long anybody else's: while it is on its way from one to another.
    gap: At,
    found: Option<Violation>,
}

impl Share {
    pub(super) fn new(config: &Config, plan: &[Planned]) -> Self {
        let all: Hosts = if config.hosts < 64 { (1 << config.hosts) - 1 } else { Hosts::MAX };
        let culprits = plan.iter().fold(all, |hosts, p| hosts & p.fault.culprits(all));
        let leaves = |p: &Planned| matches!(p.fault, Fault::Leave { .. });
        // Who leaves so few behind that they are no majority has been told what it costs.
        let silences =
            config.partition == Partition::Majority && plan.iter().filter(|p| leaves(p)).count() > 1;
        let of = match plan {
            [] => Of::None,
            _ if silences || are_heaped(config, plan) => Of::None,
            _ if plan.iter().all(|p| p.fault.is_order()) => Of::Operator,
            _ if culprits.count_ones() == 1 => Of::Lone(culprits.trailing_zeros() as usize),
            _ => Of::None,
        };
        let true_time = |at: At| at * 1_000_000 / (1_000_000 - DRIFT_MAX_PPM);
        let t = config.timing;
        Share {
            of,
            bound: true_time(nanos(t.expiry() + t.heartbeat * 6)),
            gap: true_time(nanos(t.heartbeat * 2)),
            ..Share::default()
        }
    }

    /// Something begins to go wrong, or to be done. `whole` says whether nothing has been before.
    pub fn stirs(&mut self, world: &World, whole: bool) {
        self.stirred = world.now;
        if self.of != Of::None && whole && world.counts.faults.iter().sum::<u64>() == 0 {
            self.armed = true;
            self.first = self.of_lone().map(|lone| touched(world, lone)).unwrap_or_default();
            self.whole = (1 << world.hosts.len()) - 1;
            self.unserved = vec![None; (world.cluster.slices as usize) * world.cluster.services.len()];
        }
    }

    /// Something is not wrong any more.
    pub fn calms(&mut self, now: At) {
        self.stirred = now;
    }

    /// Whether it looks.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Everything heals.
    pub fn disarm(&mut self) {
        self.armed = false;
    }

    /// The agent of a host ends, or another one begins that does not go on with its life.
    pub fn ends(&mut self, host: usize) {
        if self.of == Of::Operator {
            self.whole &= !(1 << host);
        }
    }

    fn spares(&self, host: usize) -> bool {
        self.armed && self.of != Of::Lone(host) && self.whole & (1 << host) != 0
    }

    fn property(&self) -> &'static str {
        match self.of {
            Of::Operator => "an operator's move costs nothing",
            _ => "one host's fault costs its own share only",
        }
    }

    fn breaks(&mut self, at: At, text: String) {
        let violation = Violation { at, property: self.property(), text };
        self.found.get_or_insert(violation);
    }

    /// An agent has decided something.
    pub fn decided(&mut self, host: usize, decision: &Decision, now: At) {
        if matches!(decision, Decision::Started { .. }) && self.spares(host) {
            self.breaks(now, format!("{} begins a new life", name(host)));
        }
    }

    /// Connections have met a closed door.
    pub fn closed(&mut self, host: usize, cut: &Mask, now: At) {
        if self.spares(host) {
            let slices: Vec<u32> = cut.iter().collect();
            self.breaks(now, format!("{} closes on its connections of {slices:?}", name(host)));
        }
    }

    pub(super) fn look(&mut self, world: &World) -> Result<(), Violation> {
        if !self.armed {
            return Ok(());
        }
        if let Some(found) = self.found.take() {
            return Err(found);
        }
        let open = |host: &Host| host.kernel.is_open(host.clock.read(world.now));
        for (i, host) in world.hosts.iter().enumerate() {
            let serves = host.node.as_ref().is_some_and(|node| node.state() == HostState::Serving);
            if self.spares(i) && host.node.is_some() && !open(host) {
                self.breaks(world.now, format!("the lease of {} has run out", name(i)));
            } else if serves && open(host) {
                self.whole |= 1 << i;
            }
        }
        self.look_at_slices(world);
        self.found.take().map_or(Ok(()), Err)
    }

    fn look_at_slices(&mut self, world: &World) {
        let mut served = Mask::default();
        for (host, serves) in world.serves().iter().enumerate() {
            if !world.hosts[host].could_know_that_it_is_useless() {
                served = served.or(serves);
            }
        }
        let touches = self.of_lone().map(|lone| touched(world, lone)).unwrap_or_default();
        self.lone = self.lone.minus(&served).or(&touches.and(&served)).or(&self.first);
        let mut could_be_served = None;
        for slice in 0..self.unserved.len() {
            if served.contains(slice as u32) {
                self.unserved[slice] = None;
                continue;
            }
            if !*could_be_served.get_or_insert_with(|| world.could_be_served_without(self.of_lone())) {
                self.unserved[slice] = None;
                continue;
            }
            let is_lones = self.lone.contains(slice as u32) || touches.contains(slice as u32);
            let (since, is_lones) = *self.unserved[slice].get_or_insert((world.now, is_lones));
            let (since, bound) =
                if is_lones { (since.max(self.stirred), self.bound) } else { (since, self.gap) };
            if world.now.saturating_sub(since) > bound {
                let ms = (world.now - since) / crate::clock::MS;
                let whose = if is_lones { "the faulty host's" } else { "another's" };
                self.breaks(world.now, format!("slice {slice}, {whose}, is unserved for {ms} ms"));
            }
        }
    }

    fn of_lone(&self) -> Option<usize> {
        match self.of {
            Of::Lone(host) => Some(host),
            Of::None | Of::Operator => None,
        }
    }
}

/// Whether one trouble follows another within two leases: a host that goes deaf and dies before it can say so costs the
/// others more than either. That is not promised.
fn are_heaped(config: &Config, plan: &[Planned]) -> bool {
    let troubles: Vec<(At, At)> = plan
        .iter()
        .filter(|p| !p.fault.is_order() && !matches!(p.fault, Fault::Start { .. }))
        .map(|p| (p.at, p.at + p.fault.lasts_ms() * MS))
        .collect();
    troubles.windows(2).any(|pair| pair[1].0 < pair[0].1 + 2 * nanos(config.timing.lease))
}

/// The slices that a host has to do with: it accepts them, or they are being handed over from or to it.
fn touched(world: &World, host: usize) -> Mask {
    let holds = &world.hosts[host].kernel.holds;
    let mut all = holds.accepted.or(&holds.incoming);
    for (i, other) in world.hosts.iter().enumerate() {
        for (to, slices) in other.kernel.holds.relayed.iter().filter(|(to, _)| i == host || *to == host) {
            debug_assert!(*to != i);
            all = all.or(slices);
        }
    }
    all
}
