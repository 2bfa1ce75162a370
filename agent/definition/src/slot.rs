//! One value at its place, and the readers that turn it into something or say why not.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::duration::{self, NotADuration};
use crate::nearest::nearest;
use crate::problem::{Draft, Pos, Sink, shown};
use crate::tree::{Node, Value};
use crate::words::Word;

/// A value with all that a message about it needs.
#[derive(Clone, Debug)]
pub(crate) struct Slot<'n> {
    /// What it is called, such as "`weight`" or "an entry of `vips`".
    pub(crate) label: String,
    /// What it must be.
    pub(crate) expected: &'static str,
    /// Where a message points: the value, or the key where there is no value.
    pub(crate) at: Pos,
    pub(crate) node: &'n Node,
}

/// A value and its place, for rules that tie several values together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Pos,
}

impl<'n> Slot<'n> {
    /// The value of `key`.
    pub(crate) fn of_key(key: &str, expected: &'static str, key_at: Pos, node: &'n Node) -> Self {
        let at = if matches!(node.value, Value::Null) { key_at } else { node.at };
        Self { label: format!("`{key}`"), expected, at, node }
    }

    /// Reports that the value is wrong in the way of `what`, which goes on behind the label.
    pub(crate) fn wrong<'s>(&self, sink: &'s mut Sink, what: impl Display) -> &'s mut Draft {
        sink.report(self.at, format!("{} {what}", self.label)).expected(self.expected)
    }

    /// Reports a scalar that is not what was expected.
    pub(crate) fn wrong_text<'s>(&self, sink: &'s mut Sink, text: &str) -> &'s mut Draft {
        self.wrong(sink, format_args!("is {}", shown(text)))
    }

    /// With its place.
    pub(crate) fn with_place<T>(&self, value: T) -> At<T> {
        At { value, at: self.at }
    }

    /// The words of a scalar, quoted or not.
    pub(crate) fn text(&self, sink: &mut Sink) -> Option<&'n str> {
        self.scalar(sink).map(|(text, _)| text)
    }

    fn scalar(&self, sink: &mut Sink) -> Option<(&'n str, bool)> {
        match &self.node.value {
            Value::Scalar { text, quoted } => return Some((text, *quoted)),
            Value::Null => self.wrong(sink, "has no value"),
            Value::List(_) => self.wrong(sink, "is a list"),
            Value::Mapping(entries) => {
                let draft = self.wrong(sink, "is a mapping");
                if let Some(address) = address_with_final_colon(entries) {
                    draft.hint(format!("put quotes around it: `\"{address}\"`"));
                }
                draft
            }
        };
        None
    }

    /// A whole number in decimal digits.
    pub(crate) fn number(&self, range: RangeInclusive<u32>, sink: &mut Sink) -> Option<u32> {
        let (text, quoted) = self.scalar(sink)?;
        let decimal = !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        if quoted {
            let draft = self.wrong(sink, format_args!("is the text {}", shown(text)));
            if decimal {
                draft.hint("remove the quotes");
            }
            return None;
        }
        // Digits that overflow are a number out of range, not a wrong kind of value.
        let number = decimal.then(|| text.parse().unwrap_or(u32::MAX)).filter(|n| range.contains(n));
        if number.is_none() {
            self.wrong_text(sink, text);
        }
        number
    }

    /// A port.
    pub(crate) fn port(&self, sink: &mut Sink) -> Option<u16> {
        self.number(1..=65535, sink).and_then(|port| u16::try_from(port).ok())
    }

    /// One of the words of `W`.
    pub(crate) fn word<W: Word>(&self, sink: &mut Sink) -> Option<W> {
        let text = self.text(sink)?;
        let found = W::ALL.iter().find(|word| word.as_str() == text).copied();
        if found.is_none() {
            let draft = self.wrong_text(sink, text);
            if let Some(right) = nearest(text, W::ALL.iter().map(|word| word.as_str())) {
                draft.did_you_mean(right);
            }
        }
        found
    }

    /// A duration within bounds.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>, sink: &mut Sink) -> Option<Duration> {
        let text = self.text(sink)?;
        match duration::parse(text) {
            Ok(duration) if range.contains(&duration) => return Some(duration),
            Ok(_) | Err(NotADuration::NoNumber) => {
                self.wrong_text(sink, text);
            }
            Err(NotADuration::NoUnit) => {
                let fits = duration::with_units(text, |duration| range.contains(&duration));
                let draft = self.wrong(sink, format_args!("is {} without a unit", shown(text)));
                if fits.is_empty() {
                    draft.hint("add `ms`, `s`, `m` or `h`");
                } else {
                    draft.hint(format!("did you mean `{}`?", fits.join("` or `")));
                }
            }
            Err(NotADuration::TooFine) => {
                self.wrong(sink, format_args!("is {}, not a whole number of milliseconds", shown(text)));
            }
            Err(NotADuration::Unit { right }) => {
                let draft = self
                    .wrong(sink, format_args!("is {}; its unit is none of `ms`, `s`, `m`, `h`", shown(text)));
                if let Some(right) = right {
                    draft.did_you_mean(right);
                }
            }
        }
        None
    }

    /// An IP address without prefix, port or zone.
    pub(crate) fn address(&self, sink: &mut Sink) -> Option<IpAddr> {
        let text = self.text(sink)?;
        let Ok(address) = text.parse::<IpAddr>() else {
            let draft = self.wrong_text(sink, text);
            if let Some(right) = bare_address(text) {
                draft.did_you_mean(right);
            } else if looks_like_a_name(text) {
                draft.hint("names are not looked up; write the address");
            }
            return None;
        };
        Some(address)
    }

    /// A list that is not empty, as slots labelled "an entry of …". Of one with more than `most` entries
    /// only so many are read: readers may compare each entry with every other.
    pub(crate) fn list(
        &self,
        entry_expected: &'static str,
        most: usize,
        sink: &mut Sink,
    ) -> Option<Vec<Slot<'n>>> {
        let items = match &self.node.value {
            Value::List(items) => items,
            Value::Null => {
                self.wrong(sink, "has no value");
                return None;
            }
            Value::Scalar { text, .. } => {
                let draft = self.wrong_text(sink, text);
                let one_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '/');
                if text.len() < 64 && text.chars().all(one_word) {
                    let quotes = if text.contains(':') { "\"" } else { "" };
                    draft.hint(format!("write it as a list: `[{quotes}{text}{quotes}]`"));
                }
                return None;
            }
            Value::Mapping(_) => {
                self.wrong(sink, "is a mapping").hint("begin each entry of the list with `- `");
                return None;
            }
        };
        if items.is_empty() {
            self.wrong(sink, "is an empty list");
            return None;
        }
        if items.len() > most {
            self.wrong(sink, format_args!("has {} entries", items.len()));
        }
        let slot = |node: &'n Node| Slot {
            label: format!("an entry of {}", self.label),
            expected: entry_expected,
            at: node.at,
            node,
        };
        Some(items.iter().take(most).map(slot).collect())
    }
}

/// Whether a user would call it a host name.
pub(crate) fn looks_like_a_name(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
}

/// `fe80::` without quotes is a key with a lost value to YAML.
fn address_with_final_colon(entries: &[(Node, Node)]) -> Option<String> {
    match entries {
        [(Node { value: Value::Scalar { text, .. }, .. }, Node { value: Value::Null, .. })] => {
            let address = format!("{text}:");
            address.parse::<IpAddr>().is_ok().then_some(address)
        }
        _ => None,
    }
}

/// The address in what people write around one: prefix length, port, brackets, zone, leading zeros.
fn bare_address(text: &str) -> Option<IpAddr> {
    let text = text.split_once('/').map_or(text, |(address, _)| address);
    let text = text.split_once('%').map_or(text, |(address, _)| address);
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return Some(socket.ip());
    }
    let text = text.trim_matches(['[', ']', ' ']);
    let octets: Vec<&str> = text.split('.').collect();
    if octets.len() == 4 {
        let bare = octets.iter().map(|octet| octet.parse::<u8>().ok()).collect::<Option<Vec<u8>>>()?;
        return <[u8; 4]>::try_from(bare).ok().map(IpAddr::from);
    }
    text.parse().ok()
}
