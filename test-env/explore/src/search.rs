//! Every state that can be reached, each once.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::fingerprint::Writer;
use crate::step::Step;
use crate::world::{Config, Violation, World};

/// What a search has come to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many states there are, as far as it went.
    pub states: usize,
    /// How many ways lead from one to another.
    pub transitions: u64,
    /// The longest way on which a state was found, in steps.
    pub depth: u32,
    /// How long it took.
    pub took: Duration,
    /// Whether it ended because nothing was left, and not because it was told to.
    pub ended: bool,
    /// The first promise that was broken, and the way to it.
    pub broken: Option<(Violation, Vec<Step>)>,
}

/// In which order states are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The nearest first: stories are as short as can be.
    Nearest,
    /// The last one found first: only the siblings on one way wait, so memory is for names alone.
    Deepest,
}

/// A name is as good as random already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().take(8).fold(0, |all, &byte| all << 8 | u64::from(byte));
    }

    fn write_u128(&mut self, name: u128) {
        self.0 = name as u64;
    }
}

/// Goes every way from the state in which both hosts agree, until nothing is left, a promise is broken, or there are
/// `most` states. `progress` is told now and then.
pub fn search(config: &Config, order: Order, most: usize, mut progress: impl FnMut(&Outcome)) -> Outcome {
    let began = Instant::now();
    let mut outcome =
        Outcome { states: 0, transitions: 0, depth: 0, took: Duration::ZERO, ended: false, broken: None };
    let mut start = match World::settled(config.clone()) {
        Ok(start) => start,
        Err(violation) => {
            outcome.broken = Some((violation, Vec::new()));
            return outcome;
        }
    };
    let mut writer = Writer::new(&config.timing, config.partition);
    let mut known: HashSet<u128, BuildHasherDefault<AsItIs>> = HashSet::default();
    known.insert(start.fingerprint(&mut writer));
    // From where each state was reached, and by which step.
    let mut from: Vec<(u32, Step)> = vec![(0, Step::Tick)];
    let mut open = VecDeque::from([(start, 0u32, 0u32)]);
    let mut steps = Vec::new();
    while let Some((world, number, depth)) = match order {
        Order::Nearest => open.pop_front(),
        Order::Deepest => open.pop_back(),
    } {
        outcome.depth = outcome.depth.max(depth);
        steps.clear();
        world.steps(&mut steps);
        for &step in &steps {
            outcome.transitions += 1;
            let mut next = world.clone();
            if let Err(violation) = next.step(step, &mut None) {
                outcome.broken = Some((violation, way(&from, number, step)));
                break;
            }
            if known.insert(next.fingerprint(&mut writer)) {
                from.push((number, step));
                open.push_back((next, from.len() as u32 - 1, depth + 1));
                if from.len().is_multiple_of(100_000) {
                    (outcome.states, outcome.took) = (from.len(), began.elapsed());
                    progress(&outcome);
                }
            }
        }
        if outcome.broken.is_some() || from.len() >= most {
            break;
        }
    }
    outcome.ended = open.is_empty() && outcome.broken.is_none();
    (outcome.states, outcome.took) = (from.len(), began.elapsed());
    outcome
}

fn way(from: &[(u32, Step)], mut number: u32, last: Step) -> Vec<Step> {
    let mut way = vec![last];
    while number != 0 {
        let (before, step) = from[number as usize];
        way.push(step);
        number = before;
    }
    way.reverse();
    way
}

/// Goes a way again, and tells it.
pub fn tell(config: &Config, way: &[Step]) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(mut world) = World::settled(config.clone()) else { return lines };
    for &step in way {
        if let Err(violation) = world.step(step, &mut Some(&mut lines)) {
            lines.push(format!("BROKEN: {}: {}", violation.promise, violation.text));
        }
    }
    lines
}
