//! Text that is not YAML: the parser's error kinds, told to somebody who does not know the grammar.

use serde_yaml::granit_parser::{ErrorKind, ScanError};

use crate::limits::MAX_DEPTH;
use crate::problem::{Pos, Sink};

/// Reports one syntax error.
pub(crate) fn report(error: &ScanError, text: &str, sink: &mut Sink) {
    let mark = error.marker();
    let at = Pos { line: mark.line().max(1), column: mark.col() + 1, width: 1 };
    let line = text.lines().nth(at.line - 1).unwrap_or_default();
    let (what, expected) = told(error.kind());
    let draft = sink.report(at, what);
    if let Some(expected) = expected {
        draft.expected(expected);
    }
    if let Some(hint) = hint(line) {
        draft.hint(hint);
    }
}

fn told(kind: &ErrorKind) -> (String, Option<&'static str>) {
    use ErrorKind as E;
    let (what, expected) = match kind {
        E::TabNotAllowed
        | E::TabInBlockIndentation
        | E::TabInIndentation
        | E::TabInPlainScalar
        | E::TabAtBlockScalarStart => ("a tab stands where only spaces may", Some("spaces for indentation")),
        E::BomInsideDocument => {
            ("a byte order mark (U+FEFF) inside the text", Some("it at the very beginning, or nowhere"))
        }
        E::UnclosedQuotedScalar => ("a quotation mark that is never closed", None),
        E::UnclosedFlowCollection { open } => {
            return (format!("`{open}` is never closed"), Some("its closing bracket"));
        }
        E::UnexpectedEofFlowSequence => ("the file ends inside a list", Some("`,` or `]`")),
        E::UnexpectedEofFlowMapping | E::UnexpectedEofImplicitFlowMapping => {
            ("the file ends inside a mapping", Some("`,` or `}`"))
        }
        E::MismatchedFlowCollectionEnd { open, close } => {
            return (format!("`{open}` is closed by `{close}`"), Some("the bracket of the same kind"));
        }
        E::MisplacedFlowCollectionEnd => ("a closing bracket that was never opened", None),
        E::ExpectedFlowSequenceSeparator => ("this does not continue the list", Some("`,` or `]`")),
        E::ExpectedFlowMappingSeparator => ("this does not continue the mapping", Some("`,` or `}`")),
        E::RecursionLimitExceeded => {
            return (format!("lists and mappings nested more than {MAX_DEPTH} deep"), Some("at most that"));
        }
        E::UnknownAnchor => ("an alias (`*name`) of an anchor (`&name`) that is not there", None),
        E::MappingValueNotAllowed | E::InvalidColonPlacement | E::InvalidMappingValueWhitespace => (
            "a `:` stands where no key can be",
            Some("one `key: value` per line, values that hold `: ` in quotes"),
        ),
        E::ExpectedBlockMappingKey
        | E::SimpleKeyExpected
        | E::InvalidSimpleKey
        | E::InvalidIndentation
        | E::MappingKeyNotAllowed
        | E::ExpectedBlockSequenceEntry
        | E::ExpectedNodeContent
        | E::ExpectedDocumentStart => (
            "this line does not fit to the lines before it",
            Some("`key: value` or `- entry`, indented like its neighbours"),
        ),
        E::BlockSequenceEntryNotAllowed => {
            ("a list entry can not begin here", Some("`- entry` on a line of its own, under its key"))
        }
        E::InvalidTrailingDoubleQuotedScalar | E::InvalidTrailingSingleQuotedScalar => {
            ("text goes on behind the closing quotation mark", Some("the whole value inside the quotes"))
        }
        E::UnexpectedCharacter { character } => {
            return (
                format!("a value can not begin with {}", crate::problem::shown(&character.to_string())),
                Some("a value in quotes, or another one"),
            );
        }
        other => return (format!("not valid YAML: {other}"), None),
    };
    (what.to_owned(), expected)
}

/// What mostly stands on a line that YAML refuses.
fn hint(line: &str) -> Option<&'static str> {
    if line.contains("]:") && !line.contains("\"[") && !line.contains("'[") {
        return Some("an IPv6 address with a port needs quotes: `\"[2001:db8::11]:7946\"`");
    }
    None
}
