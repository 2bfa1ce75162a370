//! Words never fall behind deeds: what a host says that it claims covers what its kernel may accept.

use onemac_core::report::{HostState, Report};
use onemac_core::view::Cluster;

use super::Violation;
use crate::clock::At;
use crate::mask::Mask;
use crate::world::{Host, World, name};

/// What the agent believes covers what its kernel accepts, once it knows its kernel at all.
pub(super) fn look(world: &World, i: usize) -> Result<(), Violation> {
    let host = &world.hosts[i];
    let Some(node) = host.node.as_ref().filter(|_| host.emptied) else { return Ok(()) };
    let accepts = world.accepts(i);
    if accepts.is_empty() {
        return Ok(());
    }
    let claims = Mask::of(&node.own_claims(), &world.config.services, world.config.slices);
    let unknown = accepts.minus(&claims);
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(violation(world.now, i, "accepts, unknown to its agent,", &unknown)),
    }
}

/// So does what it says, at the moment it says it; and a host that has left accepts nothing.
pub(super) fn published(
    host: &Host,
    number: usize,
    report: &Report,
    now: At,
    cluster: &Cluster,
) -> Option<Violation> {
    let accepts = host.kernel.accepts(host.clock.read(now));
    if accepts.is_empty() {
        return None;
    }
    let said = match report.state {
        HostState::Left => Mask::default(),
        _ => Mask::of(&report.claims, &cluster.services, cluster.slices),
    };
    let unsaid = accepts.minus(&said);
    (!unsaid.is_empty()).then(|| violation(now, number, "does not say that it accepts", &unsaid))
}

fn violation(at: At, host: usize, what: &str, slices: &Mask) -> Violation {
    let slices: Vec<u32> = slices.iter().collect();
    Violation { at, property: "words cover deeds", text: format!("{} {what} {slices:?}", name(host)) }
}
