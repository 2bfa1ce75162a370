//! Services: names, ports, who serves them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::fields::Fields;
use crate::limits::MAX_SERVICES;
use crate::model::{PortRange, Service};
use crate::problem::Sink;
use crate::read::check::Whose;
use crate::read::{backends, check, name, optional, ports};
use crate::schema;
use crate::slot::{At, Slot};
use crate::tree::Value;
use crate::words::{Mode, Protocol, Track, Word};

/// The service of everything that no other one takes.
const DEFAULT: &str = "default";

/// A port range that a service has taken.
struct Taken {
    service: String,
    protocol: Protocol,
    range: At<PortRange>,
}

/// Reads `services`. An empty list is the same as none.
pub(super) fn read(slot: &Slot<'_>, vips: &[At<IpAddr>], sink: &mut Sink) -> Vec<Service> {
    if matches!(&slot.node.value, Value::List(items) if items.is_empty()) {
        return Vec::new();
    }
    let entries = slot.list("a mapping with `name` and `ports`", MAX_SERVICES, sink).unwrap_or_default();
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut taken = Vec::new();
    let mut services = Vec::new();
    for entry in &entries {
        let Some(fields) = Fields::open(entry, &schema::SERVICE, sink) else { continue };
        let name = fields.get("name").and_then(|slot| {
            let name = name::label(slot, sink)?;
            if let Some(line) = names.get(&name) {
                slot.wrong(sink, format_args!("is `{name}` again"))
                    .expected("every service under a name of its own")
                    .hint(format!("the first one is on line {line}"));
            } else {
                names.insert(name.clone(), slot.at.line);
            }
            Some(name)
        });
        services.extend(service(&fields, name, vips, &mut taken, sink));
    }
    services
}

fn service(
    fields: &Fields<'_>,
    name: Option<String>,
    vips: &[At<IpAddr>],
    taken: &mut Vec<Taken>,
    sink: &mut Sink,
) -> Option<Service> {
    let is_default = name.as_deref() == Some(DEFAULT);
    let (ports, protocols) = if is_default {
        takes_the_rest(fields, sink);
        (Vec::new(), Vec::new())
    } else {
        transport(fields, sink)
    };
    take(name.as_deref(), &ports, &protocols, taken, sink);
    let mode = optional(fields.get("mode"), Mode::Shared, |slot| slot.word(sink));
    let track = optional(fields.get("track"), Track::Auto, |slot| slot.word(sink));
    let whose = if is_default { Whose::DefaultService } else { Whose::Service };
    let check = optional(fields.get("check"), None, |slot| check::read(slot, whose, sink).map(Some));
    let backends = optional(fields.get("backends"), None, |slot| backends::read(slot, vips, sink).map(Some));
    Some(Service {
        name: name?,
        ports: ports.into_iter().map(|range| range.value).collect(),
        protocols,
        mode: mode?,
        track: track?,
        check: check?,
        backends: backends?,
    })
}

/// `default` is what is left over, so it cannot choose.
fn takes_the_rest(fields: &Fields<'_>, sink: &mut Sink) {
    for key in ["ports", "protocols"] {
        if let Some(slot) = fields.get(key) {
            slot.wrong(sink, "is given for the service `default`")
                .expected("none: `default` is everything that no other service takes")
                .hint("remove it, or give the service another name");
        }
    }
}

fn transport(fields: &Fields<'_>, sink: &mut Sink) -> (Vec<At<PortRange>>, Vec<Protocol>) {
    let ports = match (fields.get("ports"), fields.key("ports")) {
        (Some(slot), _) => ports::read(slot, sink),
        (None, Some(key)) => {
            fields.missing(key, sink);
            Vec::new()
        }
        (None, None) => Vec::new(),
    };
    let protocols = fields.get("protocols").map_or_else(|| vec![Protocol::Tcp], |slot| protocols(slot, sink));
    (ports, protocols)
}

fn protocols(slot: &Slot<'_>, sink: &mut Sink) -> Vec<Protocol> {
    let mut protocols: Vec<Protocol> = Vec::new();
    for entry in slot.list("`tcp` or `udp`", Protocol::ALL.len(), sink).unwrap_or_default() {
        if let Value::Scalar { text, .. } = &entry.node.value
            && let Some(why) = unsupported(&text.to_ascii_lowercase())
        {
            entry.wrong_text(sink, text).hint(why);
            continue;
        }
        let Some(protocol) = entry.word::<Protocol>(sink) else { continue };
        if protocols.contains(&protocol) {
            entry.wrong(sink, format_args!("is `{protocol}` again")).expected("every protocol once");
            continue;
        }
        protocols.push(protocol);
    }
    protocols.sort_unstable();
    protocols
}

fn unsupported(protocol: &str) -> Option<&'static str> {
    match protocol {
        "sctp" => Some("SCTP is not supported"),
        "quic" => Some("QUIC runs over `udp`"),
        "icmp" | "icmpv6" | "ping" => {
            Some("ICMP needs no service: echo requests follow the client's slice, errors their connection")
        }
        _ => None,
    }
}

/// One port of one protocol belongs to one service.
fn take(
    name: Option<&str>,
    ports: &[At<PortRange>],
    protocols: &[Protocol],
    taken: &mut Vec<Taken>,
    sink: &mut Sink,
) {
    let earlier = taken.len();
    for range in ports {
        for protocol in protocols {
            let clash = taken[..earlier]
                .iter()
                .find(|other| other.protocol == *protocol && other.range.value.overlaps(range.value));
            if let Some(other) = clash {
                sink.report(
                    range.at,
                    format!(
                        "an entry of `ports` is `{}` ({protocol}), which the service `{}` has taken on line {}",
                        ports::print(range.value),
                        other.service,
                        other.range.at.line
                    ),
                )
                .expected("every port of a protocol in one service only");
            }
            taken.push(Taken {
                service: name.unwrap_or("without a name").to_owned(),
                protocol: *protocol,
                range: *range,
            });
        }
    }
}
