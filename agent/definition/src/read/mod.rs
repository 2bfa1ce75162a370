//! From the tree to the definition: one file per part, and here the rules that tie the parts together.
//!
//! A reader returns `None`, or leaves an entry out of a list, only after it has reported why. So the
//! others go on and find their own problems, and [`crate::parse`] accepts only if none found any.

mod address;
mod backends;
mod check;
mod hosts;
mod mac;
mod name;
mod ports;
mod services;
mod timing;
mod vips;

pub(crate) use ports::print as print_range;

use std::path::PathBuf;

use crate::fields::Fields;
use crate::limits::{DEFAULT_SLICES, MAX_SLICES, MIN_SLICES};
use crate::model::Definition;
use crate::problem::Sink;
use crate::schema;
use crate::slot::Slot;
use crate::tree::Node;
use crate::words::{Affinity, Link, Partition};

/// Reads the whole definition.
pub(crate) fn definition(root: &Node, sink: &mut Sink) -> Option<Definition> {
    let slot = Slot {
        label: "the definition".to_owned(),
        expected: "a mapping with at least `cluster`, `secret_file`, `vips` and `hosts`",
        at: root.at,
        node: root,
    };
    let top = Fields::open(&slot, &schema::TOP, sink)?;
    let cluster = top.get("cluster").and_then(|slot| name::label(slot, sink));
    let secret_file = top.get("secret_file").and_then(|slot| path(slot, sink));
    let vips = top.get("vips").map(|slot| vips::read(slot, sink)).unwrap_or_default();
    let link = optional(top.get("link"), Link::Unicast, |slot| slot.word(sink));
    let mac = mac::read(top.get("mac"), link, &vips, sink);
    let slices = optional(top.get("slices"), DEFAULT_SLICES, |slot| slices(slot, sink));
    let affinity = optional(top.get("affinity"), Affinity::Client, |slot| slot.word(sink));
    let partition = optional(top.get("partition"), Partition::Serve, |slot| slot.word(sink));
    let timing = timing::read(top.get("timing"), sink);
    let hosts = top.get("hosts").map(|slot| hosts::read(slot, sink)).unwrap_or_default();
    let services = top.get("services").map(|slot| services::read(slot, &vips, sink)).unwrap_or_default();

    vips::apart_from_hosts(&vips, &hosts.gossip, sink);
    if let (Some(slot), Some(slices)) = (top.get("slices"), slices)
        && hosts.count > slices as usize
    {
        slot.wrong(sink, format_args!("is {slices}, fewer than the {} hosts", hosts.count))
            .expected("at least one slice for every host");
    }
    Some(Definition {
        cluster: cluster?,
        secret_file: secret_file?,
        vips: vips.into_iter().map(|vip| vip.value).collect(),
        mac: mac?,
        link: link?,
        slices: slices?,
        affinity: affinity?,
        partition: partition?,
        timing: timing?,
        hosts: hosts.hosts,
        services,
    })
}

/// The default where the key is absent, else what `read` makes of it.
fn optional<'a, 'n, T>(
    slot: Option<&'a Slot<'n>>,
    default: T,
    read: impl FnOnce(&'a Slot<'n>) -> Option<T>,
) -> Option<T> {
    slot.map_or(Some(default), read)
}

fn path(slot: &Slot<'_>, sink: &mut Sink) -> Option<PathBuf> {
    let text = slot.text(sink)?;
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        slot.wrong_text(sink, text);
        return None;
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        slot.wrong(sink, "looks like the secret itself")
            .hint("put the 64 hex digits in a file that only root can read, and make a new secret: this one has been seen");
        return None;
    }
    Some(PathBuf::from(text))
}

fn slices(slot: &Slot<'_>, sink: &mut Sink) -> Option<u32> {
    let slices = slot.number(0..=u32::MAX, sink)?;
    if (MIN_SLICES..=MAX_SLICES).contains(&slices) && slices.is_power_of_two() {
        return Some(slices);
    }
    let within = slices.clamp(MIN_SLICES, MAX_SLICES);
    let above = within.next_power_of_two();
    let nearest = if above - within <= within - above / 2 { above } else { above / 2 };
    slot.wrong(sink, format_args!("is {slices}")).did_you_mean(nearest);
    None
}
