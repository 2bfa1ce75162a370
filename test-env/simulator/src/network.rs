//! Datagrams, and who knows what.

use std::rc::Rc;
use std::sync::Arc;

use onemac_core::report::Report;

use crate::clock::At;
use crate::dice::Dice;
use crate::world::{Ask, List};

/// News of a host: from which of its lives, and of which moment. What a life says is not listened to where a
/// later one is known, so the life comes first.
pub type News = (u64, At);

/// A report, and when it was published.
#[derive(Debug)]
pub struct Said {
    /// What was said.
    pub report: Arc<Report>,
    /// When.
    pub at: At,
}

/// What a datagram carries.
#[derive(Clone, Debug)]
pub enum Content {
    /// A host's own report.
    Report(Rc<Said>),
    /// All that a host has heard by way of others, and its own.
    Gossip {
        /// The reports.
        reports: Rc<Vec<Rc<Said>>>,
        /// Whether the same is wanted back.
        ask: bool,
    },
    /// A question for connections.
    Ask(Rc<Ask>),
    /// An answer to one.
    List(Rc<List>),
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Who sent it.
    pub from: usize,
    /// What it carries.
    pub content: Content,
}

/// The state of all links.
#[derive(Debug)]
pub struct Network {
    hosts: usize,
    /// How many faults cut the link from one to another.
    cuts: Vec<u32>,
    /// Loses so many of 1,000 datagrams.
    pub loss: u64,
    /// Doubles so many of 1,000 datagrams.
    pub doubles: u64,
    /// The longest way, in microseconds, of ordinary datagrams.
    pub usual_us: u64,
    /// The longest way of one in ten.
    pub slow_us: u64,
}

impl Network {
    /// A healthy network.
    pub fn new(hosts: usize) -> Self {
        Network { hosts, cuts: vec![0; hosts * hosts], loss: 0, doubles: 0, usual_us: 2_000, slow_us: 8_000 }
    }

    /// Cuts or mends a link.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        let link = &mut self.cuts[from * self.hosts + to];
        *link = if cut { *link + 1 } else { link.saturating_sub(1) };
    }

    /// Whether nothing gets from one to another.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.hosts + to] > 0
    }

    /// Mends everything.
    pub fn mend(&mut self) {
        *self = Network::new(self.hosts);
    }

    /// How long a datagram takes.
    pub fn way(&self, dice: &mut Dice) -> At {
        let longest = if dice.chance(100) { self.slow_us } else { self.usual_us };
        dice.between(100, longest) * 1000
    }
}

/// Who knows what: what has reached whom, directly or by way of others.
///
/// Two hosts are *apart* if one of them, when it last could act, had no news of the other for [`Apart::deaf`],
/// and the other has no later news of it than that, and none for [`Apart::mute`].
#[derive(Debug)]
pub struct Knowledge {
    hosts: usize,
    /// Row: who knows; column: of whom.
    known: Vec<News>,
    /// When an agent was last started on each host.
    started: Vec<At>,
    /// Since when each host's agent has not been able to act: it is stopped, or dead.
    idle_since: Vec<Option<At>>,
    /// When the first was last seen to be deaf to the second.
    seen_deaf: Vec<Option<At>>,
    /// When two hosts were last seen to be apart.
    seen_apart: Vec<Option<At>>,
    apart: Apart,
}

/// What makes a partition, in true time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Apart {
    /// For how long one side has heard nothing.
    pub deaf: At,
    /// For how long nothing has been heard of it.
    pub mute: At,
}

impl Knowledge {
    /// At the beginning nobody has news of anybody.
    pub fn new(hosts: usize, apart: Apart) -> Self {
        Knowledge {
            hosts,
            known: vec![(0, 0); hosts * hosts],
            started: vec![0; hosts],
            idle_since: vec![Some(0); hosts],
            seen_deaf: vec![None; hosts * hosts],
            seen_apart: vec![None; hosts * hosts],
            apart,
        }
    }

    /// From when the newest news of `of` is that has reached `host`.
    pub fn known(&self, host: usize, of: usize) -> At {
        self.known[host * self.hosts + of].1
    }

    /// News of `of` have reached `to`.
    pub fn reached(&mut self, to: usize, of: usize, news: News, now: At) {
        let known = self.known[to * self.hosts + of];
        if to != of && news > known {
            self.note(to, of, now);
            self.known[to * self.hosts + of] = (news.0, news.1.max(known.1));
        }
    }

    /// An agent has started.
    pub fn starts(&mut self, host: usize, now: At) {
        self.acts(host, true, now);
        // It knows nothing of the others' lives any more.
        self.known[host * self.hosts..(host + 1) * self.hosts].iter_mut().for_each(|news| news.0 = 0);
        self.started[host] = now;
    }

    /// An agent can act, or cannot any more.
    pub fn acts(&mut self, host: usize, acts: bool, now: At) {
        for other in 0..self.hosts {
            self.note(host, other, now);
        }
        match (acts, self.idle_since[host]) {
            (true, _) => self.idle_since[host] = None,
            (false, Some(_)) => {}
            (false, None) => self.idle_since[host] = Some(now),
        }
    }

    /// What has been so until now, and is about to change.
    fn note(&mut self, a: usize, b: usize, now: At) {
        for (a, b) in [(a, b), (b, a)] {
            if self.is_deaf(a, b, now) {
                self.seen_deaf[a * self.hosts + b] = Some(now);
            }
        }
        if self.are_apart(a, b, now) {
            self.seen_apart[a * self.hosts + b] = Some(now);
            self.seen_apart[b * self.hosts + a] = Some(now);
        }
    }

    /// Whether a host that can act has had no news of the other for long.
    fn is_deaf(&self, host: usize, to: usize, now: At) -> bool {
        let since = self.known(host, to).max(self.started[host]);
        self.idle_since[host].is_none() && now.saturating_sub(since) >= self.apart.deaf
    }

    fn are_apart(&self, a: usize, b: usize, now: At) -> bool {
        let one_way = |a: usize, b: usize| {
            let known = self.known(b, a);
            let deaf =
                self.is_deaf(a, b, now) || self.seen_deaf[a * self.hosts + b].is_some_and(|at| known <= at);
            deaf && now.saturating_sub(known.max(self.started[b])) >= self.apart.mute
        };
        a != b && (one_way(a, b) || one_way(b, a))
    }

    /// Whether two hosts were apart then, or until at most `tail` before it.
    pub fn had_been_apart(&self, a: usize, b: usize, then: At, tail: At) -> bool {
        self.seen_apart[a * self.hosts + b].is_some_and(|at| then <= at + tail)
    }

    /// Whether two hosts are apart, or were until at most `tail` ago.
    pub fn were_apart(&self, a: usize, b: usize, now: At, tail: At) -> bool {
        self.are_apart(a, b, now) || self.seen_apart[a * self.hosts + b].is_some_and(|at| now - at <= tail)
    }
}
