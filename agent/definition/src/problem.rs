//! Problems: what is collected while reading, and how it is told.

use std::fmt;

/// Where something stands: line and column (both from 1, columns in characters) and how many
/// characters it takes on that line; 0 for the file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pos {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
}

impl Pos {
    /// The file as a whole: its beginning, without a line to show.
    pub(crate) const FILE: Self = Self { line: 1, column: 1, width: 0 };
}

/// One thing that is wrong with a definition.
///
/// `Display` prints the sentence `FILE:LINE:COL: what; expected …; hint` and under it the line of the
/// file with a mark, so that a message that reached a log says everything by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The file's name as given to [`crate::parse`].
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// What to do about it; mostly "did you mean …?".
    pub hint: Option<String>,
    /// The line of the file and the mark under it.
    excerpt: String,
}

/// Every problem of one definition, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one problem")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Problem {
    /// The sentence alone, without the line of the file under it.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = format!("{}:{}:{}: {}", self.file, self.line, self.column, self.what);
        if let Some(expected) = &self.expected {
            text.push_str("; expected ");
            text.push_str(expected);
        }
        if let Some(hint) = &self.hint {
            text.push_str("; ");
            text.push_str(hint);
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())?;
        f.write_str(&self.excerpt)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
impl std::error::Error for Problems {}

/// A problem that has no file yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    at: Pos,
    what: String,
    expected: Option<String>,
    hint: Option<String>,
}

impl Draft {
    pub(crate) fn expected(&mut self, expected: impl Into<String>) -> &mut Self {
        self.expected = Some(expected.into());
        self
    }

    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn did_you_mean(&mut self, right: impl fmt::Display) -> &mut Self {
        self.hint(format!("did you mean {}?", shown(&right.to_string())))
    }
}

/// Collects problems.
#[derive(Default)]
pub(crate) struct Sink(Vec<Draft>);

impl Sink {
    /// Records a problem; what was expected and what to do are added to the result.
    pub(crate) fn report(&mut self, at: Pos, what: impl Into<String>) -> &mut Draft {
        let i = self.0.len();
        self.0.push(Draft { at, what: what.into(), expected: None, hint: None });
        &mut self.0[i]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems of the file, in its order. What an alias repeats is told once.
    pub(crate) fn into_problems(self, file: &str, text: &str) -> Problems {
        let mut drafts = self.0;
        drafts.sort_by_key(|draft| (draft.at.line, draft.at.column));
        drafts.dedup();
        if drafts.is_empty() {
            // Reached only if a reader gave up without saying why: say so instead of accepting.
            drafts.push(Draft {
                at: Pos::FILE,
                what: "the definition could not be read, and the reason got lost".to_owned(),
                expected: None,
                hint: Some("please report this file".to_owned()),
            });
        }
        let lines: Vec<&str> = text.lines().collect();
        let finish = |draft: Draft| Problem {
            file: file.to_owned(),
            line: draft.at.line,
            column: draft.at.column,
            excerpt: excerpt(&lines, draft.at),
            what: draft.what,
            expected: draft.expected,
            hint: draft.hint,
        };
        Problems(drafts.into_iter().map(finish).collect())
    }
}

/// Characters of a line that an excerpt shows.
const EXCERPT_WIDTH: usize = 96;

/// The line under a message, with a mark under the place; empty for a line without text. Long lines
/// are cut around the place; control characters never reach a terminal.
fn excerpt(lines: &[&str], at: Pos) -> String {
    let line = lines.get(at.line.saturating_sub(1)).filter(|line| at.width > 0 && !line.trim().is_empty());
    let Some(line) = line else { return String::new() };
    let line = if at.line == 1 { line.trim_start_matches('\u{feff}') } else { line };
    let place = at.column.saturating_sub(1);
    let length = line.chars().count();
    let first = place.saturating_sub(EXCERPT_WIDTH / 2).min(length.saturating_sub(EXCERPT_WIDTH));
    let shown: String = line
        .chars()
        .skip(first)
        .take(EXCERPT_WIDTH)
        .map(|c| if c.is_control() || is_format(c) { ' ' } else { c })
        .collect();
    let before = place - first;
    let room = shown.chars().count().saturating_sub(before).max(1);
    let mark = "^".repeat(at.width.clamp(1, room));
    let number = at.line.to_string();
    let margin = " ".repeat(number.len());
    format!("\n  {number} | {}\n  {margin} | {}{mark}", shown.trim_end(), " ".repeat(before))
}

/// Characters that change how a terminal shows the others.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A value as messages show it: in backticks, cut, without anything that a terminal would obey.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 64;
    let mut short = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MOST {
            short.push('…');
            break;
        }
        if c.is_control() || is_format(c) {
            short.extend(c.escape_unicode());
        } else {
            short.push(c);
        }
    }
    format!("`{short}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_not_speak_to_the_terminal() {
        assert_eq!(shown("a\u{1b}[31mb"), "`a\\u{1b}[31mb`");
        assert_eq!(shown(&"x".repeat(70)), format!("`{}…`", "x".repeat(64)));
        let line = format!("{}\u{1b}[31m{}", "a".repeat(100), "b".repeat(100));
        let cut = excerpt(&[&line], Pos { line: 1, column: 101, width: 500 });
        assert!(!cut.contains('\u{1b}'), "{cut}");
        assert!(cut.lines().all(|l| l.chars().count() <= EXCERPT_WIDTH + 6), "{cut}");
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_once() {
        let mut sink = Sink::default();
        let at = |line, column| Pos { line, column, width: 1 };
        sink.report(at(2, 1), "third");
        sink.report(at(1, 2), "second").expected("x").did_you_mean("y");
        sink.report(at(1, 1), "first");
        sink.report(at(2, 1), "third");
        let problems = sink.into_problems("f", "ab\ncd\n");
        assert_eq!(
            problems.to_string(),
            "f:1:1: first\n  1 | ab\n    | ^\n\
             f:1:2: second; expected x; did you mean `y`?\n  1 | ab\n    |  ^\n\
             f:2:1: third\n  2 | cd\n    | ^"
        );
    }
}
