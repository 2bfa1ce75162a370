//! One mapping held against its section of the schema: unknown, misplaced, repeated and missing keys.

use std::collections::HashMap;

use crate::nearest::{other_name, same_letters, within};
use crate::problem::{Pos, Sink, shown};
use crate::schema::{self, Key, Section};
use crate::slot::Slot;
use crate::tree::{Node, Value};

/// YAML 1.1's key that copies another mapping; what it would bring does not count as missing.
const MERGE_KEY: &str = "<<";

/// The known keys of a mapping.
pub(crate) struct Fields<'n> {
    /// Where the mapping begins.
    pub(crate) at: Pos,
    section: &'static Section,
    slots: HashMap<&'static str, Slot<'n>>,
}

impl<'n> Fields<'n> {
    /// Opens a mapping and reports all that is wrong with its keys. `None` if it is none.
    pub(crate) fn open(slot: &Slot<'n>, section: &'static Section, sink: &mut Sink) -> Option<Self> {
        let entries = match &slot.node.value {
            Value::Mapping(entries) => entries,
            Value::Null => {
                slot.wrong(sink, "has no value");
                return None;
            }
            Value::Scalar { text, .. } => {
                slot.wrong_text(sink, text);
                return None;
            }
            Value::List(_) => {
                slot.wrong(sink, "is a list");
                return None;
            }
        };
        let mut fields = Self { at: slot.node.at, section, slots: HashMap::new() };
        let unknown = fields.take_known(entries, sink);
        let merges = unknown.iter().any(|(name, ..)| *name == MERGE_KEY);
        for (name, key_at, node) in unknown {
            fields.unknown(name, key_at, node, sink);
        }
        for key in section.keys {
            if key.required && !merges && !fields.slots.contains_key(key.name) {
                fields.missing(key, sink);
            }
        }
        Some(fields)
    }

    /// The value of a key, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<&Slot<'n>> {
        debug_assert!(self.section.names().any(|known| known == name), "{name} is not in the schema");
        self.slots.get(name)
    }

    /// Reports a key that is not there but must be.
    pub(crate) fn missing(&self, key: &Key, sink: &mut Sink) {
        sink.report(self.at, format!("the key `{}` is missing {}", key.name, self.section.place))
            .expected(key.expected);
    }

    /// The schema's entry of a key.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.section.keys.iter().find(|key| key.name == name)
    }

    fn take_known(&mut self, entries: &'n [(Node, Node)], sink: &mut Sink) -> Vec<(&'n str, Pos, &'n Node)> {
        let mut seen: HashMap<&str, Pos> = HashMap::new();
        let mut unknown = Vec::new();
        for (key, node) in entries {
            let Value::Scalar { text, .. } = &key.value else {
                sink.report(key.at, "a key is not a word").expected(format!("one of {}", self.list()));
                continue;
            };
            if let Some(first) = seen.insert(text, key.at) {
                sink.report(key.at, format!("the key {} is given twice", shown(text)))
                    .expected("every key once")
                    .hint(format!("its first value is on line {}", first.line));
                seen.insert(text, first);
                continue;
            }
            match self.key(text) {
                Some(known) => self.put(known, key.at, node),
                None => unknown.push((text.as_str(), key.at, node)),
            }
        }
        unknown
    }

    fn put(&mut self, key: &'static Key, key_at: Pos, node: &'n Node) {
        self.slots.insert(key.name, Slot::of_key(key.name, key.expected, key_at, node));
    }

    /// Tells an unknown key. One that is plainly a misspelt key of this mapping is then read as that
    /// key, so that its value is checked in the same go and the right key does not count as missing.
    fn unknown(&mut self, name: &str, at: Pos, node: &'n Node, sink: &mut Sink) {
        let here = self.section;
        let absent: Vec<&'static str> =
            here.names().filter(|known| !self.slots.contains_key(known)).collect();
        let absent = absent.iter().copied();
        let slip = same_letters(name, absent.clone())
            .or_else(|| other_name(name, here.other_names, absent.clone()))
            .or_else(|| within(name, 1, absent.clone()));
        let elsewhere = places(name, here);
        let near = match slip {
            Some(slip) => Some(slip),
            None if elsewhere.is_empty() => within(name, usize::MAX, absent),
            None => None,
        };
        let draft = sink.report(at, format!("unknown key {} {}", shown(name), here.place));
        if let Some(right) = near {
            draft.did_you_mean(right);
            if let Some(key) = self.key(right) {
                self.put(key, at, node);
            }
        } else if !elsewhere.is_empty() {
            draft.hint(format!("it belongs {}", elsewhere.join(" or ")));
        } else if name == MERGE_KEY {
            draft.hint("merge keys are not understood; write the keys out");
        } else if let Some((right, place)) = near_elsewhere(name, here) {
            draft.hint(format!("did you mean `{right}`, which belongs {place}?"));
        } else {
            draft.expected(format!("one of {}", self.list()));
        }
    }

    fn list(&self) -> String {
        self.section.names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

/// The other sections in which a key of that very name stands.
fn places(name: &str, here: &Section) -> Vec<&'static str> {
    others(here)
        .filter(|section| section.names().any(|known| known == name))
        .map(|section| section.place)
        .collect()
}

fn near_elsewhere(name: &str, here: &Section) -> Option<(&'static str, &'static str)> {
    others(here).find_map(|section| {
        let right =
            same_letters(name, section.names()).or_else(|| within(name, usize::MAX, section.names()))?;
        Some((right, section.place))
    })
}

fn others(here: &Section) -> impl Iterator<Item = &'static Section> {
    schema::ALL.into_iter().filter(move |section| section.place != here.place)
}
