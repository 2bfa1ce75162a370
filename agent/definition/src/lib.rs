//! The cluster definition: the one YAML file that is the same on every host.
//!
//! [`parse`] turns its text into a [`Definition`], or into [`Problems`]: every error of the file at
//! once, each with file, line, column, what was expected and the nearest right name. The crate is
//! pure: text in, data or problems out. It opens no file, asks no clock and knows no network.
//!
//! The way through it: `tree` (text to nodes with positions) → `schema` (which keys stand where) →
//! `fields` and `slot` (one mapping, one value) → `read/*` (one file per part of the definition, with
//! the rules that tie parts together) → [`Definition`]. `print` is the way back.
//!
//! What is deliberately absent: serde's derive. It stops at the first error, and it hands numbers over
//! without the text that the user typed (`0x50`, `1e3`). So the tree is built from the events of the
//! parser under serde-saphyr, and the reader sees the raw words.

mod duration;
mod fields;
mod limits;
mod mac;
mod model;
mod nearest;
mod not_yet;
mod print;
mod problem;
mod read;
mod schema;
mod slot;
mod syntax;
mod tree;
mod words;

pub use limits::*;
pub use mac::{MacAddr, MacParseError};
pub use model::{Backends, Check, CheckKind, Definition, Host, PortRange, Server, Service, Timing};
pub use not_yet::NotYet;
pub use problem::{Problem, Problems};
pub use words::{Affinity, Engine, Link, Method, Mode, Partition, Protocol, Scheduler, Track, Word};

/// Parses and validates one cluster definition.
///
/// `file_name` appears in messages only; nothing is opened. Relative paths in the result (such as
/// [`Definition::secret_file`]) are as written: they are relative to the file, and the caller knows
/// where that is.
///
/// # Errors
///
/// [`Problems`]: everything that is wrong, in the order of the file. Where the text is not YAML at
/// all, that is the only problem, since nothing behind it can be trusted.
pub fn parse(file_name: &str, text: &str) -> Result<Definition, Problems> {
    let mut sink = problem::Sink::default();
    let definition = tree::build(text, &mut sink).and_then(|root| read::definition(&root, &mut sink));
    match definition {
        Some(definition) if sink.is_empty() => Ok(definition),
        _ => Err(sink.into_problems(file_name, text)),
    }
}
