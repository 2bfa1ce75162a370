//! What the owner of a slice knows of connections elsewhere when some have died with their host: it asks for
//! lists, as the daemon does, and gives them to its kernel with the slices of which it is the heir.

use std::rc::Rc;

use onemac_core::holding::Holdings;
use onemac_core::node::{Event as Decision, Input, Mutation};
use onemac_core::report::{Claims, Report, Stamp};
use onemac_core::slices::SliceSet;

use super::{Event, Host, World, index, name};
use crate::clock::At;
use crate::kernel::Elsewhere;
use crate::mask::Mask;
use crate::network::{Content, Datagram};

/// A look at the connections of some slices takes up to this long, in microseconds.
const LOOK_US: u64 = 5_000;

/// Somebody has asked for a list.
#[derive(Clone, Debug)]
pub struct Ask {
    /// To be repeated in the answer.
    pub round: Stamp,
    /// Of which slices.
    pub slices: Claims,
}

/// All the connections of some slices that a host has found in its kernel.
#[derive(Clone, Debug)]
pub struct List {
    /// What was asked.
    pub round: Stamp,
    /// Of which slices.
    pub slices: Claims,
    /// By slice, when the newest connection began, where there is any.
    pub newest: Vec<(u32, At)>,
}

impl Host {
    /// What the kernel is to know of connections elsewhere.
    pub(super) fn elsewhere(&self, slices: &Holdings, services: &[String], all: u32) -> Elsewhere {
        let mut elsewhere = Elsewhere::new();
        for (service, held) in slices {
            for (host, listed) in &held.listed {
                let Some(of) = index(host) else { continue };
                let these = Mask::of(&Claims::from([(service.clone(), listed.clone())]), services, all);
                let newest =
                    these.iter().filter_map(|slice| Some(((of, slice), *self.lists.get(&(of, slice))?)));
                elsewhere.extend(newest);
            }
        }
        elsewhere
    }
}

impl World {
    /// An agent asks a host for a list.
    pub(super) fn ask(&mut self, host: usize, of: &str, ask: Ask) {
        self.tell(|| {
            format!("{} asks {of} for its connections: {:?} {}", name(host), ask.round, told(&ask.slices))
        });
        if let Some(of) = index(of) {
            self.counts.asks += 1;
            self.send(of, Datagram { from: host, content: Content::Ask(Rc::new(ask)) });
        }
    }

    /// An agent that was asked looks, and answers when it has seen everything.
    pub(super) fn asked(&mut self, host: usize, by: usize, ask: Rc<Ask>) {
        self.connections_die(host);
        let slices = Mask::of(&ask.slices, &self.config.services, self.config.slices);
        let kernel = &self.hosts[host].kernel;
        let found = kernel.alive.and(&slices);
        let newest = found.iter().map(|slice| (slice, kernel.newest(slice))).collect();
        let seen = Seen { ask, at: self.now, newest };
        let at = self.now + self.dice.between(100, LOOK_US) * 1000;
        let agent = self.hosts[host].agent;
        self.at(at, Event::Seen { host, agent, by, seen });
    }

    /// A look for a list has ended: what may be listed is, a letter for each service.
    pub(super) fn seen(&mut self, host: usize, agent: u64, by: usize, seen: Seen) {
        let h = &self.hosts[host];
        let Some(node) = h.node.as_ref().filter(|_| h.agent == agent) else { return };
        if h.paused_until > self.now {
            return self.at(h.paused_until + 1, Event::Seen { host, agent, by, seen });
        }
        let (round, services) = (seen.ask.round, self.config.services.clone());
        for (service, slices) in node.listable(&seen.ask.slices, h.clock.read(seen.at)) {
            let slices = Claims::from([(service, slices)]);
            let these = Mask::of(&slices, &services, self.config.slices);
            let newest = seen.newest.iter().copied().filter(|&(slice, _)| these.contains(slice)).collect();
            let list = Rc::new(List { round, slices, newest });
            self.tell(|| {
                format!("{} lists for {}: {:?} {}", name(host), name(by), round, told(&list.slices))
            });
            self.send(by, Datagram { from: host, content: Content::List(list) });
        }
    }

    /// A list has come in.
    pub(super) fn listed(&mut self, host: usize, from: usize, list: &List) {
        let any_round = self.config.mutation == Some(Mutation::StaleLists);
        let h = &mut self.hosts[host];
        let Some(node) = &h.node else { return };
        if list.round != node.list_round() && !any_round {
            self.counts.late_lists += 1;
            return;
        }
        self.counts.lists += 1;
        for slice in Mask::of(&list.slices, &self.config.services, self.config.slices).iter() {
            h.lists.remove(&(from, slice));
        }
        h.lists.extend(list.newest.iter().map(|&(slice, newest)| ((from, slice), newest)));
        self.tell(|| {
            format!("{} has the list of {}: {:?} {}", name(host), name(from), list.round, told(&list.slices))
        });
        let (round, slices) = (list.round, list.slices.clone());
        self.feed(host, Input::Listed { host: name(from), round, slices });
    }

    /// Keeps account of the slices of which connections have died, as far as an agent could know: by the last
    /// words of hosts that it has seen die.
    pub(super) fn note_deaths(&mut self, host: usize, decision: &Decision) {
        let h = &mut self.hosts[host];
        match decision {
            // It has heard nobody yet in this life, and asks anew.
            Decision::Started { .. } => h.bereaved_at = self.now,
            Decision::HostAlive { host: back, .. } => {
                if let Some(back) = index(back) {
                    h.gone.remove(&back);
                }
            }
            Decision::HostGone { host: gone, .. } => {
                let Some(gone) = index(gone) else { return };
                h.gone.insert(gone);
                let Some(last) = h.given.get(&gone) else { return };
                let died = lived_on(last, &self.config.services, self.config.slices);
                h.orphaned = h.orphaned.or(&died);
                h.bereaved_at = self.now;
            }
            _ => {}
        }
    }

    /// Slices of which connections have died, and whose owner does not tell their clients, although it has known
    /// for `patience` and whoever else has connections of them can answer.
    pub fn unanswered(&self, patience: At) -> Vec<(usize, Mask)> {
        let knows = |h: &Host| h.node.is_some() && h.bereaved_at + patience <= self.now;
        let hosts = self.hosts.iter().enumerate().filter(|(_, h)| knows(h));
        hosts.map(|(i, h)| (i, self.silent(h))).filter(|(_, slices)| !slices.is_empty()).collect()
    }

    fn silent(&self, h: &Host) -> Mask {
        let holds = &h.kernel.holds;
        let mut silent = holds.silent;
        let listed_by_the_dead = holds.elsewhere.keys().filter(|(of, _)| h.gone.contains(of));
        listed_by_the_dead.for_each(|&(_, slice)| silent.insert(slice));
        let silent = silent.and(&h.orphaned);
        if silent.is_empty() {
            return silent;
        }
        let unnoticed = |other: usize| self.hosts[other].node.is_none() && !h.gone.contains(&other);
        let missing = h.given.iter().filter(|&(&other, _)| unnoticed(other)).map(|(_, last)| &last.moving);
        missing.fold(silent, |silent, moving| {
            silent.minus(&Mask::of(moving, &self.config.services, self.config.slices))
        })
    }
}

/// What an agent saw when it looked because it was asked.
#[derive(Debug)]
pub struct Seen {
    ask: Rc<Ask>,
    /// When the look began.
    at: At,
    newest: Vec<(u32, At)>,
}

/// Slices of which connections may have lived on a host by what it said.
fn lived_on(report: &Report, services: &[String], slices: u32) -> Mask {
    let all = [&report.claims, &report.moving].into_iter().chain(report.relayed.values());
    all.fold(Mask::default(), |mask, claims| mask.or(&Mask::of(claims, services, slices)))
}

fn told(claims: &Claims) -> String {
    let list = |slices: &SliceSet| slices.iter().collect::<Vec<_>>();
    claims.iter().map(|(service, slices)| format!("{service}: {:?}; ", list(slices))).collect()
}
