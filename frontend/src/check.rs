//! All that can be said of a Dockerfile without building it: mistakes, and warnings of the checks.

use crate::diagnostic::{Diagnostic, Severity};
use crate::lint::rules::Rule;
use crate::lint::settings;
use crate::lower::{Attempt, Images, LowerOptions, Made, Selection, attempt};
use crate::parse::Parsed;
use crate::source::{SourceFile, Span};
use crate::stub;

/// The answer of [`check`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// In order of their place.
    pub warnings: Vec<Finding>,
    /// Why there would be no build, in order of their place; warnings that the file declares to be errors count.
    pub errors: Vec<Finding>,
}

/// A problem, and the lines that tools know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The problem itself.
    pub diagnostic: Diagnostic,
    /// The check that found it; a remark of ours and an error have none.
    pub rule: Option<&'static Rule>,
    /// First and last line, from 1, of the instruction around it; nothing without a place.
    pub lines: Option<(u32, u32)>,
}

/// Parses and lowers a file for nothing but what there is to say: all stages, unless the options name a target. Every image
/// is taken for a [`stub`].
#[must_use]
pub fn check(source: &SourceFile, parsed: &Parsed, options: &LowerOptions) -> Checked {
    let parsed = &tolerant(parsed);
    let mut attempt = stubbed((source, parsed), options, Selection::All);
    settings::apply((source, parsed), &options.build_args, &mut attempt.diagnostics);
    let mut checked = Checked::default();
    for diagnostic in attempt.diagnostics {
        let list = match diagnostic.severity {
            Severity::Warning => &mut checked.warnings,
            Severity::Error => &mut checked.errors,
        };
        list.push(Finding {
            rule: Rule::find(diagnostic.code),
            lines: lines(source, parsed, &diagnostic),
            diagnostic,
        });
    }
    checked
}

/// A frontend image that is not ours stops builds; what the file says can be checked all the same.
fn tolerant(parsed: &Parsed) -> Parsed {
    let mut parsed = parsed.clone();
    for found in &mut parsed.diagnostics {
        if found.code == "foreign-syntax" {
            found.severity = Severity::Warning;
        }
    }
    parsed
}

/// Lowers with stubs until no image is missing.
pub(crate) fn stubbed(file: (&SourceFile, &Parsed), options: &LowerOptions, selection: Selection) -> Attempt {
    let mut images = Images::new();
    loop {
        let attempt = attempt(file, options, &images, selection);
        match attempt.made {
            // Every answer names images that are still missing, so this ends.
            Some(Made::Need(requests)) => images.extend(stub::answers(requests)),
            _ => return attempt,
        }
    }
}

/// Tools know a problem by the lines of its instruction; an empty line in one by that instruction's last line.
fn lines(source: &SourceFile, parsed: &Parsed, diagnostic: &Diagnostic) -> Option<(u32, u32)> {
    let at = diagnostic.span;
    if at == Span::default() {
        return None;
    }
    match settings::instruction_at(parsed, at) {
        Some(instruction) if diagnostic.code != "NoEmptyContinuation" => Some(instruction.lines),
        _ => Some(source.lines(at)),
    }
}
