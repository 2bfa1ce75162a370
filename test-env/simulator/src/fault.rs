//! What goes wrong, and when: a list that a seed stands for, so that a part of it can be tried alone.

use std::fmt;

use crate::clock::{At, MS, nanos};
use crate::config::Config;
use crate::dice::Dice;

/// Some hosts: bit `i` is host `i`.
pub type Hosts = u64;

/// Something that goes wrong, or is done by an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent dies; its kernel goes on by itself.
    Kill {
        /// Which host.
        host: usize,
    },
    /// The agent is started where none runs.
    Start {
        /// Which host.
        host: usize,
        /// With what it starts.
        life: Life,
    },
    /// The agent is told to leave in order.
    Leave {
        /// Which host.
        host: usize,
    },
    /// An operator gives an order.
    Order {
        /// To which host.
        host: usize,
        /// Which.
        order: Order,
    },
    /// The agent does not run for a while, as by SIGSTOP or a busy machine.
    Pause {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
        /// Whether what it has asked of its kernel goes on meanwhile.
        kernel_goes_on: bool,
    },
    /// Nothing gets from some hosts to others for a while.
    Cut {
        /// From these.
        from: Hosts,
        /// To these.
        to: Hosts,
        /// For how long.
        ms: u64,
    },
    /// The network loses, doubles and delays from now on.
    Weather {
        /// So many of 1,000 datagrams are lost.
        loss: u64,
        /// So many of 1,000 come twice.
        doubles: u64,
        /// One in ten takes up to this long.
        slow_ms: u64,
    },
    /// A kernel is slow and refuses changes from now on.
    Kernel {
        /// Which host.
        host: usize,
        /// A change takes up to this long.
        slow_ms: u64,
        /// So many of 1,000 changes are refused.
        refuses: u64,
    },
    /// A kernel does nothing for a while.
    KernelStuck {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// The service device loses its carrier for a while; gossip may run elsewhere.
    Unplug {
        /// Which host.
        host: usize,
        /// For how long.
        ms: u64,
        /// Whether gossip runs over the same device.
        gossip_too: bool,
    },
}

/// What an operator wants of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take nothing.
    Drain,
    /// Take its share again.
    Resume,
    /// Take so much.
    Weight(u8),
}

/// With what an agent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A greater incarnation than ever before.
    Later,
    /// A smaller one than before: the clock went back.
    Earlier,
    /// With what the last agent kept, and the next greater incarnation if that is of no use.
    Same,
    /// A greater one, and another cluster definition.
    OtherDefinition,
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it happens.
    pub at: At,
    /// What happens.
    pub fault: Fault,
}

/// What a seed has in store.
pub fn plan(config: &Config) -> Vec<Planned> {
    let mut dice = Dice::new(config.seed, 2);
    let families = loop {
        let some = dice.roll(1 << FAMILIES.len());
        if some != 0 {
            break some;
        }
    };
    let families: Vec<Family> =
        FAMILIES.into_iter().enumerate().filter(|(i, _)| families & (1 << i) != 0).map(|(_, f)| f).collect();
    let mut plan = Vec::new();
    for _ in 0..dice.between(4, 24) {
        let at = dice.roll(config.trouble_ms) * MS;
        let family = dice.pick(&families);
        family(&mut dice, config, at, &mut plan);
    }
    plan.sort_by_key(|p| p.at);
    plan
}

type Family = fn(&mut Dice, &Config, At, &mut Vec<Planned>);

const FAMILIES: [Family; 8] = [crash, pause, cut, weather, kernel, leave, unplug, orders];

fn host(dice: &mut Dice, config: &Config) -> usize {
    dice.roll(config.hosts as u64) as usize
}

/// Some time around the bounds of the protocol, which are where it could fail.
fn while_ms(dice: &mut Dice, config: &Config) -> u64 {
    let lease = config.timing.lease.as_millis() as u64;
    match dice.roll(4) {
        0 => dice.between(1, lease / 2),
        1 => dice.between(lease / 2, lease),
        2 => dice.between(lease * 9 / 10, lease * 13 / 10),
        _ => dice.between(lease, lease * 4),
    }
}

fn crash(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let host = host(dice, config);
    plan.push(Planned { at, fault: Fault::Kill { host } });
    if dice.chance(800) {
        let life = match dice.roll(12) {
            8.. => Life::Same,
            0 | 1 => Life::Earlier,
            2 => Life::OtherDefinition,
            _ => Life::Later,
        };
        let ms = if dice.chance(300) { dice.between(1, 100) } else { while_ms(dice, config) };
        let at = at + ms * MS;
        plan.push(Planned { at, fault: Fault::Start { host, life } });
        if dice.chance(200) {
            // It stops in the middle of its joining.
            let at = at + dice.roll(nanos(config.timing.expiry()));
            let ms = dice.between(1, config.timing.lease.as_millis() as u64);
            plan.push(Planned { at, fault: Fault::Pause { host, ms, kernel_goes_on: true } });
        }
    }
}

fn pause(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let ms = while_ms(dice, config);
    let together = if dice.chance(100) { config.hosts } else { 1 };
    for _ in 0..together {
        let kernel_goes_on = dice.chance(500);
        plan.push(Planned { at, fault: Fault::Pause { host: host(dice, config), ms, kernel_goes_on } });
    }
}

fn cut(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let all: Hosts = (1 << config.hosts) - 1;
    let one: Hosts = 1 << host(dice, config);
    let other: Hosts = 1 << host(dice, config);
    let side = dice.between(1, all - 1);
    let (from, to) = dice.pick(&[(one, other), (one, !one & all), (!one & all, one), (side, !side & all)]);
    let ms = while_ms(dice, config);
    plan.push(Planned { at, fault: Fault::Cut { from, to, ms } });
    match dice.roll(3) {
        0 => {}
        1 => plan.push(Planned { at, fault: Fault::Cut { from: to, to: from, ms } }),
        _ => {
            // The way back is cut later and for another time: neither side sees what the other sees.
            let at = at + dice.roll(nanos(config.timing.lease) * 5 / 4);
            let ms = while_ms(dice, config);
            plan.push(Planned { at, fault: Fault::Cut { from: to, to: from, ms } });
        }
    }
}

fn weather(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let lease = config.timing.lease.as_millis() as u64;
    let loss = dice.pick(&[0, 10, 100, 300]);
    let doubles = dice.pick(&[0, 50, 300]);
    let slow_ms = dice.pick(&[8, 60, 200, lease * 2]);
    plan.push(Planned { at, fault: Fault::Weather { loss, doubles, slow_ms } });
}

fn kernel(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let host = host(dice, config);
    let fault = match dice.chance(500) {
        true => Fault::Kernel { host, slow_ms: dice.pick(&[3, 20, 80]), refuses: dice.pick(&[0, 100, 500]) },
        false => Fault::KernelStuck { host, ms: while_ms(dice, config) },
    };
    plan.push(Planned { at, fault });
}

fn leave(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let host = host(dice, config);
    plan.push(Planned { at, fault: Fault::Leave { host } });
    if dice.chance(700) {
        let at = at + while_ms(dice, config) * MS;
        plan.push(Planned { at, fault: Fault::Start { host, life: Life::Later } });
    }
}

fn unplug(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let (ms, gossip_too) = (while_ms(dice, config), dice.chance(700));
    plan.push(Planned { at, fault: Fault::Unplug { host: host(dice, config), ms, gossip_too } });
}

fn orders(dice: &mut Dice, config: &Config, at: At, plan: &mut Vec<Planned>) {
    let mut at = at;
    for _ in 0..dice.between(1, 3) {
        let order = match dice.roll(4) {
            0 | 1 => Order::Drain,
            2 => Order::Resume,
            _ => Order::Weight(dice.roll(4) as u8),
        };
        plan.push(Planned { at, fault: Fault::Order { host: host(dice, config), order } });
        at += dice.roll(nanos(config.timing.lease));
    }
}

/// The names of some hosts.
struct Names(Hosts);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> =
            (0..64).filter(|i| self.0 & (1 << i) != 0).map(|i| format!("ns{i}")).collect();
        write!(f, "{}", names.join(" "))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill { host } => write!(f, "the agent of ns{host} dies"),
            Fault::Start { host, life: Life::Later } => write!(f, "ns{host} starts"),
            Fault::Start { host, life: Life::Earlier } => {
                write!(f, "ns{host} starts with an incarnation smaller than before")
            }
            Fault::Start { host, life: Life::OtherDefinition } => {
                write!(f, "ns{host} starts with another definition")
            }
            Fault::Start { host, life: Life::Same } => write!(f, "ns{host} starts with what was kept"),
            Fault::Leave { host } => write!(f, "ns{host} is told to leave"),
            Fault::Order { host, order: Order::Drain } => write!(f, "ns{host} is drained"),
            Fault::Order { host, order: Order::Resume } => write!(f, "ns{host} is to resume"),
            Fault::Order { host, order: Order::Weight(weight) } => {
                write!(f, "ns{host} is given the weight {weight}")
            }
            Fault::Pause { host, ms, kernel_goes_on } => {
                let kernel = if *kernel_goes_on { ", its kernel works on" } else { "" };
                write!(f, "the agent of ns{host} stops for {ms} ms{kernel}")
            }
            Fault::Cut { from, to, ms } => {
                write!(f, "nothing gets from {} to {} for {ms} ms", Names(*from), Names(*to))
            }
            Fault::Weather { loss, doubles, slow_ms } => write!(
                f,
                "the network loses {loss} and doubles {doubles} of 1000 datagrams, slow ones take {slow_ms} ms"
            ),
            Fault::Kernel { host, slow_ms, refuses } => write!(
                f,
                "the kernel of ns{host} takes up to {slow_ms} ms and refuses {refuses} of 1000 changes"
            ),
            Fault::KernelStuck { host, ms } => write!(f, "the kernel of ns{host} does nothing for {ms} ms"),
            Fault::Unplug { host, ms, gossip_too } => {
                let gossip = if *gossip_too { "and gossip" } else { "but keeps gossip" };
                write!(f, "ns{host} loses its service link for {ms} ms {gossip}")
            }
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} ms  {}", self.at as f64 / MS as f64, self.fault)
    }
}
