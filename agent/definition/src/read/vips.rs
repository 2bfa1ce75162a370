//! The shared addresses.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::limits::MAX_VIPS;
use crate::problem::Sink;
use crate::read::address::fault;
use crate::slot::{At, Slot};

/// The addresses that are right, in the order of the file.
pub(super) fn read(slot: &Slot<'_>, sink: &mut Sink) -> Vec<At<IpAddr>> {
    let entries = slot.list("an IP address such as `192.0.2.53` or `\"2001:db8::53\"`", MAX_VIPS, sink);
    let mut first_lines: HashMap<IpAddr, usize> = HashMap::new();
    let mut vips = Vec::new();
    for entry in entries.unwrap_or_default() {
        let Some(vip) = entry.address(sink) else { continue };
        if let Some(fault) = fault(vip) {
            let draft = entry.wrong(sink, format_args!("is `{vip}`, {fault}"));
            draft.expected("an address that clients reach");
            if let IpAddr::V6(v6) = vip
                && let Some(v4) = v6.to_ipv4_mapped()
            {
                draft.did_you_mean(v4);
            }
            continue;
        }
        if let Some(line) = first_lines.get(&vip) {
            entry
                .wrong(sink, format_args!("is `{vip}` again"))
                .expected("every address once")
                .hint(format!("it stands on line {line} already"));
            continue;
        }
        first_lines.insert(vip, entry.at.line);
        vips.push(entry.with_place(vip));
    }
    vips
}

/// No VIP is a host's own address: the host would then answer for it alone, or not at all.
pub(super) fn apart_from_hosts(vips: &[At<IpAddr>], gossip: &[At<SocketAddr>], sink: &mut Sink) {
    for vip in vips {
        if let Some(host) = gossip.iter().find(|host| host.value.ip() == vip.value) {
            sink.report(
                vip.at,
                format!(
                    "an entry of `vips` is `{}`, the gossip address of a host (line {})",
                    vip.value, host.at.line
                ),
            )
            .expected("an address that no host has as its own");
        }
    }
}
