//! For people: each problem with its line, in the order of the file, then how many there are.

use frontend::source::SourceFile;
use frontend::{Checked, Finding};

use crate::dockerfile::NamedText;
use crate::ui::escape;
use crate::ui::snippet::{Drawing, draw};

pub(super) fn print(checked: &Checked, source: &SourceFile) -> String {
    let mut found: Vec<_> = super::all(checked).map(|(_, finding)| finding).collect();
    found.sort_by_key(|finding| finding.diagnostic.span);
    let file = NamedText {
        name: source.name.clone(),
        bytes: source.text.clone().into_bytes(),
    };
    let mut text = String::new();
    for finding in found {
        text.push_str(&drawn(finding, source, &file));
        text.push('\n');
    }
    text.push_str(&format!("{}\n", summary(checked, &source.name)));
    text
}

/// One problem with the line it is about.
pub(crate) fn drawn(finding: &Finding, source: &SourceFile, file: &NamedText) -> String {
    let diagnostic = &finding.diagnostic;
    let word = match diagnostic.severity {
        frontend::diagnostic::Severity::Error => "error".to_owned(),
        frontend::diagnostic::Severity::Warning => format!("warning[{}]", diagnostic.code),
    };
    let drawing = Drawing {
        title: &word,
        message: &diagnostic.message,
        start: diagnostic.span.start,
        end: diagnostic.span.end,
        line: finding.lines.map_or(0, |_| source.line(diagnostic.span.start)),
        notes: &diagnostic.notes,
        helps: &diagnostic.helps,
    };
    draw(&drawing, Some(file))
}

fn summary(checked: &Checked, name: &str) -> String {
    let count = |number: usize, word: &str| match number {
        1 => format!("1 {word}"),
        number => format!("{number} {word}s"),
    };
    let name = escape::line(name.as_bytes());
    match (checked.errors.len(), checked.warnings.len()) {
        (0, 0) => format!("{name}: nothing found"),
        (0, warnings) => format!("{name}: {}", count(warnings, "warning")),
        (errors, 0) => format!("{name}: {}", count(errors, "error")),
        (errors, warnings) => format!("{name}: {}, {}", count(errors, "error"), count(warnings, "warning")),
    }
}
