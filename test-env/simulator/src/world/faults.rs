//! Faults happen, and end.

use onemac_core::node::Input;

use super::{Event, World, name};
use crate::clock::MS;
use crate::fault::{Fault, Hosts, Life, Order};

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
        self.counts.faults += 1;
        match fault {
            Fault::Kill { host } => self.agent_dies(host),
            Fault::Start { host, life } => self.start(host, life),
            Fault::Leave { host } => self.operator(host, Input::Leave),
            Fault::Order { host, order } => self.operator(host, order_of(order)),
            Fault::Pause { host, ms, kernel_goes_on } => self.pause(host, ms, kernel_goes_on),
            Fault::Cut { from, to, ms } => {
                self.cut(from, to, true);
                self.at(self.now + ms * MS, Event::Mend(i));
            }
            Fault::Weather { loss, doubles, slow_ms } => {
                (self.network.loss, self.network.doubles) = (loss, doubles);
                self.network.slow_us = slow_ms * 1000;
            }
            Fault::Kernel { host, slow_ms, refuses } => {
                let kernel = &mut self.hosts[host].kernel;
                (kernel.slow_ms, kernel.refuses) = (slow_ms, refuses);
            }
            Fault::KernelStuck { host, ms } => self.hosts[host].kernel.stuck_until = self.now + ms * MS,
            Fault::Unplug { host, ms, gossip_too } => {
                if !self.hosts[host].unplugged {
                    self.plug(host, false, gossip_too);
                    self.at(self.now + ms * MS, Event::Mend(i));
                }
            }
        }
    }

    /// The end of a fault that ends by itself.
    pub(super) fn mend(&mut self, i: usize) {
        match self.plan[i].fault {
            Fault::Cut { from, to, .. } => self.cut(from, to, false),
            Fault::Unplug { host, gossip_too, .. } => self.plug(host, true, gossip_too),
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
            self.knowledge.acts(host, false, self.now);
            self.at(until, Event::Resume { host });
        }
    }

    fn cut(&mut self, from: Hosts, to: Hosts, cut: bool) {
        let all = self.config.hosts;
        let is_in = |hosts: Hosts, i: usize| hosts & (1 << i) != 0;
        for a in (0..all).filter(|&a| is_in(from, a)) {
            for b in (0..all).filter(|&b| is_in(to, b) && b != a) {
                self.network.cut(a, b, cut);
            }
        }
    }

    fn plug(&mut self, host: usize, up: bool, gossip_too: bool) {
        self.hosts[host].unplugged = !up;
        if gossip_too {
            self.hosts[host].mute = !up;
        }
        self.operator(host, Input::Link { up });
    }

    /// Ends all faults: links, kernels, pauses. Agents that run by another definition are put right, those
    /// that are about to leave are ended, those that do not run are started if `start` says so.
    pub fn heal(&mut self, start: impl Fn(usize) -> bool) {
        self.tell(|| "everything heals".into());
        self.network.mend();
        self.plan.clear();
        // What is still on its way after two heartbeats belongs to the troubles.
        let late = self.now + 2 * self.config.timing.heartbeat.as_nanos() as u64;
        self.queue.retain(|q| match q.0.event {
            Event::Fault(_) | Event::Mend(_) => false,
            Event::Arrive { .. } => q.0.at <= late,
            _ => true,
        });
        for host in 0..self.config.hosts {
            let h = &mut self.hosts[host];
            h.kernel.slow_ms = 3;
            h.kernel.refuses = 0;
            h.kernel.stuck_until = 0;
            let busy = !h.kernel.queue.is_empty();
            h.mute = false;
            h.unplugged = false;
            if h.paused_until > self.now {
                h.paused_until = self.now;
                self.resume(host);
            }
            if busy {
                self.next_work(host);
            }
            self.operator(host, Input::Link { up: true });
            let weight = self.cluster.hosts[&name(host)];
            if !self.hosts[host].is_leaving() {
                self.operator(host, Input::Resume { service: None });
            }
            self.operator(host, Input::Weight(weight));
            self.hosts[host].memory = None;
            if self.hosts[host].other_definition && self.hosts[host].node.is_some() {
                self.tell(|| format!("{} is given the right definition", name(host)));
                self.agent_dies(host);
                self.start(host, Life::Later);
            }
            if self.hosts[host].is_leaving() {
                self.agent_dies(host);
            }
            if start(host) {
                self.start(host, Life::Later);
            }
        }
    }

    /// Kills an agent.
    pub fn kill(&mut self, host: usize) {
        self.tell(|| format!("{} dies", name(host)));
        self.agent_dies(host);
    }
}
