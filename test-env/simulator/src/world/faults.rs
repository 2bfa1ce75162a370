//! Faults happen, and end.

use onemac_core::node::{Input, Staged};
use onemac_core::view::Cluster;

use super::host::follow;
use super::{Event, World, name};
use crate::clock::MS;
use crate::dice::Dice;
use crate::fault::{Fault, Hosts, Life, Order};
use crate::network::Trouble;
use crate::run::is_whole;

fn order_of(order: Order) -> Input {
    match order {
        Order::Drain => Input::Drain { service: None },
        Order::Resume => Input::Resume { service: None },
        Order::Weight(weight) => Input::Weight(weight),
    }
}

impl World {
    pub(super) fn fault(&mut self, i: usize) {
        let fault = self.plan[i].fault.clone();
        self.tell(|| format!("FAULT: {fault}"));
        self.stirs();
        self.counts.faults[fault.kind()] += 1;
        if fault.lasts_ms() > 0 {
            self.at(self.now + fault.lasts_ms() * MS, Event::Mend(i));
        }
        match fault {
            Fault::Kill { host } => self.agent_dies(host),
            Fault::Start { host, life } => self.start(host, life),
            Fault::Leave { host } => self.operator(host, Input::Leave),
            Fault::Order { host, order } => self.operator(host, order_of(order)),
            Fault::Pause { host, ms, kernel_goes_on } => self.pause(host, ms, kernel_goes_on),
            Fault::Cut { from, to, .. } => self.link(from, to, Trouble::Cut, true),
            Fault::Link { from, to, loss, late_ms, .. } => {
                self.link(from, to, Trouble::Poor(loss, late_ms), true);
            }
            Fault::Narrow { from, to, bytes, .. } => self.link(from, to, Trouble::Narrow(bytes), true),
            Fault::Weather { loss, doubles, slow_ms } => {
                (self.network.loss, self.network.doubles) = (loss, doubles);
                self.network.slow_us = slow_ms * 1000;
            }
            Fault::Kernel { host, slow_ms, refuses } => {
                let kernel = &mut self.hosts[host].kernel;
                (kernel.slow_ms, kernel.refuses) = (slow_ms, refuses);
            }
            Fault::KernelStuck { host, ms } => {
                self.hosts[host].kernel.stuck_until = self.now + ms * MS;
                let takes = self.takes(host);
                self.knowledge.delayed(host, self.now, takes);
            }
            Fault::NoRenewals { host, ms } => {
                self.hosts[host].kernel.no_renewals_until = self.now + ms * MS;
            }
            Fault::Unplug { host, gossip_too, .. } => self.plug(host, false, gossip_too),
            Fault::Deaf { host, .. } => self.hosts[host].deaf += 1,
            Fault::Mute { host, .. } => self.hosts[host].mute += 1,
            Fault::Unreached { host, by_nobody, .. } => {
                self.hosts[host].unreached += 1;
                self.hosts[host].off_the_wire += u32::from(by_nobody);
            }
            Fault::Replay { of, to, ms } => self.replay(of, to, ms),
            Fault::WallClock { host } => self.hosts[host].kernel.jumped = true,
            Fault::NoMemory { host, ms, removed } => {
                let h = &mut self.hosts[host];
                h.no_memory_until = self.now + ms * MS;
                if removed {
                    h.memory = None;
                }
            }
            Fault::Stage { host, definition } => self.stage(host, definition),
            Fault::Upgrade { host } => self.upgrade(host),
            Fault::Restart { host } => {
                let agent = self.hosts[host].agent;
                self.restart(host, agent);
            }
        }
    }

    /// What one fault, or an operator, may cost is looked at if nothing was missing before.
    fn stirs(&mut self) {
        let mut share = std::mem::take(&mut self.checks.share);
        share.stirs(self, self.counts.faults.iter().sum::<u64>() == 0 && is_whole(self));
        self.checks.share = share;
    }

    /// The end of a fault that ends by itself.
    pub(super) fn mend(&mut self, i: usize) {
        self.checks.share.calms(self.now);
        match self.plan[i].fault {
            Fault::Cut { from, to, .. } => self.link(from, to, Trouble::Cut, false),
            Fault::Link { from, to, loss, late_ms, .. } => {
                self.link(from, to, Trouble::Poor(loss, late_ms), false);
            }
            Fault::Narrow { from, to, bytes, .. } => self.link(from, to, Trouble::Narrow(bytes), false),
            Fault::Unplug { host, gossip_too, .. } => self.plug(host, true, gossip_too),
            Fault::Deaf { host, .. } => self.hosts[host].deaf -= 1,
            Fault::Mute { host, .. } => self.hosts[host].mute -= 1,
            Fault::Unreached { host, by_nobody, .. } => {
                self.hosts[host].unreached -= 1;
                self.hosts[host].off_the_wire -= u32::from(by_nobody);
            }
            _ => {}
        }
        let fault = &self.plan[i].fault;
        let line = format!("the end of: {fault}");
        self.tell(|| line);
    }

    /// An operator speaks to an agent that may be stopped, and then does not hear.
    fn operator(&mut self, host: usize, input: Input) {
        if self.hosts[host].awake(self.now) {
            self.feed(host, input);
        }
    }

    fn pause(&mut self, host: usize, ms: u64, kernel_goes_on: bool) {
        let until = self.now + ms * MS;
        let h = &mut self.hosts[host];
        if h.node.is_some() && h.paused_until < until {
            h.paused_until = until;
            h.kernel_goes_on = kernel_goes_on;
            self.knowledge.stops(host, self.now);
            self.at(until, Event::Resume { host });
        }
    }

    fn link(&mut self, from: Hosts, to: Hosts, trouble: Trouble, begins: bool) {
        let all = self.config.hosts;
        let is_in = |hosts: Hosts, i: usize| hosts & (1 << i) != 0;
        for a in (0..all).filter(|&a| is_in(from, a)) {
            for b in (0..all).filter(|&b| is_in(to, b) && b != a) {
                self.network.trouble(a, b, trouble, begins);
            }
        }
    }

    fn plug(&mut self, host: usize, up: bool, gossip_too: bool) {
        let h = &mut self.hosts[host];
        for reasons in [&mut h.deaf, &mut h.mute].into_iter().filter(|_| gossip_too) {
            *reasons = if up { *reasons - 1 } else { *reasons + 1 };
        }
        h.plugs = if up { h.plugs - 1 } else { h.plugs + 1 };
        let up = h.plugs == 0;
        if h.unplugged == up {
            h.unplugged = !up;
            self.operator(host, Input::Link { up });
        }
    }

    /// What a definition says: the first, or another distribution of weights.
    pub(super) fn definition(&self, number: u8) -> Cluster {
        let mut cluster = self.first.clone();
        if number > 0 {
            cluster.definition.0[1] = number;
            let mut dice = Dice::new(self.config.seed, 100 + u64::from(number));
            for weight in cluster.hosts.values_mut().skip(1) {
                *weight = if dice.chance(500) { dice.roll(4) as u8 } else { *weight };
            }
        }
        cluster
    }

    fn stage(&mut self, host: usize, definition: u8) {
        if self.hosts[host].restarting {
            return;
        }
        self.hosts[host].file = definition;
        let staged = Staged { cluster: self.definition(definition), follow: follow(&self.config) };
        self.operator(host, Input::Stage(Box::new(staged)));
    }

    /// The agent ends, and the next version of it starts.
    fn upgrade(&mut self, host: usize) {
        self.agent_dies(host);
        self.hosts[host].memory = None;
        self.hosts[host].version += 1;
        self.start(host, Life::Later);
    }

    /// From now on the newest definition that any host has is the one that all should have.
    pub fn settle_definition(&mut self) {
        let newest = self.hosts.iter().map(|h| h.file).max().unwrap_or_default();
        self.cluster = self.definition(newest);
    }

    /// Ends all faults: links, kernels, pauses. Agents that run by another definition are put right, those
    /// that are about to leave are ended, those that do not run are started if `start` says so.
    pub fn heal(&mut self, start: impl Fn(usize) -> bool) {
        self.tell(|| "everything heals".into());
        self.counts.judged += u64::from(self.checks.share.is_armed());
        self.checks.share.disarm();
        // A host that is left alone may take silence for deafness, but clients come in the end.
        if self.config.frames_every_ms == 0 {
            self.at(self.now + 100 * MS, Event::Client);
        }
        self.config.frames_every_ms = 100;
        self.network.mend();
        self.plan.clear();
        // What is still on its way after two heartbeats belongs to the troubles.
        let late = self.now + 2 * self.config.timing.heartbeat.as_nanos() as u64;
        self.queue.retain(|q| match q.0.event {
            Event::Fault(_) | Event::Mend(_) | Event::Restart { .. } => false,
            Event::Arrive { .. } => q.0.at <= late,
            _ => true,
        });
        let newest = self.hosts.iter().map(|h| h.file).max().unwrap_or_default();
        let version = self.hosts.iter().map(|h| h.version).max().unwrap_or_default();
        for host in 0..self.config.hosts {
            self.heal_host(host);
            self.put_right(host, newest, version);
            if start(host) {
                self.start(host, Life::Later);
            }
        }
    }

    fn heal_host(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        h.kernel.slow_ms = 3;
        h.kernel.refuses = 0;
        h.kernel.stuck_until = 0;
        h.kernel.no_renewals_until = 0;
        h.no_memory_until = 0;
        let busy = !h.kernel.queue.is_empty();
        (h.deaf, h.mute, h.unreached, h.off_the_wire, h.plugs) = (0, 0, 0, 0, 0);
        h.unplugged = false;
        if h.paused_until > self.now {
            h.paused_until = self.now;
            self.resume(host);
        }
        if busy {
            self.next_work(host);
        }
        self.operator(host, Input::Link { up: true });
    }

    /// What an operator does who comes to see to everything.
    fn put_right(&mut self, host: usize, definition: u8, version: u8) {
        let weight = self.cluster.hosts[&name(host)];
        if !self.hosts[host].is_leaving() {
            self.operator(host, Input::Resume { service: None });
        }
        self.hosts[host].file = definition;
        self.stage(host, definition);
        self.operator(host, Input::Weight(weight));
        let h = &mut self.hosts[host];
        h.memory = None;
        let outdated = h.other_definition || h.version < version;
        h.version = version;
        if outdated && h.node.is_some() {
            self.tell(|| format!("{} is given the right definition or version", name(host)));
            self.agent_dies(host);
            self.start(host, Life::Later);
        }
        if self.hosts[host].is_leaving() {
            self.agent_dies(host);
        }
    }

    /// Kills an agent.
    pub fn kill(&mut self, host: usize) {
        self.tell(|| format!("{} dies", name(host)));
        self.agent_dies(host);
    }
}
