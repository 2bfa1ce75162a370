//! A kernel is fenced by itself: it accepts nothing beyond a lease after its agent's last heartbeat.

use super::Violation;
use crate::world::{World, name};

pub(super) fn look(world: &World, i: usize) -> Result<(), Violation> {
    let host = &world.hosts[i];
    let bound = host.last_sent + world.config.timing.lease;
    if world.hosts.len() == 1 || host.kernel.holds.accepted.is_empty() || host.kernel.lease_until <= bound {
        return Ok(());
    }
    let over = host.kernel.lease_until.since(bound).as_millis();
    Err(Violation {
        at: world.now,
        property: "a lease after the last heartbeat the kernel is silent",
        text: format!("the lease of {} ends {over} ms after that", name(i)),
    })
}
