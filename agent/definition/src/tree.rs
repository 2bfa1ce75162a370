//! From text to a tree of nodes, each of which knows where it stands.
//!
//! The parser underneath already bounds nesting and key length; here the size of the text and the
//! number of nodes are bounded, the latter with aliases written out.

use std::collections::HashMap;

use serde_yaml::granit_parser::{Event, Options, Parser, ScalarStyle, Span, StructureStyle};

use crate::limits::{MAX_DEPTH, MAX_NODES, MAX_TEXT_BYTES};
use crate::problem::{Pos, Sink, shown};
use crate::syntax;

/// One value of the file.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Pos,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// The text as written, without quotes; `quoted` is true for anything but a plain word.
    Scalar { text: String, quoted: bool },
    /// A list.
    List(Vec<Node>),
    /// Keys and values in the order of the file.
    Mapping(Vec<(Node, Node)>),
}

/// Reads the first document. `None` after a problem that leaves nothing to look at; every such case
/// has put a problem into `sink`.
pub(crate) fn build(text: &str, sink: &mut Sink) -> Option<Node> {
    if text.len() > MAX_TEXT_BYTES {
        sink.report(Pos::FILE, format!("the file has {} bytes", text.len()))
            .expected(format!("at most {MAX_TEXT_BYTES}"));
        return None;
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;

    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Err(error) => {
                // What came before is not trustworthy either: a lost quote swallows whole sections.
                *sink = Sink::default();
                syntax::report(&error, builder.unclosed(), text, sink);
                return None;
            }
            Ok((Event::DocumentStart(..), span)) => {
                documents += 1;
                if documents == 2 {
                    sink.report(position(span), "a second YAML document begins here")
                        .expected("one cluster definition per file")
                        .hint("remove the `---`, or move what follows to a file of its own");
                    break;
                }
            }
            Ok((event, span)) => builder.take(event, span, sink)?,
        }
    }
    match builder.root {
        Some(root) if !matches!(root.value, Value::Null) => Some(root),
        _ => {
            sink.report(Pos::FILE, "the file holds no definition")
                .expected("at least the keys `cluster`, `secret_file`, `vips` and `hosts`");
            None
        }
    }
}

/// A list or mapping whose end has not come yet.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<Node>,
    style: StructureStyle,
}

impl Open {
    const fn new(at: Pos, value: Value, anchor: usize, style: StructureStyle) -> Self {
        Self { node: Node { at, value }, anchor, key: None, style }
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder {
    /// The outermost `[` or `{` that has not been closed so far.
    fn unclosed(&self) -> Option<Pos> {
        self.open.iter().find(|open| open.style == StructureStyle::Flow).map(|open| open.node.at)
    }

    /// Takes one event; `None` when the budget is spent.
    fn take(&mut self, event: Event<'_>, span: Span, sink: &mut Sink) -> Option<()> {
        let at = position(span);
        if let Event::Scalar(_, _, _, Some(tag))
        | Event::SequenceStart(_, _, Some(tag))
        | Event::MappingStart(_, _, Some(tag)) = &event
        {
            let place = span.tag_span().map_or(at, position);
            sink.report(place, format!("the tag {} means nothing here", shown(&tag.original())))
                .expected("plain values")
                .hint("remove the tag");
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = scalar(text.into_owned(), style);
                self.spend(1, at, sink)?;
                self.place(Node { at, value }, anchor, sink)?;
            }
            Event::SequenceStart(style, anchor, _) => {
                self.spend(1, at, sink)?;
                self.open.push(Open::new(at, Value::List(Vec::new()), anchor, style));
            }
            Event::MappingStart(style, anchor, _) => {
                self.spend(1, at, sink)?;
                self.open.push(Open::new(at, Value::Mapping(Vec::new()), anchor, style));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(done) = self.open.pop() {
                    self.place(done.node, done.anchor, sink)?;
                }
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    sink.report(at, "this alias stands inside the value that it repeats")
                        .expected("an alias of a value that is complete before it");
                    return None;
                };
                let (node, size) = (Node { at, value: node.value.clone() }, *size);
                self.spend(size, at, sink)?;
                self.place(node, 0, sink)?;
            }
            _ => {}
        }
        Some(())
    }

    fn spend(&mut self, nodes: usize, at: Pos, sink: &mut Sink) -> Option<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            sink.report(
                at,
                format!("up to here the file holds more than {MAX_NODES} values, aliases written out"),
            )
            .expected("a definition of reasonable size");
            return None;
        }
        Some(())
    }

    /// Puts a finished node where it belongs. The copy that an anchor keeps costs budget too: nested
    /// anchors keep nested copies.
    fn place(&mut self, node: Node, anchor: usize, sink: &mut Sink) -> Option<()> {
        if anchor != 0 {
            let size = size(&node);
            self.spend(size, node.at, sink)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root.get_or_insert(node);
            return Some(());
        };
        match &mut parent.node.value {
            Value::List(items) => items.push(node),
            Value::Mapping(entries) => match parent.key.take() {
                None => parent.key = Some(node),
                Some(key) => entries.push((key, node)),
            },
            Value::Null | Value::Scalar { .. } => {}
        }
        Some(())
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Null | Value::Scalar { .. } => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Mapping(entries) => entries.iter().map(|(key, value)| size(key) + size(value)).sum(),
    }
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    let quoted = style != ScalarStyle::Plain;
    if !quoted && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar { text, quoted }
}

fn position(span: Span) -> Pos {
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { 1 };
    Pos { line: start.line(), column: start.col() + 1, width: width.max(1) }
}
