//! Director mode: real servers, and how they are reached.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::fields::Fields;
use crate::limits::MAX_SERVERS;
use crate::model::{Backends, Server};
use crate::problem::Sink;
use crate::read::address::{family, fault};
use crate::read::check::{self, Whose};
use crate::read::optional;
use crate::schema;
use crate::slot::{At, Slot};
use crate::tree::Value;
use crate::words::{Engine, Scheduler};

const PERSISTENCE_MIN: Duration = Duration::from_secs(1);
const PERSISTENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Reads `backends`.
pub(super) fn read(slot: &Slot<'_>, vips: &[At<IpAddr>], sink: &mut Sink) -> Option<Backends> {
    let backends = Fields::open(slot, &schema::BACKENDS, sink)?;
    let method = backends.get("method").and_then(|slot| slot.word(sink));
    let engine = optional(backends.get("engine"), Engine::Auto, |slot| slot.word(sink));
    let scheduler = optional(backends.get("scheduler"), Scheduler::Mh, |slot| slot.word(sink));
    let persistence = optional(backends.get("persistence"), None, |slot| persistence(slot, sink).map(Some));
    let servers = backends.get("servers").map(|slot| servers(slot, vips, sink)).unwrap_or_default();
    let check =
        optional(backends.get("check"), None, |slot| check::read(slot, Whose::Servers, sink).map(Some));
    Some(Backends {
        method: method?,
        engine: engine?,
        scheduler: scheduler?,
        persistence: persistence?,
        servers,
        check: check?,
    })
}

/// The kernel counts persistence in seconds.
fn persistence(slot: &Slot<'_>, sink: &mut Sink) -> Option<Duration> {
    let persistence = slot.duration(PERSISTENCE_MIN..=PERSISTENCE_MAX, sink)?;
    if persistence.subsec_nanos() != 0 {
        slot.wrong(sink, format_args!("is {}", crate::duration::print(persistence)));
        return None;
    }
    Some(persistence)
}

fn servers(slot: &Slot<'_>, vips: &[At<IpAddr>], sink: &mut Sink) -> Vec<Server> {
    let entries = slot.list("a mapping with at least `address`", MAX_SERVERS, sink).unwrap_or_default();
    let mut first_lines: HashMap<(IpAddr, Option<u16>), usize> = HashMap::new();
    let mut weights = Vec::new();
    let mut servers = Vec::new();
    for entry in &entries {
        if let Value::Scalar { text, .. } = &entry.node.value
            && text.parse::<IpAddr>().is_ok()
        {
            entry.wrong_text(sink, text).did_you_mean(format_args!("{{ address: {text} }}"));
            continue;
        }
        let Some(server) = Fields::open(entry, &schema::SERVER, sink) else { continue };
        let address = server.get("address").and_then(|slot| address(slot, vips, sink));
        let port = optional(server.get("port"), None, |slot| slot.port(sink).map(Some));
        let weight = optional(server.get("weight"), 1, |slot| {
            slot.number(0..=u32::from(u16::MAX), sink).and_then(|weight| u16::try_from(weight).ok())
        });
        weights.push(weight);
        let (Some(address), Some(port), Some(weight)) = (address, port, weight) else { continue };
        if let Some(line) = first_lines.get(&(address, port)) {
            entry
                .wrong(sink, format_args!("is the server `{address}` again"))
                .expected("every server once, its share as its `weight`")
                .hint(format!("the first one is on line {line}"));
            continue;
        }
        first_lines.insert((address, port), entry.at.line);
        servers.push(Server { address, port, weight });
    }
    if !weights.is_empty() && weights.iter().all(|weight| *weight == Some(0)) {
        slot.wrong(sink, "holds only servers of weight 0")
            .expected("at least one of weight 1 or more, to serve anybody")
            .hint("to turn the service off, write `mode: off`");
    }
    servers
}

/// An address to which a director can forward. A cluster host's own address is one (the local node).
fn address(slot: &Slot<'_>, vips: &[At<IpAddr>], sink: &mut Sink) -> Option<IpAddr> {
    let address = slot.address(sink)?;
    if let Some(fault) = fault(address) {
        slot.wrong(sink, format_args!("is `{address}`, {fault}"))
            .expected("the address of a server that the hosts reach");
        return None;
    }
    if let Some(vip) = vips.iter().find(|vip| vip.value == address) {
        slot.wrong(sink, format_args!("is `{address}`, a VIP of this cluster (line {})", vip.at.line))
            .expected("the server's own address: forwarding to a VIP would go in a circle");
        return None;
    }
    if !vips.is_empty() && vips.iter().all(|vip| vip.value.is_ipv4() != address.is_ipv4()) {
        slot.wrong(sink, format_args!("is {}, and no VIP is", family(address)))
            .expected("a server of a family in which there is a VIP");
        return None;
    }
    Some(address)
}
