//! The one mistake at which a builder stops that reports no more than one.
//!
//! Such builders read a file twice. First they cut all of it into instructions, for which quotes, arrays and heredocs must be
//! well formed; only then they look at what the instructions say. So a mistake of shape comes before every other, wherever it
//! stands, and it is blamed on the line on which its instruction begins.

use crate::diagnostic::{Diagnostic, Severity};
use crate::source::SourceFile;

/// Mistakes that leave open where an instruction ends or which arguments it has.
const SHAPE: [&str; 9] = [
    "duplicate-directive",
    "invalid-escape-directive",
    "line-too-long",
    "unterminated-heredoc",
    "json-not-strings",
    "missing-equals",
    "missing-value",
    "no-instructions",
    "empty-file",
];

/// Reasons not to build a file that can be read.
const READABLE: [&str; 2] = ["foreign-syntax", "no-stage"];

/// A mistake as builders report it that stop at the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstError {
    /// What is wrong.
    pub message: String,
    /// The line that is blamed, as those builders count: from 1, but for a problem of the file's top or of one physical line
    /// it is the line before; 0 for an empty file.
    pub line: u32,
}

/// The first mistake of either kind.
#[derive(Debug, Default)]
pub(super) struct FirstErrors {
    shape: Option<FirstError>,
    meaning: Option<FirstError>,
}

impl FirstErrors {
    /// Takes note of mistakes, in order; `start` is the line of the instruction that they are in.
    pub(super) fn note(&mut self, source: &SourceFile, start: u32, diagnostics: &[Diagnostic]) {
        for found in diagnostics {
            if found.severity != Severity::Error || READABLE.contains(&found.code) {
                continue;
            }
            let slot = if is_of_shape(found) {
                &mut self.shape
            } else {
                &mut self.meaning
            };
            slot.get_or_insert_with(|| FirstError {
                message: found.message.clone(),
                line: blamed(source, start, found),
            });
        }
    }

    /// Which of all mistakes is the one.
    pub(super) fn first(self) -> Option<FirstError> {
        self.shape.or(self.meaning)
    }
}

/// Whether a mistake is found before any instruction is looked at.
pub(super) fn is_of_shape(mistake: &Diagnostic) -> bool {
    SHAPE.contains(&mistake.code)
}

fn blamed(source: &SourceFile, start: u32, mistake: &Diagnostic) -> u32 {
    match mistake.code {
        "duplicate-directive" | "invalid-escape-directive" | "line-too-long" => source.line(mistake.span.start) - 1,
        "no-instructions" | "empty-file" => u32::try_from(source.text.lines().count()).unwrap_or(u32::MAX),
        _ => start,
    }
}
