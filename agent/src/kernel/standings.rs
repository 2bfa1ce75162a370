//! The core's words for what becomes of slices, and the rules' words.

use std::collections::BTreeMap;

use onemac_core::holding::{Holding, Holdings, Standing as CoreStanding};
use onemac_core::time::Time;
use onemac_rules::{MacAddr, Service, Standing};

use crate::daemon::Terms;
use crate::setup;

/// What an earlier run has left in the kernel, and what goes on there.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What becomes of slices.
    pub slices: Holdings,
    /// Until when, if anything does.
    pub lease_until: Option<Time>,
}

/// All services of a definition, with what the core wants of their slices. A host whose MAC address is not
/// known cannot be sent anything on: what would be is then closed to all but connections.
pub(crate) fn services(
    terms: &Terms,
    holdings: &Holdings,
    mac_of: &dyn Fn(&str) -> Option<[u8; 6]>,
) -> Vec<Service> {
    let mut services = setup::kernel_services(&terms.definition);
    for service in &mut services {
        let Some(held) = holdings.get(&service.name) else { continue };
        let all = (0..terms.definition.slices).map(|slice| (slice, standing(held, slice, mac_of)));
        service.slices = all.filter(|(_, standing)| *standing != Standing::Foreign).collect();
    }
    services
}

fn standing(held: &Holding, slice: u32, mac_of: &dyn Fn(&str) -> Option<[u8; 6]>) -> Standing {
    match held.standing(slice) {
        CoreStanding::Foreign => Standing::Foreign,
        CoreStanding::Own => Standing::Own,
        CoreStanding::Shared => Standing::Shared,
        CoreStanding::Heir => Standing::Heir,
        CoreStanding::Taking => Standing::Taking,
        CoreStanding::Moving => Standing::Moving,
        CoreStanding::Incoming => Standing::Incoming,
        CoreStanding::Relayed(to) => {
            mac_of(to).map_or(Standing::Moving, |mac| Standing::Relaying(MacAddr(mac)))
        }
    }
}

/// What the kernel does, for the core of an agent that takes over. To whom something is sent on is not
/// known any more: those slices are closed to all but connections.
pub fn holdings<'a>(
    services: impl IntoIterator<Item = (&'a String, &'a BTreeMap<u32, Standing>)>,
) -> Holdings {
    let mut holdings = Holdings::new();
    for (name, slices) in services {
        let held = holdings.entry(name.clone()).or_default();
        for (&slice, standing) in slices {
            match standing {
                Standing::Foreign => continue,
                Standing::Own => held.accepted.insert(slice),
                Standing::Shared | Standing::Heir | Standing::Taking => {
                    held.shared.insert(slice) && held.accepted.insert(slice)
                }
                Standing::Moving | Standing::Relaying(_) | Standing::Incoming => held.moving.insert(slice),
            };
        }
    }
    holdings
}
