//! For programs: the checks that other builders know too, and the first error.

use frontend::Checked;
use frontend::source::SourceFile;
use serde_json::{Value, json};

pub(super) fn print(checked: &Checked, source: &SourceFile) -> String {
    let checks = checked.warnings.iter().filter(|finding| finding.rule.is_some());
    let warnings: Vec<Value> = checks
        .map(|finding| {
            json!({
                "rule": finding.diagnostic.code,
                "line": finding.lines.map(|(first, _)| first),
                "detail": finding.diagnostic.message,
            })
        })
        .collect();
    let mut answer = json!({ "warnings": warnings });
    if let Some(error) = checked.errors.first() {
        let span = error.diagnostic.span;
        let line = error.lines.map_or(source.line(span.start), |(first, _)| first);
        answer["error"] = json!({ "message": error.diagnostic.message, "line": line });
    }
    format!("{answer}\n")
}
