//! Names: of the cluster, of services, of hosts, of devices, of domains.

use crate::limits::SHARED_DEVICE;
use crate::problem::Sink;
use crate::slot::Slot;

/// Longest name of a cluster or a service, in characters.
const LABEL_MAX: usize = 32;
/// Longest host name: what the kernel's `gethostname` fits, HOST_NAME_MAX of 64 less one.
const HOST_MAX: usize = 63;
/// Longest device name: the kernel's IFNAMSIZ of 16 less its final zero.
const INTERFACE_MAX: usize = 15;

/// A name of `[a-z0-9-]`, 1 to 32.
pub(super) fn label(slot: &Slot<'_>, sink: &mut Sink) -> Option<String> {
    let text = slot.text(sink)?;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=LABEL_MAX).contains(&text.chars().count()) && text.chars().all(fits) {
        return Some(text.to_owned());
    }
    let likely: String = text
        .trim()
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if matches!(c, '_' | '.' | ' ' | '/') { '-' } else { c })
        .collect();
    complain(slot, text, LABEL_MAX, likely.chars().all(fits).then_some(likely), sink);
    None
}

/// A host name.
pub(super) fn host(slot: &Slot<'_>, sink: &mut Sink) -> Option<String> {
    let text = slot.text(sink)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let labels_fit = |text: &str| {
        text.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
    };
    if text.len() <= HOST_MAX && text.chars().all(fits) && labels_fit(text) {
        return Some(text.to_owned());
    }
    let likely = text.trim().trim_end_matches('.').replace('_', "-");
    let likely = (likely.chars().all(fits) && labels_fit(&likely)).then_some(likely);
    complain(slot, text, HOST_MAX, likely, sink);
    None
}

fn complain(slot: &Slot<'_>, text: &str, most: usize, likely: Option<String>, sink: &mut Sink) {
    let length = text.chars().count();
    if length == 0 {
        slot.wrong(sink, "is empty");
    } else if length > most {
        slot.wrong(sink, format_args!("has {length} characters"));
    } else {
        let draft = slot.wrong_text(sink, text);
        if let Some(likely) = likely {
            draft.did_you_mean(likely);
        }
    }
}

/// A network device as Linux names them, and fit to stand in a ruleset and in a sysctl path.
///
/// The kernel (`dev_valid_name`) refuses the empty name, 16 characters and more, `.`, `..`, `/`, `:`
/// and white space. Beyond it: `"`, `\` and `*` mean something in nft's text, `%` makes the kernel
/// number a new device, `@` is how `ip link` shows what a device stands on, and `all` and `default`
/// are not devices under /proc/sys/net.
pub(super) fn interface(slot: &Slot<'_>, sink: &mut Sink) -> Option<String> {
    let text = slot.text(sink)?;
    let odd = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '@' | '%' | '"' | '\\' | '*');
    let what = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > INTERFACE_MAX {
        format!("has {} characters, and Linux allows {INTERFACE_MAX}", text.chars().count())
    } else if text == SHARED_DEVICE {
        format!("is `{SHARED_DEVICE}`, the device that onemac makes itself")
    } else if text == "lo" {
        "is `lo`, on which no client arrives".to_owned()
    } else if matches!(text, "all" | "default") {
        format!("is `{text}`, which under /proc/sys/net is not a device")
    } else if matches!(text, "." | "..") || text.contains(odd) {
        let draft = slot.wrong_text(sink, text);
        let device = text.split([':', '@']).next().unwrap_or_default();
        if device.len() < text.len() && !device.is_empty() && !device.contains(odd) {
            draft.did_you_mean(device);
        }
        return None;
    } else {
        return Some(text.to_owned());
    };
    slot.wrong(sink, what);
    None
}

/// A domain name to ask for: labels of letters, digits, `-` and `_` up to 63, 253 in all, `.` for the
/// root (RFC 1035 section 2.3.4; the underscore as service names use it).
pub(super) fn domain(slot: &Slot<'_>, sink: &mut Sink) -> Option<String> {
    let text = slot.text(sink)?;
    let bare = text.strip_suffix('.').unwrap_or(text);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if text == "." || (bare.len() <= 253 && bare.split('.').all(label_fits)) {
        return Some(text.to_owned());
    }
    slot.wrong_text(sink, text);
    None
}
