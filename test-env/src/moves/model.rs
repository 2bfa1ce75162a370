//! Which moves are possible when, and scripts of them.

use std::collections::BTreeMap;
use std::fmt;

use super::{Change, Kind, Move};
use crate::tcp::Dice;

/// A cluster as far as it matters to what can be done next.
#[derive(Clone, Debug)]
pub struct Model {
    hosts: Vec<Member>,
    more_vips: bool,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    defined: bool,
    away: bool,
    drained: bool,
    /// By the definition.
    weight: u32,
    /// By the last `onemac weight`.
    said: Option<u32>,
}

impl Member {
    /// Cautiously: how long a weight or a drain that was typed outlasts reloads and restarts is not for this to
    /// know.
    fn may_serve(self) -> bool {
        self.is_living() && !self.drained && self.weight > 0 && self.said != Some(0)
    }

    fn is_living(self) -> bool {
        self.defined && !self.away
    }
}

/// Weights that are drawn.
const WEIGHTS: [u32; 5] = [0, 1, 2, 3, 5];

impl Model {
    /// So many hosts, all of weight 1, all there.
    #[must_use]
    pub fn new(hosts: u8) -> Self {
        let member = Member { defined: true, away: false, drained: false, weight: 1, said: None };
        Self { hosts: vec![member; hosts.into()], more_vips: false }
    }

    fn host(&self, number: u8) -> Member {
        self.hosts[usize::from(number) - 1]
    }

    fn host_mut(&mut self, number: u8) -> &mut Member {
        &mut self.hosts[usize::from(number) - 1]
    }

    /// Hosts that may serve new connections.
    #[must_use]
    pub fn may_serve(&self) -> Vec<u8> {
        self.numbers(Member::may_serve)
    }

    /// Hosts with an agent.
    #[must_use]
    pub fn living(&self) -> Vec<u8> {
        self.numbers(Member::is_living)
    }

    /// The weight that a host must have by now, unless what was typed and what is defined differ.
    #[must_use]
    pub fn weight(&self, host: u8) -> Option<u32> {
        let host = self.host(host);
        host.said.is_none_or(|said| said == host.weight).then_some(host.weight)
    }

    /// Hosts in the definition.
    #[must_use]
    pub fn defined(&self) -> Vec<u8> {
        self.numbers(|member| member.defined)
    }

    fn numbers(&self, wanted: fn(Member) -> bool) -> Vec<u8> {
        (1..).zip(&self.hosts).filter(|(_, member)| wanted(**member)).map(|(number, _)| number).collect()
    }

    /// Whether a move is possible, changes something, and leaves somebody who may serve.
    #[must_use]
    pub fn allows(&self, one: Move) -> bool {
        let possible = match one {
            Move::Drain(host) => self.host(host).is_living() && !self.host(host).drained,
            Move::Resume(host) => self.host(host).is_living() && self.host(host).drained,
            Move::Weight(host, weight) => {
                let host = self.host(host);
                host.is_living() && host.said.unwrap_or(host.weight) != weight
            }
            Move::Reload(Change::Weight(host, weight)) => {
                self.host(host).is_living() && self.host(host).weight != weight
            }
            // Half of the hosts stay, so that there is always somebody to move to.
            Move::Leave(host) => {
                self.host(host).is_living() && 2 * (self.living().len() - 1) >= self.hosts.len()
            }
            Move::Join(host) | Move::Reload(Change::Remove(host)) => {
                self.host(host).defined && self.host(host).away
            }
            Move::Reload(Change::Add(host)) => !self.host(host).defined,
            Move::Reload(Change::MoreVips(more)) => more != self.more_vips,
            Move::Restart(host) | Move::Upgrade(host) | Move::Crash(host) => self.host(host).is_living(),
        };
        let mut after = self.clone();
        after.make(one);
        possible && !after.may_serve().is_empty()
    }

    /// Makes a move.
    pub fn make(&mut self, one: Move) {
        match one {
            Move::Drain(host) => self.host_mut(host).drained = true,
            Move::Resume(host) => self.host_mut(host).drained = false,
            Move::Weight(host, weight) => self.host_mut(host).said = Some(weight),
            Move::Reload(Change::Weight(host, weight)) => self.host_mut(host).weight = weight,
            Move::Leave(host) => self.host_mut(host).away = true,
            // Who joins wants to serve: the operator sees to it.
            Move::Join(host) => {
                let member = self.host_mut(host);
                (member.away, member.drained) = (false, false);
            }
            Move::Reload(Change::Remove(host)) => self.host_mut(host).defined = false,
            Move::Reload(Change::Add(host)) => self.host_mut(host).defined = true,
            Move::Reload(Change::MoreVips(more)) => self.more_vips = more,
            Move::Restart(_) | Move::Upgrade(_) | Move::Crash(_) => {}
        }
    }

    fn possible(&self) -> Vec<Move> {
        let mut moves = vec![Move::Reload(Change::MoreVips(!self.more_vips))];
        for host in (1..).take(self.hosts.len()) {
            moves.extend([Move::Drain(host), Move::Resume(host), Move::Leave(host), Move::Join(host)]);
            moves.extend([Move::Restart(host), Move::Upgrade(host), Move::Crash(host)]);
            moves.extend([Move::Reload(Change::Remove(host)), Move::Reload(Change::Add(host))]);
            for weight in WEIGHTS {
                moves.extend([Move::Weight(host, weight), Move::Reload(Change::Weight(host, weight))]);
            }
        }
        moves.retain(|one| self.allows(*one));
        moves
    }
}

/// Moves, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Which repeats it.
    pub seed: u64,
    /// The moves.
    pub moves: Vec<Move>,
}

impl Script {
    /// `count` random moves of these kinds for a cluster of `hosts` hosts. Each kind comes about as often as any
    /// other, as far as it is possible.
    #[must_use]
    pub fn random(seed: u64, hosts: u8, count: usize, kinds: &[Kind]) -> Self {
        let mut dice = Dice::new(seed);
        let mut model = Model::new(hosts);
        let mut made: BTreeMap<Kind, usize> = BTreeMap::new();
        let mut moves = Vec::new();
        while moves.len() < count {
            let mut possible = model.possible();
            possible.retain(|one| kinds.contains(&one.kind()));
            let times = |one: &Move| made.get(&one.kind()).copied().unwrap_or(0);
            let least = possible.iter().map(times).min();
            let mut rarest: Vec<Kind> =
                possible.iter().filter(|one| Some(times(one)) == least).map(|one| one.kind()).collect();
            rarest.dedup();
            rarest.sort_unstable();
            rarest.dedup();
            // A kind first: there are many more weights than crashes.
            let Some(kind) = dice.pick(&rarest).copied() else { break };
            possible.retain(|one| one.kind() == kind);
            let Some(one) = dice.pick(&possible).copied() else { break };
            model.make(one);
            *made.entry(kind).or_default() += 1;
            moves.push(one);
        }
        Self { seed, moves }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.moves.iter().try_for_each(|one| writeln!(out, "{one}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    #[test]
    fn scripts_are_possible_have_all_kinds_and_always_leave_somebody_to_serve() {
        let mut reloads = HashSet::new();
        for seed in 0..500 {
            let script = Script::random(seed, 4, 40, &Kind::ALL);
            assert_eq!(script.moves.len(), 40);
            let mut model = Model::new(4);
            let mut kinds = BTreeSet::new();
            for one in &script.moves {
                assert!(model.allows(*one), "seed {seed}: {one} in\n{script}");
                model.make(*one);
                kinds.insert(one.kind());
                assert!(!model.may_serve().is_empty() && model.living().len() >= 2, "seed {seed}: {one}");
                if let Move::Reload(change) = one {
                    reloads.insert(std::mem::discriminant(change));
                }
            }
            assert_eq!(kinds.len(), Kind::ALL.len(), "seed {seed}:\n{script}");
        }
        assert_eq!(reloads.len(), 4);
    }

    #[test]
    fn a_seed_repeats_its_script_and_another_gives_another() {
        let [one, same, other] = [7, 7, 8].map(|seed| Script::random(seed, 4, 40, &Kind::ALL));
        assert_eq!(one, same);
        assert_ne!(one.moves, other.moves);
    }

    #[test]
    fn the_last_host_that_may_serve_is_left_alone() {
        let mut model = Model::new(2);
        model.make(Move::Drain(1));
        for one in [Move::Drain(2), Move::Weight(2, 0), Move::Reload(Change::Weight(2, 0)), Move::Leave(2)] {
            assert!(!model.allows(one), "{one}");
        }
        for one in [Move::Leave(1), Move::Resume(1), Move::Crash(2), Move::Weight(2, 3)] {
            assert!(model.allows(one), "{one}");
        }
    }

    #[test]
    fn only_wanted_kinds_are_drawn_while_they_are_possible() {
        let script = Script::random(1, 3, 10, &[Kind::Leave, Kind::Join]);
        assert_eq!(script.moves.len(), 10);
        assert!(script.moves.iter().all(|one| matches!(one, Move::Leave(_) | Move::Join(_))), "{script}");
        // Of a single host nothing can leave.
        assert!(Script::random(1, 1, 10, &[Kind::Leave, Kind::Join]).moves.is_empty());
    }
}
