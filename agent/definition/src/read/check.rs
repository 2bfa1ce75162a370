//! Health checks.

use std::time::Duration;

use crate::fields::Fields;
use crate::model::{Check, CheckKind};
use crate::problem::Sink;
use crate::read::{name, optional};
use crate::schema;
use crate::slot::Slot;
use crate::tree::Value;
use crate::words::Word;

/// What a check belongs to, since that decides whether it must name a port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// A service with ports: the first one is checked by default.
    Service,
    /// The service `default`, which has none.
    DefaultService,
    /// Real servers: each one's own port is checked by default.
    Servers,
}

/// The value of `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Tcp,
    Http,
    Dns,
}

impl Word for Type {
    const ALL: &'static [Self] = &[Self::Tcp, Self::Http, Self::Dns];

    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Dns => "dns",
        }
    }
}

/// Keys that mean something for one type only.
const OWN_KEYS: [(&str, Type); 4] =
    [("path", Type::Http), ("host", Type::Http), ("status", Type::Http), ("query", Type::Dns)];

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_millis(500);
const COUNT_MAX: u32 = 100;
const FALL: u8 = 3;
const RISE: u8 = 2;

/// Reads a `check`.
pub(super) fn read(slot: &Slot<'_>, whose: Whose, sink: &mut Sink) -> Option<Check> {
    if let Value::Scalar { text, .. } = &slot.node.value
        && Type::ALL.iter().any(|kind| kind.as_str() == text)
    {
        slot.wrong_text(sink, text).did_you_mean(format_args!("{{ type: {text} }}"));
        return None;
    }
    let check = Fields::open(slot, &schema::CHECK, sink)?;
    let kind = check.get("type").and_then(|slot| slot.word::<Type>(sink));
    if let Some(kind) = kind {
        only_own_keys(&check, kind, sink);
    }
    let port = optional(check.get("port"), None, |slot| slot.port(sink).map(Some));
    if whose == Whose::DefaultService && check.get("port").is_none() {
        sink.report(check.at, "the key `port` is missing under `check`")
            .expected("a port to check: the service `default` has none of its own");
    }
    let interval =
        optional(check.get("interval"), INTERVAL, |slot| slot.duration(INTERVAL_MIN..=INTERVAL_MAX, sink));
    let timeout = optional(check.get("timeout"), TIMEOUT.min(interval.unwrap_or(TIMEOUT)), |slot| {
        slot.duration(TIMEOUT_MIN..=INTERVAL_MAX, sink)
    });
    if let (Some(slot), Some(timeout), Some(interval)) = (check.get("timeout"), timeout, interval)
        && timeout > interval
    {
        use crate::duration::print;
        slot.wrong(
            sink,
            format_args!("is {}, longer than the interval of {}", print(timeout), print(interval)),
        )
        .expected("at most the interval: the next try must find the last one ended");
    }
    let fall = count(check.get("fall"), FALL, sink);
    let rise = count(check.get("rise"), RISE, sink);
    // Read even where the type is wrong: their own problems are to be told as well.
    let path = optional(check.get("path"), "/".to_owned(), |slot| path(slot, sink));
    let host = optional(check.get("host"), None, |slot| host(slot, sink).map(Some));
    let status = optional(check.get("status"), None, |slot| {
        slot.number(100..=599, sink).map(|status| u16::try_from(status).ok())
    });
    let query = check.get("query").map(|slot| name::domain(slot, sink));
    if kind == Some(Type::Dns) && query.is_none() {
        sink.report(check.at, "the key `query` is missing under `check`")
            .expected("a domain name to ask for");
    }
    let kind = match kind? {
        Type::Tcp => CheckKind::Tcp,
        Type::Http => CheckKind::Http { path: path?, host: host?, status: status? },
        Type::Dns => CheckKind::Dns { query: query.flatten()? },
    };
    Some(Check { kind, port: port?, interval: interval?, timeout: timeout?, fall: fall?, rise: rise? })
}

fn only_own_keys(check: &Fields<'_>, kind: Type, sink: &mut Sink) {
    for (key, owner) in OWN_KEYS {
        if owner != kind
            && let Some(slot) = check.get(key)
        {
            slot.wrong(sink, format_args!("means nothing to a check of type `{}`", kind.as_str()))
                .expected(format!("it with type `{}` only", owner.as_str()));
        }
    }
}

fn count(slot: Option<&Slot<'_>>, default: u8, sink: &mut Sink) -> Option<u8> {
    optional(slot, default, |slot| {
        slot.number(1..=COUNT_MAX, sink).and_then(|count| u8::try_from(count).ok())
    })
}

/// What can stand in a request line.
fn path(slot: &Slot<'_>, sink: &mut Sink) -> Option<String> {
    let text = slot.text(sink)?;
    if text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    let draft = slot.wrong_text(sink, text);
    if !text.is_empty()
        && !text.contains("://")
        && text.bytes().all(|b| b.is_ascii_graphic())
        && !text.starts_with('/')
    {
        draft.did_you_mean(format_args!("/{text}"));
    }
    None
}

/// What can stand in a `Host` header.
fn host(slot: &Slot<'_>, sink: &mut Sink) -> Option<String> {
    let text = slot.text(sink)?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    if (1..=255).contains(&text.len()) && text.bytes().all(fits) {
        return Some(text.to_owned());
    }
    slot.wrong_text(sink, text);
    None
}
