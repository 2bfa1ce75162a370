//! Text that is not YAML: the parser's error kinds, told to somebody who does not know the grammar.

use serde_yaml::granit_parser::{ErrorKind, ScanError};

use crate::limits::MAX_DEPTH;
use crate::problem::{Pos, Sink};

/// Reports one syntax error. `unclosed` is the place of a bracket that was open when it happened.
pub(crate) fn report(error: &ScanError, unclosed: Option<Pos>, text: &str, sink: &mut Sink) {
    let mark = error.marker();
    let at = Pos { line: mark.line().max(1), column: mark.col() + 1, width: 1 };
    let (what, expected) = told(error.kind());
    let draft = sink.report(at, what);
    if let Some(expected) = expected {
        draft.expected(expected);
    }
    if let Some(hint) = hint(error.kind(), at, unclosed, text) {
        draft.hint(hint);
    }
}

/// Where to look, since YAML notices many mistakes only lines after they were made.
fn hint(kind: &ErrorKind, at: Pos, unclosed: Option<Pos>, text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().take(at.line).collect();
    let (line, before) = lines.split_last()?;
    if line.contains("]:") && !line.contains("\"[") && !line.contains("'[") {
        return Some("an IPv6 address with a port needs quotes: `\"[2001:db8::11]:7946\"`".to_owned());
    }
    if let Some(open) = unclosed.filter(|open| open.line < at.line) {
        return Some(format!(
            "the bracket on line {} is still open here: is its end or a quotation mark missing?",
            open.line
        ));
    }
    if matches!(
        kind,
        ErrorKind::InvalidTrailingDoubleQuotedScalar | ErrorKind::InvalidTrailingSingleQuotedScalar
    ) && line.chars().take(at.column - 1).filter(|c| matches!(c, '"' | '\'')).count() == 1
    {
        return Some("the text began on a line before: is a quotation mark missing there?".to_owned());
    }
    let is_pair =
        |line: &str| line.contains(": ") || line.ends_with(':') || line.trim_start().starts_with("- ");
    let previous = before
        .iter()
        .map(|line| line.trim_end())
        .rfind(|line| !line.is_empty() && !line.trim_start().starts_with('#'))?;
    if matches!(
        kind,
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidSimpleKey | ErrorKind::SimpleKeyExpected
    ) && line.matches(": ").count() < 2
        && !is_pair(previous)
    {
        return Some("the line before is no `key: value`: is its `: ` missing?".to_owned());
    }
    None
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
        E::InvalidQuotedScalarIndent | E::DocumentIndicatorInQuotedScalar => (
            "a text in quotes is still open at this line",
            Some("its closing quotation mark on a line before"),
        ),
        E::MissingAnchorOrAliasName => {
            ("a value cannot begin with `*` or `&`", Some("a value in quotes, or another one"))
        }
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
            return (
                format!("lists and mappings nested {MAX_DEPTH} deep"),
                Some("at most the 6 levels that a definition has"),
            );
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
            ("a list entry cannot begin here", Some("`- entry` on a line of its own, under its key"))
        }
        E::InvalidTrailingDoubleQuotedScalar | E::InvalidTrailingSingleQuotedScalar => {
            ("text goes on behind the closing quotation mark", Some("the whole value inside the quotes"))
        }
        E::UnexpectedCharacter { character } => {
            return (
                format!("a value cannot begin with {}", crate::problem::shown(&character.to_string())),
                Some("a value in quotes, or another one"),
            );
        }
        other => return (format!("not valid YAML: {other}"), None),
    };
    (what.to_owned(), expected)
}
