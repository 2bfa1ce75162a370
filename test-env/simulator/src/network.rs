//! Datagrams, and who knows what.

use std::rc::Rc;
use std::sync::Arc;

use onemac_core::report::Report;

use crate::clock::At;
use crate::dice::Dice;
use crate::world::{Ask, List};

/// A report, and when it was published.
#[derive(Debug)]
pub struct Said {
    /// What was said.
    pub report: Arc<Report>,
    /// When.
    pub at: At,
    /// In which version of the protocol.
    pub version: u8,
}

/// About how many bytes a report is: what grows is what it has heard, and the slices that it names.
pub fn size(report: &Report) -> u64 {
    let named = [&report.claims, &report.ready, &report.moving].into_iter().chain(report.relayed.values());
    let named: u64 =
        named.flat_map(|claims| claims.values()).map(|slices| 12 + u64::from(slices.len())).sum();
    100 + 20 * report.heard.len() as u64 + named
}

/// What a datagram carries.
#[derive(Clone, Debug)]
pub enum Content {
    /// A host's own report.
    Report(Rc<Said>),
    /// All that a host has heard by way of others, and its own.
    Gossip {
        /// The version of the protocol that its sender speaks.
        version: u8,
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

impl Content {
    /// About how many bytes it is.
    pub fn size(&self) -> u64 {
        match self {
            Content::Report(said) => size(&said.report),
            Content::Gossip { reports, .. } => reports.iter().map(|said| size(&said.report)).sum(),
            Content::Ask(_) | Content::List(_) => 0,
        }
    }
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Who sent it.
    pub from: usize,
    /// What it carries.
    pub content: Content,
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing gets through.
    Cut,
    /// So many of 1,000 datagrams are lost, and all take so many milliseconds longer.
    Poor(u64, u64),
    /// Reports of more than so many bytes do not get through.
    Narrow(u64),
}

/// The state of all links.
#[derive(Debug)]
pub struct Network {
    hosts: usize,
    /// What is wrong with the link from one to another.
    links: Vec<Vec<Trouble>>,
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
        let links = vec![Vec::new(); hosts * hosts];
        Network { hosts, links, loss: 0, doubles: 0, usual_us: 2_000, slow_us: 8_000 }
    }

    /// Something begins or ends to be wrong with a link.
    pub fn trouble(&mut self, from: usize, to: usize, trouble: Trouble, begins: bool) {
        let link = &mut self.links[from * self.hosts + to];
        match link.iter().position(|&t| t == trouble) {
            _ if begins => link.push(trouble),
            Some(i) => drop(link.swap_remove(i)),
            None => {}
        }
    }

    /// What is wrong with the link from one to another.
    pub fn troubles(&self, from: usize, to: usize) -> &[Trouble] {
        &self.links[from * self.hosts + to]
    }

    /// Mends everything.
    pub fn mend(&mut self) {
        *self = Network::new(self.hosts);
    }

    /// How long a datagram takes on a link that has nothing wrong.
    pub fn way(&self, dice: &mut Dice) -> At {
        let longest = if dice.chance(100) { self.slow_us } else { self.usual_us };
        dice.between(100, longest) * 1000
    }
}
