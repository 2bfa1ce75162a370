//! No living connection is reset: whoever resets what it does not know is sure that nobody else knows it.
//!
//! An heir is sure of those that are not in the lists that its kernel has: of a list, a connection is missing if
//! it began later.
//!
//! A connection dies with its host's lease: from then on another host may answer for it. Where two hosts
//! are apart ([`crate::knowledge::Knowledge`]) neither can know what lives on the other; nor can a kernel that does what was decided
//! when they were, and what was decided since has yet to reach it.

use super::Violation;
use crate::kernel::{Holds, Kernel};
use crate::mask::Mask;
use crate::world::{World, name};

pub(super) fn look(world: &World) -> Result<(), Violation> {
    for (i, host) in world.hosts.iter().enumerate() {
        let alive = host.kernel.alive.and(&host.kernel.holds.connections);
        if alive.is_empty() || !host.kernel.is_open(host.clock.read(world.now)) {
            continue;
        }
        for (o, other) in world.hosts.iter().enumerate().filter(|&(o, _)| o != i) {
            let both = reset_by(&other.kernel.holds, &alive, i, &host.kernel);
            let knew_nothing =
                || other.kernel.is_behind() && world.knowledge.is_excused(i, o, other.kernel.decided);
            if both.is_empty()
                || knew_nothing()
                || !other.kernel.is_open(other.clock.read(world.now))
                || world.knowledge.is_excused(i, o, world.now)
            {
                continue;
            }
            let slices: Vec<u32> = both.iter().collect();
            return Err(Violation {
                at: world.now,
                property: "no living connection is reset",
                text: format!("{} resets what lives on {}: {slices:?}", name(o), name(i)),
            });
        }
    }
    Ok(())
}

/// Those of the slices `alive` of which the newest connection on host `i` is reset by a kernel that holds this.
fn reset_by(holds: &Holds, alive: &Mask, i: usize, kernel: &Kernel) -> Mask {
    let mut reset = alive.and(&holds.resets);
    let unsure = alive.and(&holds.heir);
    if !unsure.is_empty() {
        let listed =
            |slice: u32| holds.elsewhere.get(&(i, slice)).is_some_and(|&at| at >= kernel.newest(slice));
        unsure.iter().filter(|&slice| !listed(slice)).for_each(|slice| reset.insert(slice));
    }
    reset
}
