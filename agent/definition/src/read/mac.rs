//! The cluster MAC: given, or derived.

use std::net::IpAddr;

use crate::mac::MacAddr;
use crate::problem::Sink;
use crate::slot::{At, Slot};
use crate::words::Link;

/// Reads `mac`. With `auto`, which is the default, it follows from the link mode and the VIPs; where
/// those have problems of their own there is none, and nothing more is reported.
pub(super) fn read(
    slot: Option<&Slot<'_>>,
    link: Option<Link>,
    vips: &[At<IpAddr>],
    sink: &mut Sink,
) -> Option<MacAddr> {
    let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.value).collect();
    let auto = link.and_then(|link| MacAddr::auto(link, &vips));
    let Some(slot) = slot else { return auto };
    let text = slot.text(sink)?;
    if text == "auto" {
        return auto;
    }
    let Ok(mac) = text.parse::<MacAddr>() else {
        let draft = slot.wrong_text(sink, text);
        if text.eq_ignore_ascii_case("auto") {
            draft.did_you_mean("auto");
        } else if let Some(right) = otherwise_separated(text) {
            draft.did_you_mean(right);
        }
        return None;
    };
    let link = link?;
    let Some(expected) = unfit(mac, link) else { return Some(mac) };
    let draft = slot.wrong(sink, format_args!("is `{mac}`, which `link: {link}` cannot use"));
    draft.expected(expected);
    if let Some(auto) = auto {
        draft.hint(format!("`auto` gives `{auto}`"));
    }
    None
}

/// What a MAC must be for a link mode, if this one is not.
fn unfit(mac: MacAddr, link: Link) -> Option<&'static str> {
    let octets = mac.octets();
    match link {
        Link::Unicast => (mac.is_multicast() || !mac.is_local())
            .then_some("a unicast, locally administered address: second hex digit 2, 6, a or e"),
        // Manufacturers' groups hold addresses that switches swallow (01:80:c2:…) or treat by IGMP
        // (01:00:5e:…), 33:33 is IPv6's own, and broadcast reaches every machine.
        Link::Multicast => (!mac.is_multicast() || !mac.is_local() || octets.starts_with(&[0x33, 0x33]) || octets == [0xff; 6])
            .then_some("a multicast, locally administered address: second hex digit 3, 7, b or f, not `33:33:…`, not broadcast"),
        Link::Igmp => (!octets.starts_with(&[0x01, 0x00, 0x5e, 0x7f]))
            .then_some("an address of `01:00:5e:7f:…`, to which IGMP can point switches"),
    }
}

/// Twelve hex digits with other separators: `02-bf-…`, `02bf.c000.0235`.
fn otherwise_separated(text: &str) -> Option<MacAddr> {
    let bare: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.' | ' ')).collect();
    if bare.len() != 12 || !bare.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let digits: Vec<char> = bare.chars().collect();
    let pairs: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
    pairs.join(":").parse().ok()
}
