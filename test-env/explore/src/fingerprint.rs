//! Names states, so that none is explored twice.
//!
//! Two states that differ only by when they are, or by how many reports were said before, go on alike: so instants
//! are written relative to the present, and the numbers of reports by their order alone. What no decision depends on
//! any more is left out. Everything else that a node holds is written, by the names of its fields: a field that the
//! core gets is part of the name at once, and at worst the search does not end.

use std::fmt::Display;

use onemac_core::node::Partition;
use onemac_core::time::Timing;
use serde::ser::{self, Serialize};

/// Fields that are never part of a state's name: what a run has only one of, and what is known from elsewhere.
const CONSTANT: &[&str] = &[
    "cluster",
    "timing",
    "partition",
    "definition",
    "me",
    "mac",
    // The connections of a service that nobody follows: see `world`.
    "connections",
    "orphans",
    "orphaned",
    "orphaned_until",
    // Set aside by the ten thousand.
    "seq_limit",
    // The world keeps it, for it outlives the agent.
    "remembered",
    // A change is the one that was asked for last, or it is nothing: the world knows which.
    "change_id",
    "id",
    // How much news may still be said before the next heartbeat: sixteen reports, which nobody comes near. And how many
    // connections are left: none is followed.
    "left",
    // No peer expires before it; but where it lies before the first expiry it costs a look for nothing, no more.
    "next_expiry",
];

/// Whose reports, by the host's place and its life.
type Owner = (usize, u64);

/// A report's number, to be replaced by its place in the order of all that matter.
#[derive(Clone)]
struct Number {
    at: usize,
    owner: Owner,
    number: u64,
}

/// How the next number is to be taken.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    Plain,
    /// It is the number of a report of ours.
    Ours,
    /// It is the number of a report of ours that a peer has answered.
    Answered,
    /// It is the number of a report of ours, and the instant of its publication follows.
    Published,
}

/// A part of a state, written: it stays as it is until something happens there or time passes.
#[derive(Clone, Default)]
pub struct Part {
    out: Vec<u8>,
    numbers: Vec<Number>,
    /// Reports that somebody may yet answer.
    live: Vec<(Owner, u64)>,
    /// When reports were published.
    published: Vec<(Owner, u64, i64)>,
}

/// Writes the parts of states, and names what they make together.
pub struct Writer {
    part: Part,
    now: u64,
    /// An instant further from now than this is far away.
    far: i64,
    partition: Partition,
    farthest: i64,
    nearer: i64,
    /// Whose node is written, if one is, and which life it is in.
    me: Option<Owner>,
    reading: Reading,
    /// The host that a report or an entry of a map is about.
    about: usize,
    last_published: u64,
    answered: Vec<(usize, u64)>,
    entry: u64,
    empty: Option<u64>,
}

impl Writer {
    /// A writer for hosts with this timing: further than two expiries and a lease from the present an instant is far
    /// away, for no rule looks further back or ahead.
    pub fn new(timing: &Timing, partition: Partition) -> Self {
        let far = timing.expiry() * 2 + timing.lease;
        Writer {
            part: Part::default(),
            now: 0,
            far: far.as_nanos() as i64,
            partition,
            farthest: far.as_nanos() as i64,
            nearer: (timing.heartbeat * 3).as_nanos() as i64,
            me: None,
            reading: Reading::Plain,
            about: 0,
            last_published: 0,
            answered: Vec::new(),
            entry: 0,
            empty: None,
        }
    }
}

impl Writer {
    /// Begins another part, at this instant.
    pub fn begin(&mut self, now: u64) {
        self.now = now;
        self.me = None;
    }

    /// What was written since [`Writer::begin`].
    pub fn end(&mut self) -> Part {
        std::mem::take(&mut self.part)
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.part.out.extend_from_slice(bytes);
    }

    /// Writes anything that is not of one host's node.
    pub fn value(&mut self, value: &impl Serialize) {
        self.me = None;
        let _ = value.serialize(&mut *self);
    }

    /// Writes a host's node.
    pub fn node(&mut self, host: usize, node: &onemac_core::node::Node) {
        self.me = Some((host, node.incarnation()));
        (self.entry, self.empty) = (0, None);
        self.answered.clear();
        let _ = node.serialize(&mut *self);
        // Of an answer matters only whether it answers our entry, and that we hold nothing.
        for (at, seq) in std::mem::take(&mut self.answered) {
            let class = 1 + u8::from(seq >= self.entry) + 2 * u8::from(self.empty.is_some_and(|e| seq >= e));
            self.part.out[at] = class;
        }
        self.me = None;
    }

    /// The name of the state that these parts make.
    pub fn name(&mut self, first: &[u8], parts: [&Part; 4]) -> u128 {
        let mut all = std::mem::take(&mut self.part);
        all.out.extend_from_slice(first);
        for part in parts {
            let from = all.out.len();
            all.out.extend_from_slice(&part.out);
            all.numbers.extend(part.numbers.iter().map(|n| Number { at: n.at + from, ..*n }));
            all.live.extend_from_slice(&part.live);
        }
        // A report that nobody has heard and nobody can hear any more will not be answered.
        for &(owner, number, at) in parts.iter().flat_map(|part| &part.published) {
            if all.live.contains(&(owner, number)) {
                all.numbers.push(Number { at: all.out.len(), owner, number });
                all.out.push(0);
                all.out.extend_from_slice(&at.to_le_bytes());
            }
        }
        all.live.clear();
        all.live.extend(all.numbers.iter().map(|n| (n.owner, n.number)));
        all.live.sort_unstable();
        all.live.dedup();
        for Number { at, owner, number } in all.numbers.drain(..) {
            let of_owner = all.live.iter().filter(|(o, n)| *o == owner && *n < number);
            all.out[at] = of_owner.count() as u8;
        }
        let mut name = [0; 16];
        name.copy_from_slice(&blake3::hash(&all.out).as_bytes()[..16]);
        all.out.clear();
        all.live.clear();
        self.part = all;
        u128::from_le_bytes(name)
    }

    /// Writes the number of a report.
    fn number(&mut self, owner: Owner, number: u64) {
        self.part.numbers.push(Number { at: self.part.out.len(), owner, number });
        self.part.out.push(0);
    }

    fn instant(&self, time: u64) -> i64 {
        (time as i64 - self.now as i64).clamp(-self.far, self.far)
    }

    fn field<T: ?Sized + Serialize>(&mut self, of: &str, name: &str, value: &T) -> Result<(), Never> {
        if CONSTANT.contains(&name) || of == "Voice" && name == "peers" {
            return Ok(());
        }
        // For how long a peer has answered matters to majorities alone.
        if name == "constant_since" && self.partition == Partition::Serve {
            return Ok(());
        }
        // A node keeps a peer's report, but what that had heard was looked at when it came.
        if of == "Report" && name == "heard" && self.me.is_some() {
            return Ok(());
        }
        let before = self.reading;
        self.reading = match (of, name) {
            ("Node", "view_seq" | "empty_seq") => Reading::Ours,
            ("Peer", "answered") => Reading::Answered,
            ("Lease", "published") => Reading::Published,
            _ => Reading::Plain,
        };
        // A host that is heard again has two heartbeats to answer; later it does not matter since when it has been heard.
        self.far = if name == "back" { self.nearer } else { self.farthest };
        if of == "Node" {
            self.about = self.me.map_or(0, |me| me.0);
        }
        let from = self.part.out.len();
        value.serialize(&mut *self)?;
        if of == "Report" && name == "host" {
            // Length, then the name.
            self.about = usize::from(self.part.out[from + 1] == b'b');
        }
        if of == "Node" && (name == "view_seq" || name == "empty_seq") {
            let said = self.part.numbers.last().filter(|n| n.at >= from).map(|n| n.number);
            match name {
                "view_seq" => self.entry = said.unwrap_or_default(),
                _ => self.empty = said,
            }
        }
        self.reading = before;
        self.far = self.farthest;
        Ok(())
    }
}

/// Writing does not fail.
#[derive(Debug)]
pub struct Never;

impl Display for Never {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot be written")
    }
}

impl std::error::Error for Never {}

impl ser::Error for Never {
    fn custom<T: Display>(_: T) -> Self {
        Never
    }
}

macro_rules! plain {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, v: $type) -> Result<(), Never> {
            self.part.out.extend_from_slice(&v.to_le_bytes());
            Ok(())
        })*
    };
}

impl<'w> ser::Serializer for &'w mut Writer {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Fields<'w>;
    type SerializeStructVariant = Fields<'w>;

    plain!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
           serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_f32: f32, serialize_f64: f64);

    fn serialize_u64(self, v: u64) -> Result<(), Never> {
        match (self.reading, self.me) {
            (Reading::Ours, Some(me)) => self.number(me, v),
            (Reading::Answered, _) => {
                self.answered.push((self.part.out.len(), v));
                self.part.out.push(0);
            }
            (Reading::Published, _) => self.last_published = v,
            _ => self.part.out.extend_from_slice(&v.to_le_bytes()),
        }
        Ok(())
    }

    fn serialize_bool(self, v: bool) -> Result<(), Never> {
        self.part.out.push(u8::from(v));
        Ok(())
    }

    fn serialize_char(self, v: char) -> Result<(), Never> {
        self.serialize_u32(v.into())
    }

    fn serialize_str(self, v: &str) -> Result<(), Never> {
        self.serialize_bytes(v.as_bytes())
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<(), Never> {
        self.part.out.push(v.len() as u8);
        self.part.out.extend_from_slice(v);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Never> {
        self.part.out.push(0);
        Ok(())
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Never> {
        self.part.out.push(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Never> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Never> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<(), Never> {
        self.part.out.push(index as u8);
        Ok(())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Never> {
        if name != "Time" {
            return value.serialize(self);
        }
        let from = self.part.out.len();
        let published = std::mem::replace(&mut self.reading, Reading::Plain);
        value.serialize(&mut *self)?;
        self.reading = published;
        let mut time = [0; 8];
        time.copy_from_slice(&self.part.out[from..]);
        self.part.out.truncate(from);
        let instant = self.instant(u64::from_le_bytes(time));
        match (published, self.me) {
            (Reading::Published, Some(me)) => self.part.published.push((me, self.last_published, instant)),
            _ => self.part.out.extend_from_slice(&instant.to_le_bytes()),
        }
        Ok(())
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Never> {
        self.part.out.push(index as u8);
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Never> {
        if self.reading != Reading::Published {
            self.part.out.push(len.unwrap_or(255) as u8);
        }
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Never> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Never> {
        self.part.out.push(index as u8);
        Ok(self)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self, Never> {
        self.part.out.push(len.unwrap_or(255) as u8);
        Ok(self)
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'w>, Never> {
        Ok(Fields { writer: self, of: name, incarnation: 0 })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'w>, Never> {
        self.part.out.push(index as u8);
        Ok(Fields { writer: self, of: name, incarnation: 0 })
    }
}

/// The fields of one value.
pub struct Fields<'w> {
    writer: &'w mut Writer,
    of: &'static str,
    incarnation: u64,
}

impl Fields<'_> {
    fn field<T: ?Sized + Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), Never> {
        let w = &mut *self.writer;
        if self.of != "Stamp" {
            return w.field(self.of, name, value);
        }
        let from = w.part.out.len();
        let reading = std::mem::replace(&mut w.reading, Reading::Plain);
        value.serialize(&mut *w)?;
        w.reading = reading;
        let mut number = [0; 8];
        number.copy_from_slice(&w.part.out[from..]);
        let number = u64::from_le_bytes(number);
        if name == "incarnation" {
            self.incarnation = number;
            return Ok(());
        }
        w.part.out.truncate(from);
        let owner = (w.about, self.incarnation);
        w.number(owner, number);
        if w.me == Some(owner) {
            // Our own: the number of the next report matters too.
            w.number(owner, number + 1);
        } else {
            w.part.live.push((owner, number));
        }
        Ok(())
    }
}

impl ser::SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Never> {
        self.field(key, value)
    }

    fn end(self) -> Result<(), Never> {
        Ok(())
    }
}

impl ser::SerializeStructVariant for Fields<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Never> {
        self.field(key, value)
    }

    fn end(self) -> Result<(), Never> {
        Ok(())
    }
}

impl ser::SerializeMap for &mut Writer {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Never> {
        let from = self.part.out.len();
        key.serialize(&mut **self)?;
        self.about = usize::from(self.part.out.get(from + 1) == Some(&b'b'));
        Ok(())
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Never> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Never> {
        Ok(())
    }
}

macro_rules! elements {
    ($($what:ident: $method:ident),*) => {
        $(impl ser::$what for &mut Writer {
            type Ok = ();
            type Error = Never;

            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Never> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), Never> {
                Ok(())
            }
        })*
    };
}

elements!(SerializeSeq: serialize_element, SerializeTuple: serialize_element,
          SerializeTupleStruct: serialize_field, SerializeTupleVariant: serialize_field);
