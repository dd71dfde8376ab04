//! Text to logical lines: comments, blank lines, continuations, and the bodies of heredocs.
//!
//! Which instruction has a heredoc is the parser's knowledge, so it pulls: [`Scanner::next_line`], then, where it found an
//! opener, [`Scanner::take_body`].

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::diagnostic::Diagnostic;
use crate::source::{SourceFile, Span};
use crate::text::Joined;

/// Longest physical line, in bytes without its end. Other builders refuse longer ones too.
const MAX_LINE_BYTES: usize = 65_535;

/// One instruction's text, heredoc bodies aside.
#[derive(Debug)]
pub(crate) struct LogicalLine {
    pub(crate) joined: Joined,
    /// The comment block above.
    pub(crate) comments: Vec<String>,
}

/// The body of a heredoc.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) data: String,
    pub(crate) span: Span,
}

/// A cursor over physical lines.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Where the last line that was taken ends, its line end not counted in.
    last_end: usize,
    escape: char,
    comments: Vec<String>,
    /// How many physical lines are directives: they are no comments.
    directive_lines: usize,
    /// Last place of every line, leading tabs aside. A search per question would be quadratic in a hostile file.
    last_places: OnceCell<HashMap<&'a str, usize>>,
}

#[derive(Clone, Copy)]
struct PhysicalLine<'a> {
    /// With its end.
    raw: &'a str,
    /// Without.
    text: &'a str,
    start: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(source: &'a SourceFile, escape: char, directive_lines: usize) -> Self {
        let mark = source
            .text
            .strip_prefix('\u{feff}')
            .map_or(0, |rest| source.text.len() - rest.len());
        Self {
            text: &source.text,
            at: mark,
            last_end: mark,
            escape,
            comments: Vec::new(),
            directive_lines,
            last_places: OnceCell::new(),
        }
    }

    /// The next instruction's line; warnings and errors of its shape go to `diagnostics`.
    pub(crate) fn next_line(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<LogicalLine> {
        while let Some(line) = self.take(diagnostics) {
            let text = line.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                self.note_comment(comment.trim());
            } else if !text.is_empty() {
                let joined = self.join(text, line.start + line.text.len() - text.len(), diagnostics);
                if !joined.piece().trim().is_empty() {
                    let comments = std::mem::take(&mut self.comments);
                    return Some(LogicalLine { joined, comments });
                }
            }
        }
        None
    }

    /// Where the last line that was taken ends.
    pub(crate) fn last_end(&self) -> usize {
        self.last_end
    }

    /// Whether some line further down consists of `name`, tabs before it aside.
    pub(crate) fn has_end_mark(&self, name: &str) -> bool {
        let last_places = self.last_places.get_or_init(|| {
            let mut start = 0;
            let with_start = self.text.split_inclusive('\n').map(|raw| {
                start += raw.len();
                (
                    raw.trim_end_matches(['\r', '\n']).trim_start_matches('\t'),
                    start - raw.len(),
                )
            });
            with_start.collect()
        });
        last_places.get(name).is_some_and(|start| *start >= self.at)
    }

    /// The body of a heredoc that ends at `name`; with `chomp` without leading tabs. `None` if the file ends first.
    pub(crate) fn take_body(&mut self, name: &str, chomp: bool, diagnostics: &mut Vec<Diagnostic>) -> Option<Body> {
        let start = self.at;
        let mut data = String::new();
        while let Some(line) = self.take(diagnostics) {
            if ends_heredoc(line.text, name, chomp) {
                return Some(Body {
                    data,
                    span: Span::new(start, line.start),
                });
            }
            data.push_str(if chomp {
                line.raw.trim_start_matches('\t')
            } else {
                line.raw
            });
        }
        None
    }

    /// An empty comment starts the block anew; a blank line does not.
    fn note_comment(&mut self, comment: &str) {
        if self.directive_lines > 0 {
            self.directive_lines -= 1;
        } else if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
    }

    fn join(&mut self, first: &str, start: usize, diagnostics: &mut Vec<Diagnostic>) -> Joined {
        let mut joined = Joined::default();
        let (text, mut goes_on) = continuation(first, self.escape);
        joined.push(text, start);
        let mut empty_line = None;
        let mut last = Span::new(start, start + first.len());
        while goes_on {
            let Some(line) = self.take(diagnostics) else { break };
            last = Span::new(line.start, line.start + line.text.len());
            let trimmed = line.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty_line.get_or_insert(line.start);
                continue;
            }
            let (text, more) = continuation(line.text, self.escape);
            joined.push(text, line.start);
            goes_on = more;
        }
        if empty_line.is_some() {
            let warning = Diagnostic::warning("NoEmptyContinuation", last, "Empty continuation line")
                .note("a line inside this instruction is empty; the instruction goes on behind it")
                .help("remove the empty line, or put a comment in its place");
            diagnostics.push(warning);
        }
        joined
    }

    fn take(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<PhysicalLine<'a>> {
        let start = self.at;
        let raw = self.text[start..].split_inclusive('\n').next()?;
        let text = raw.trim_end_matches(['\r', '\n']);
        self.at += raw.len();
        self.last_end = start + text.len();
        if text.len() > MAX_LINE_BYTES {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES}");
            let span = Span::new(start, self.last_end);
            diagnostics.push(Diagnostic::error("line-too-long", span, message).help("continue it on further lines"));
        }
        Some(PhysicalLine { raw, text, start })
    }
}

fn ends_heredoc(line: &str, name: &str, chomp: bool) -> bool {
    let line = line.trim_end_matches(['\r', '\n']);
    let line = if chomp { line.trim_start_matches('\t') } else { line };
    line == name
}

/// A line without its continuation mark, and whether it had one. Two marks are a literal one; three count as two, since only
/// one character is looked back.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_continues_only_when_it_stands_alone() {
        assert_eq!(continuation(r"a \ ", '\\'), ("a ", true));
        assert_eq!(continuation(r"\", '\\'), ("", true));
        assert_eq!(continuation(r"a \\", '\\'), (r"a \\", false));
        assert_eq!(continuation(r"a \\\", '\\'), (r"a \\\", false));
        assert_eq!(continuation(r"a \", '`'), (r"a \", false));
    }
}
