//! What a seed has in store.
//!
//! There are three kinds of runs, see [`Kind`].

use super::{Fault, Hosts, Life, Order, Planned};
use crate::clock::{At, MS, nanos};
use crate::config::{Config, Kind};
use crate::dice::Dice;

/// The dice and the rules by which a plan is dealt.
struct Dealer {
    dice: Dice,
    config: Config,
    plan: Vec<Planned>,
}

/// What a seed has in store.
pub fn plan(config: &Config) -> Vec<Planned> {
    let mut dice = Dice::new(config.seed, 2);
    let all: &[Family] = match config.kind {
        Kind::Wild => &WILD,
        Kind::Lone(_) => &LONE,
        Kind::Operator => &OPERATOR,
    };
    let families = loop {
        let some = dice.roll(1 << all.len());
        if some != 0 {
            break some;
        }
    };
    let families: Vec<Family> =
        all.iter().enumerate().filter(|(i, _)| families & (1 << i) != 0).map(|(_, f)| *f).collect();
    let (least, most) = if config.kind == Kind::Wild { (4, 24) } else { (1, 8) };
    let from = config.quiet_ms();
    let mut dealer = Dealer { dice, config: config.clone(), plan: Vec::new() };
    for _ in 0..dealer.dice.between(least, most) {
        let at = (from + dealer.dice.roll(config.trouble_ms - from)) * MS;
        let family = dealer.dice.pick(&families);
        family(&mut dealer, at);
    }
    dealer.plan.sort_by_key(|p| p.at);
    dealer.plan
}

type Family = fn(&mut Dealer, At);

const WILD: [Family; 17] = [
    Dealer::crash,
    Dealer::pause,
    Dealer::cut,
    Dealer::weather,
    Dealer::kernel,
    Dealer::leave,
    Dealer::unplug,
    Dealer::orders,
    Dealer::deaf_or_mute,
    Dealer::unreached,
    Dealer::link,
    Dealer::narrow,
    Dealer::replay,
    Dealer::memory,
    Dealer::reload,
    Dealer::upgrade,
    Dealer::restart,
];

const LONE: [Family; 14] = [
    Dealer::crash,
    Dealer::pause,
    Dealer::cut,
    Dealer::kernel,
    Dealer::kernel,
    Dealer::leave,
    Dealer::unplug,
    Dealer::orders,
    Dealer::deaf_or_mute,
    Dealer::deaf_or_mute,
    Dealer::unreached,
    Dealer::narrow,
    Dealer::memory,
    Dealer::restart,
];

const OPERATOR: [Family; 4] = [Dealer::leave, Dealer::orders, Dealer::reload, Dealer::restart];

impl Dealer {
    fn add(&mut self, at: At, fault: Fault) {
        self.plan.push(Planned { at, fault });
    }

    fn all(&self) -> Hosts {
        (1 << self.config.hosts) - 1
    }

    fn host(&mut self) -> usize {
        match self.config.kind {
            Kind::Lone(host) => host,
            Kind::Wild | Kind::Operator => self.dice.roll(self.config.hosts as u64) as usize,
        }
    }

    fn lease_ms(&self) -> u64 {
        self.config.timing.lease.as_millis() as u64
    }

    /// Some time around the bounds of the protocol, which are where it could fail.
    fn while_ms(&mut self) -> u64 {
        let lease = self.lease_ms();
        match self.dice.roll(4) {
            0 => self.dice.between(1, lease / 2),
            1 => self.dice.between(lease / 2, lease),
            2 => self.dice.between(lease * 9 / 10, lease * 13 / 10),
            _ => self.dice.between(lease, lease * 4),
        }
    }

    /// From whom to whom.
    fn links(&mut self) -> (Hosts, Hosts) {
        let all = self.all();
        let one: Hosts = 1 << self.host();
        let (out, into) = ((one, !one & all), (!one & all, one));
        if let Kind::Lone(_) = self.config.kind {
            return out;
        }
        let other: Hosts = 1 << self.host();
        let side = self.dice.between(1, all - 1);
        self.dice.pick(&[(one, other), out, into, (side, !side & all)])
    }

    fn crash(&mut self, at: At) {
        let host = self.host();
        self.add(at, Fault::Kill { host });
        if self.dice.chance(800) {
            let life = match self.dice.roll(12) {
                8.. => Life::Same,
                0 | 1 => Life::Earlier,
                2 => Life::OtherDefinition,
                _ => Life::Later,
            };
            let ms = if self.dice.chance(300) { self.dice.between(1, 100) } else { self.while_ms() };
            let at = at + ms * MS;
            self.add(at, Fault::Start { host, life });
            if self.dice.chance(200) {
                // It stops in the middle of its joining.
                let at = at + self.dice.roll(nanos(self.config.timing.expiry()));
                let ms = self.dice.between(1, self.lease_ms());
                self.add(at, Fault::Pause { host, ms, kernel_goes_on: true });
            }
        }
    }

    fn pause(&mut self, at: At) {
        let ms = self.while_ms();
        let together = if self.dice.chance(100) { self.config.hosts } else { 1 };
        for _ in 0..together {
            let (host, kernel_goes_on) = (self.host(), self.dice.chance(500));
            self.add(at, Fault::Pause { host, ms, kernel_goes_on });
        }
    }

    fn cut(&mut self, at: At) {
        let (from, to) = self.links();
        let ms = self.while_ms();
        self.add(at, Fault::Cut { from, to, ms });
        match self.dice.roll(3) {
            _ if self.config.kind != Kind::Wild => {}
            0 => {}
            1 => self.add(at, Fault::Cut { from: to, to: from, ms }),
            _ => {
                // The way back is cut later and for another time: neither side sees what the other sees.
                let at = at + self.dice.roll(nanos(self.config.timing.lease) * 5 / 4);
                let ms = self.while_ms();
                self.add(at, Fault::Cut { from: to, to: from, ms });
            }
        }
    }

    fn weather(&mut self, at: At) {
        let lease = self.lease_ms();
        let loss = self.dice.pick(&[0, 10, 100, 300]);
        let doubles = self.dice.pick(&[0, 50, 300]);
        let slow_ms = self.dice.pick(&[8, 60, 200, lease * 2]);
        self.add(at, Fault::Weather { loss, doubles, slow_ms });
    }

    fn kernel(&mut self, at: At) {
        let host = self.host();
        let fault = match self.dice.roll(8) {
            0..3 => {
                let (slow_ms, refuses) = (self.dice.pick(&[3, 20, 80]), self.dice.pick(&[0, 100, 500]));
                Fault::Kernel { host, slow_ms, refuses }
            }
            3..5 => Fault::KernelStuck { host, ms: self.while_ms() },
            5..7 => Fault::NoRenewals { host, ms: self.while_ms() },
            _ => Fault::WallClock { host },
        };
        self.add(at, fault);
    }

    fn leave(&mut self, at: At) {
        let host = self.host();
        self.add(at, Fault::Leave { host });
        if self.dice.chance(700) {
            let at = at + self.while_ms() * MS;
            self.add(at, Fault::Start { host, life: Life::Later });
        }
    }

    fn unplug(&mut self, at: At) {
        let (host, ms, gossip_too) = (self.host(), self.while_ms(), self.dice.chance(700));
        self.add(at, Fault::Unplug { host, ms, gossip_too });
    }

    fn orders(&mut self, at: At) {
        let mut at = at;
        for _ in 0..self.dice.between(1, 3) {
            let order = match self.dice.roll(4) {
                0 | 1 => Order::Drain,
                2 => Order::Resume,
                _ => Order::Weight(self.dice.roll(4) as u8),
            };
            let host = self.host();
            self.add(at, Fault::Order { host, order });
            at += self.dice.roll(nanos(self.config.timing.lease));
        }
    }

    fn deaf_or_mute(&mut self, at: At) {
        let (host, ms) = (self.host(), self.while_ms());
        let fault = if self.dice.chance(500) { Fault::Deaf { host, ms } } else { Fault::Mute { host, ms } };
        self.add(at, fault);
    }

    fn unreached(&mut self, at: At) {
        let (host, ms, by_nobody) = (self.host(), self.while_ms(), self.dice.chance(500));
        self.add(at, Fault::Unreached { host, ms, by_nobody });
    }

    fn link(&mut self, at: At) {
        let (from, to) = self.links();
        let lease = self.lease_ms();
        let loss = self.dice.pick(&[0, 0, 100, 500]);
        let late_ms = self.dice.pick(&[20, 100, lease / 3, lease]);
        let ms = self.while_ms() * 2;
        self.add(at, Fault::Link { from, to, loss, late_ms, ms });
        if self.dice.chance(500) {
            self.add(at, Fault::Link { from: to, to: from, loss, late_ms, ms });
        }
    }

    /// From so few bytes that nothing gets through to so many that only what moves does not.
    fn narrow(&mut self, at: At) {
        let (from, to) = self.links();
        let (bytes, ms) = (self.dice.between(100, 500), self.while_ms());
        self.add(at, Fault::Narrow { from, to, bytes, ms });
    }

    fn replay(&mut self, at: At) {
        let (of, to, ms) = (self.host(), self.host(), self.while_ms());
        if of != to {
            self.add(at, Fault::Replay { of, to, ms });
        }
    }

    fn memory(&mut self, at: At) {
        let (host, removed) = (self.host(), self.dice.chance(500));
        let ms = self.while_ms() * 2;
        self.add(at, Fault::NoMemory { host, ms, removed });
        if self.dice.chance(700) {
            let at = at + self.dice.roll(ms) * MS;
            self.add(at, Fault::Kill { host });
            let at = at + self.dice.between(1, self.lease_ms() / 2) * MS;
            self.add(at, Fault::Start { host, life: Life::Same });
        }
    }

    /// A new definition comes to one host after another, to some late and to some never.
    fn reload(&mut self, at: At) {
        let definition = self.dice.between(1, 3) as u8;
        let gap = self.dice.pick(&[1, 20, self.lease_ms()]) * MS;
        let all_get_it = self.dice.chance(700);
        let mut at = at;
        for host in 0..self.config.hosts {
            if all_get_it || self.dice.chance(800) {
                self.add(at, Fault::Stage { host, definition });
            }
            at += self.dice.roll(gap);
        }
    }

    /// One host after another leaves, in order or not, and comes back with the next version.
    fn upgrade(&mut self, at: At) {
        let (gap, in_order) = (self.while_ms() * MS, self.dice.chance(700));
        let some = self.dice.between(1, self.config.hosts as u64) as usize;
        let mut at = at;
        for host in 0..some {
            if in_order {
                self.add(at, Fault::Leave { host });
            }
            self.add(at + gap / 2, Fault::Upgrade { host });
            at += gap;
        }
    }

    fn restart(&mut self, at: At) {
        let host = self.host();
        self.add(at, Fault::Restart { host });
    }
}
