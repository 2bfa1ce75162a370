//! How reports go by way of others: every heartbeat each host swaps all it knows with three others.

use std::rc::Rc;
use std::sync::Arc;

use onemac_core::node::Input;

use super::{Event, Host, World, index};
use crate::clock::{MS, nanos};
use crate::network::{Content, Datagram, Said};

/// With how many others a host gossips at a time, as chitchat does.
const PARTNERS: usize = 3;

/// How many of a host's reports are recorded.
const RECORDS: usize = 60;

/// How many lives of one host are passed on.
const LIVES: usize = 3;

impl Host {
    /// Keeps a report to pass it on; says whether it is news.
    pub(super) fn remember(&mut self, of: usize, said: &Rc<Said>) -> bool {
        let stamp = said.report.stamp;
        let life = stamp.incarnation;
        match self.gossip.get_mut(&(of, life)) {
            Some(known) if known.report.stamp >= stamp => return false,
            Some(known) => *known = Rc::clone(said),
            None => {
                self.gossip.insert((of, life), Rc::clone(said));
                while self.gossip.range((of, 0)..=(of, u64::MAX)).count() > LIVES {
                    let Some((&oldest, _)) = self.gossip.range((of, 0)..).next() else { break };
                    self.gossip.remove(&oldest);
                }
            }
        }
        true
    }
}

impl World {
    /// A host's turn to gossip.
    pub(super) fn gossip(&mut self, host: usize, agent: u64) {
        let h = &self.hosts[host];
        if h.agent != agent || h.node.is_none() {
            return;
        }
        let paused_until = h.paused_until;
        let next = self.now.max(paused_until) + self.config.timing.heartbeat.as_nanos() as u64;
        self.at(next, Event::Gossip { host, agent });
        if paused_until > self.now {
            return;
        }
        let mut others: Vec<usize> = (0..self.config.hosts).filter(|&o| o != host).collect();
        for _ in 0..PARTNERS.min(others.len()) {
            let partner = others.swap_remove(self.dice.roll(others.len() as u64) as usize);
            self.send_all_known(host, partner, true);
        }
    }

    fn send_all_known(&mut self, host: usize, to: usize, ask: bool) {
        let h = &self.hosts[host];
        let (version, reports) = (h.version, Rc::new(h.gossip.values().cloned().collect()));
        self.send(to, Datagram { from: host, content: Content::Gossip { version, reports, ask } });
    }

    /// An agent reads a datagram.
    pub(super) fn receive(&mut self, host: usize, datagram: Datagram) {
        if self.hosts[host].node.is_none() {
            return;
        }
        match datagram.content {
            Content::Report(said) if said.at < self.hosts[host].began => drop(said),
            Content::Report(said) if said.version != self.hosts[host].version => {
                self.hear_foreign(host, &said);
            }
            Content::Report(said) => self.hear(host, &said),
            Content::Ask(ask) => self.asked(host, datagram.from, ask),
            Content::List(list) => self.listed(host, datagram.from, &list),
            Content::Gossip { reports, ask, version } => {
                let ours = self.hosts[host].version;
                for said in reports.iter() {
                    let Some(of) = index(&said.report.host) else { continue };
                    // Who speaks another version is not heard by way of others.
                    if said.version != ours {
                        if version == said.version && of == datagram.from {
                            self.hear_foreign(host, said);
                        }
                    } else if self.hosts[host].remember(of, said) {
                        self.hear(host, said);
                    }
                }
                if ask {
                    self.send_all_known(host, datagram.from, false);
                }
            }
        }
    }

    /// Gives a report to the core. What the core was given already it is given again only now and then.
    fn hear(&mut self, host: usize, said: &Rc<Said>) {
        let report = &said.report;
        let Some(of) = index(&report.host) else { return };
        self.learns(host, of, said);
        let given = self.hosts[host].given.get(&of);
        match given.is_some_and(|given| given.stamp >= report.stamp) {
            true if !self.dice.chance(60) => return,
            true => {}
            false => drop(self.hosts[host].given.insert(of, Arc::clone(report))),
        }
        self.tell(|| format!("  {} hears {} {:?}", super::name(host), report.host, report.stamp));
        self.feed(host, Input::Heard(Arc::clone(report)));
    }

    /// Gives the core what can be read of a report of another version.
    fn hear_foreign(&mut self, host: usize, said: &Rc<Said>) {
        let report = &said.report;
        let Some(of) = index(&report.host) else { return };
        self.learns(host, of, said);
        let (stamp, part) = (report.stamp, report.part());
        let newer = said.version > self.hosts[host].version;
        self.tell(|| format!("  {} hears another version: {} {stamp:?}", super::name(host), report.host));
        self.feed(host, Input::OtherVersion { host: report.host.clone(), stamp, part, newer });
    }

    fn learns(&mut self, host: usize, of: usize, said: &Said) {
        let takes = self.takes(host);
        self.knowledge.reached(host, of, (said.report.stamp.incarnation, said.at), self.now, takes);
    }

    /// Keeps some of what a host says, to be heard again.
    pub(super) fn record(&mut self, host: usize, said: &Rc<Said>) {
        if let Some(records) = self.records.get_mut(host).filter(|r| r.len() < RECORDS)
            && self.dice.chance(300)
        {
            records.push(Rc::clone(said));
        }
    }

    /// What a host said long ago arrives somewhere once more, in the old order.
    pub(super) fn replay(&mut self, of: usize, to: usize, ms: u64) {
        let records = self.records.get(of).cloned().unwrap_or_default();
        // Whatever has held them back lets them go at once, or nearly.
        let all = nanos(self.config.timing.heartbeat) / 3;
        let gap = all.min(ms * MS) / (records.len() as u64 + 1);
        for (i, said) in records.into_iter().enumerate() {
            let datagram = Datagram { from: of, content: Content::Report(said) };
            self.at(self.now + gap * i as u64, Event::Arrive { to, datagram });
        }
    }
}
