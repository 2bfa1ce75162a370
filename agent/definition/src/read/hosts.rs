//! The cluster's members.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::fields::Fields;
use crate::limits::{MAX_HOSTS, MAX_WEIGHT};
use crate::model::Host;
use crate::problem::Sink;
use crate::read::address::{family, gossip_fault};
use crate::read::{name, optional};
use crate::schema;
use crate::slot::{At, Slot, looks_like_a_name};

/// The port that suggestions carry; the definition itself has no default for it.
const USUAL_PORT: u16 = 7946;

/// What the other parts need to know of the hosts.
#[derive(Default)]
pub(super) struct Hosts {
    /// Those without a problem.
    pub(super) hosts: Vec<Host>,
    /// Every gossip address that is right in itself.
    pub(super) gossip: Vec<At<SocketAddr>>,
    /// How many entries the list has.
    pub(super) count: usize,
}

/// Reads `hosts`.
pub(super) fn read(slot: &Slot<'_>, sink: &mut Sink) -> Hosts {
    let entries =
        slot.list("a mapping with `name`, `gossip` and `interface`", MAX_HOSTS, sink).unwrap_or_default();
    let mut read = Hosts { count: entries.len(), ..Hosts::default() };
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut weights = Vec::new();
    for entry in &entries {
        let Some(host) = Fields::open(entry, &schema::HOST, sink) else { continue };
        let name = host.get("name").and_then(|slot| {
            let name = name::host(slot, sink)?;
            // Host names compare without regard to case (RFC 4343).
            match names.get(&name.to_ascii_lowercase()) {
                None => {
                    names.insert(name.to_ascii_lowercase(), slot.at.line);
                }
                Some(line) => {
                    slot.wrong(sink, format_args!("is `{name}` again"))
                        .expected("every host under a name of its own")
                        .hint(format!("the first one is on line {line}"));
                }
            }
            Some(name)
        });
        let gossip =
            host.get("gossip").and_then(|slot| socket(slot, sink).map(|value| slot.with_place(value)));
        if let Some(gossip) = gossip {
            fits_to_others(gossip, &read.gossip, sink);
            read.gossip.push(gossip);
        }
        let interface = host.get("interface").and_then(|slot| name::interface(slot, sink));
        let weight = optional(host.get("weight"), 1, |slot| {
            slot.number(0..=u32::from(MAX_WEIGHT), sink).and_then(|weight| u8::try_from(weight).ok())
        });
        weights.push(weight);
        if let (Some(name), Some(gossip), Some(interface), Some(weight)) = (name, gossip, interface, weight) {
            read.hosts.push(Host { name, gossip: gossip.value, interface, weight });
        }
    }
    if !weights.is_empty() && weights.iter().all(|weight| *weight == Some(0)) {
        let what =
            if weights.len() == 1 { "has one host, of weight 0" } else { "has only hosts of weight 0" };
        slot.wrong(sink, what).expected("at least one host of weight 1 or more, to serve anybody");
    }
    read
}

/// An address and a port that other hosts can send to.
fn socket(slot: &Slot<'_>, sink: &mut Sink) -> Option<SocketAddr> {
    let text = slot.text(sink)?;
    let Ok(socket) = text.parse::<SocketAddr>() else {
        let draft = slot.wrong_text(sink, text);
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            draft.hint(format!(
                "the port is missing; did you mean `{}`?",
                SocketAddr::new(address, USUAL_PORT)
            ));
        } else if let Some(right) = unbracketed(text) {
            draft.did_you_mean(format_args!("\"{right}\""));
        } else if text
            .rsplit_once(':')
            .is_some_and(|(name, port)| looks_like_a_name(name) && port.parse::<u16>().is_ok())
        {
            draft.hint(
                "names are not looked up: gossip must work while the nameservers do not; write the address",
            );
        }
        return None;
    };
    if socket.port() == 0 {
        slot.wrong(sink, format_args!("is `{socket}`, and nobody can send to port 0"));
        return None;
    }
    if let Some(fault) = gossip_fault(socket.ip()) {
        slot.wrong(sink, format_args!("is `{socket}`, {fault}"))
            .expected("the address under which the other hosts reach this one");
        return None;
    }
    Some(socket)
}

/// `2001:db8::1:7946` is an address to a computer and an address with a port to its writer. Taken as
/// the latter only where what stands before the last colon is an address by itself.
fn unbracketed(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address: IpAddr = address.parse().ok()?;
    address.is_ipv6().then_some(SocketAddr::new(address, port.parse().ok()?))
}

/// One family, one address per host, and loopback for all or none.
fn fits_to_others(gossip: At<SocketAddr>, others: &[At<SocketAddr>], sink: &mut Sink) {
    let ip = gossip.value.ip();
    let loopback = ip.is_loopback();
    // On loopback several agents share one address, for a try on one machine.
    let same = |other: &&At<SocketAddr>| {
        if loopback { other.value == gossip.value } else { other.value.ip() == ip }
    };
    if let Some(first) = others.iter().find(same) {
        sink.report(gossip.at, format!("`gossip` has the address of another host, `{}`", first.value))
            .expected("an address of its own for every host")
            .hint(format!("the first one is on line {}", first.at.line));
        return;
    }
    let Some(first) = others.first() else { return };
    let first_ip = first.value.ip();
    if first_ip.is_ipv4() != ip.is_ipv4() {
        sink.report(
            gossip.at,
            format!(
                "`gossip` is {}, and that of the first host (line {}) is {}",
                family(ip),
                first.at.line,
                family(first_ip)
            ),
        )
        .expected("one address family for all hosts, so that each can send to each");
    } else if first_ip.is_loopback() != loopback {
        sink.report(
            gossip.at,
            format!(
                "`gossip` is `{}`, and that of the first host (line {}) is `{}`",
                gossip.value, first.at.line, first.value
            ),
        )
        .expected("loopback addresses for all hosts or for none, so that each can send to each");
    }
}
