//! A service's ports.

use crate::limits::MAX_PORTS;
use crate::model::PortRange;
use crate::problem::Sink;
use crate::slot::{At, Slot};

/// Reads `ports`: numbers and ranges. What is wrong is left out.
pub(super) fn read(slot: &Slot<'_>, sink: &mut Sink) -> Vec<At<PortRange>> {
    let entries = slot.list("a port from 1 to 65535, or a range such as `8000-8010`", MAX_PORTS, sink);
    let mut ports: Vec<At<PortRange>> = Vec::new();
    for entry in entries.unwrap_or_default() {
        let Some(text) = entry.text(sink) else { continue };
        let Some(range) = range(text) else {
            let draft = entry.wrong_text(sink, text);
            if let Some(right) = reversed(text) {
                draft.did_you_mean(right);
            } else if let Some(port) = text.split_once('/').and_then(|(port, _)| number(port)) {
                draft.hint(format!("write `{port}` here and the protocol under `protocols`"));
            }
            continue;
        };
        if let Some(other) = ports.iter().find(|other| other.value.overlaps(range)) {
            let (held, holder) = (print(range), print(other.value));
            entry
                .wrong(
                    sink,
                    format_args!("is `{held}`, which `{holder}` on line {} holds already", other.at.line),
                )
                .expected("every port once");
            continue;
        }
        ports.push(entry.with_place(range));
    }
    ports
}

/// A range as it stands in the file.
pub(crate) fn print(range: PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}

fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { first: number(first)?, last: number(last)? };
    (range.first <= range.last).then_some(range)
}

fn reversed(text: &str) -> Option<String> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    Some(print(PortRange { first: first.min(last), last: first.max(last) }))
}

fn number(text: &str) -> Option<u16> {
    let decimal = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    decimal.then(|| text.parse().ok()).flatten()
}
