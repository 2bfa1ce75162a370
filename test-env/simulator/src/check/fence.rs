//! A kernel is fenced by itself: it accepts nothing beyond a lease after its agent's last heartbeat.

use super::Violation;
use crate::world::{World, name};

pub(super) fn look(world: &World) -> Result<(), Violation> {
    if world.hosts.len() == 1 {
        return Ok(());
    }
    for (i, host) in world.hosts.iter().enumerate() {
        let bound = host.last_sent + world.config.timing.lease;
        if !host.kernel.claims.is_empty() && host.kernel.lease_until > bound {
            let over = host.kernel.lease_until.since(bound).as_millis();
            return Err(Violation {
                at: world.now,
                property: "a lease after the last heartbeat the kernel is silent",
                text: format!("the lease of {} ends {over} ms after that", name(i)),
            });
        }
    }
    Ok(())
}
