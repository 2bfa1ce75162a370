//! Clients open connections wherever they are served, and close them when they like.

use onemac_core::node::{Input, Look};
use onemac_core::report::Claims;

use super::World;
use crate::config::CONNECTIONS_END;
use crate::mask::Mask;

impl World {
    /// A host whose lease has run out has let its connections down: others may answer for it by now.
    pub(super) fn connections_die(&mut self, host: usize) {
        let h = &mut self.hosts[host];
        if !h.kernel.is_open(h.clock.read(self.now)) {
            h.kernel.alive = Mask::default();
        }
    }

    /// Time for connections, and for agents to look at them.
    pub(super) fn connections_come_and_go(&mut self) {
        let serves = self.serves();
        for (host, served) in serves.iter().enumerate() {
            self.connections_die(host);
            // Who leaves waits for the last one.
            let least = if self.hosts[host].is_leaving() { CONNECTIONS_END } else { 0 };
            let gone = self.dice.chance(self.config.connections_end.max(least));
            let kernel = &mut self.hosts[host].kernel;
            // What is neither accepted nor moving meets a closed door, and is not coming back.
            let reached = kernel.holds.accepted.or(&kernel.holds.connections).or(&kernel.holds.incoming);
            let cut = kernel.alive.minus(&reached);
            if !cut.is_empty() {
                self.checks.share.closed(host, &cut, self.now);
            }
            kernel.alive = kernel.alive.and(&reached);
            kernel.connect(served, self.now);
            if gone {
                kernel.alive = Mask::default();
            }
            let moves = |h: &super::Host| {
                h.node.as_ref().is_some_and(|n| n.moving().values().any(|slices| !slices.is_empty()))
            };
            if moves(&self.hosts[host]) && self.hosts[host].awake(self.now) && self.dice.chance(200) {
                self.look(host);
            }
        }
    }

    fn look(&mut self, host: usize) {
        let h = &self.hosts[host];
        let slices = self.config.slices;
        let of = |i: usize| h.kernel.alive.iter().filter(move |bit| bit / slices == i as u32);
        let services = self.config.services.iter().enumerate();
        let alive: Claims =
            services.map(|(i, s)| (s.clone(), of(i).map(|bit| bit % slices).collect())).collect();
        let look = Look { at: h.clock.read(self.now), alive, ..Look::default() };
        self.feed(host, Input::Looked(look));
    }
}
