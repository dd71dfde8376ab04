//! `--check` and `--call=check`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use frontend::source::SourceFile;
use frontend::{Checked, Finding};
use serde::Serialize;

use super::{Call, Location, Subject};
use crate::exit::{Blame, Problem};
use crate::ui::escape;

const RULE_LINE: &str = "--------------------";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    warnings: Vec<Warning<'a>>,
    sources: [Source<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    build_error: Option<BuildError<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning<'a> {
    rule_name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    detail: &'a str,
    location: Location,
}

#[derive(Debug, Serialize)]
struct Source<'a> {
    filename: &'a str,
    data: String,
    language: &'static str,
}

#[derive(Debug, Serialize)]
struct BuildError<'a> {
    message: &'a str,
    location: Location,
}

pub(super) fn answer(call: Call, subject: &Subject) -> Result<(), Problem> {
    let mut checked = frontend::check(&subject.source, &subject.parsed, &subject.options);
    // The answer has the form of other builders: what they do not know has no place in it.
    checked.warnings.retain(|finding| finding.rule.is_some());
    checked.warnings.sort_by_key(|finding| finding.lines);
    let failed = !checked.errors.is_empty();
    call.print(&json(&checked, &subject.source), || text(&checked, &subject.source))?;
    if failed {
        let errors: Vec<_> = checked.errors.into_iter().map(|finding| finding.diagnostic).collect();
        return Err(subject.failed(if call.json { &[] } else { &errors }));
    }
    if checked.warnings.is_empty() || call.ignore_status {
        return Ok(());
    }
    Err(Problem::told(Blame::User))
}

fn json<'a>(checked: &'a Checked, source: &'a SourceFile) -> Answer<'a> {
    let warning = |finding: &'a Finding| Warning {
        rule_name: finding.diagnostic.code,
        description: finding.rule.map_or("", |rule| rule.description),
        url: finding.rule.and_then(|rule| rule.url()),
        detail: &finding.diagnostic.message,
        location: Location::new(finding.lines),
    };
    Answer {
        warnings: checked.warnings.iter().map(warning).collect(),
        sources: [Source {
            filename: &source.name,
            data: BASE64_STANDARD.encode(&source.text),
            language: "Dockerfile",
        }],
        build_error: checked.errors.first().map(|error| BuildError {
            message: &error.diagnostic.message,
            location: Location::new(error.lines),
        }),
    }
}

fn text(checked: &Checked, source: &SourceFile) -> String {
    let mut text = match (checked.warnings.len(), checked.errors.is_empty()) {
        (0, true) => "Check complete, no warnings found.\n".to_owned(),
        (0, false) => String::new(),
        (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
        (count, _) => format!("Check complete, {count} warnings have been found!\n"),
    };
    for finding in &checked.warnings {
        let diagnostic = &finding.diagnostic;
        let url = finding.rule.and_then(|rule| rule.url());
        let url = url.map(|url| format!(" - {url}")).unwrap_or_default();
        let message = escape::line(diagnostic.message.as_bytes());
        text.push_str(&format!("\nWARNING: {}{url}\n{message}\n", diagnostic.code));
        if let Some(lines) = finding.lines {
            text.push_str(&excerpt(source, lines));
        }
    }
    text
}

/// The lines of an instruction between rules, with a line above and below, or two if it is a single one.
fn excerpt(source: &SourceFile, (first, last): (u32, u32)) -> String {
    let lines: Vec<&str> = source.text.split('\n').collect();
    let number = |line: u32| usize::try_from(line).unwrap_or(usize::MAX);
    let (first, last) = (number(first), number(last).min(lines.len()));
    if first == 0 || first > lines.len() {
        return String::new();
    }
    let (mut from, mut to) = (first, last);
    let around = if first == last { 4 } else { 2 };
    let mut added = 0;
    while added < around {
        if from > 1 {
            from -= 1;
            added += 1;
        }
        if to < lines.len() {
            to += 1;
            added += 1;
        }
        // Counted even if there is nothing left to add: a short file must come to an end too.
        added += 1;
    }
    let mut text = format!("{}:{first}\n{RULE_LINE}\n", source.name);
    for line in from..=to {
        let mark = if (first..=last).contains(&line) { ">>>" } else { "   " };
        let content = escape::line(lines[line - 1].trim_end_matches('\r').as_bytes());
        text.push_str(&format!(" {line:>3} | {mark} {content}\n"));
    }
    format!("{text}{RULE_LINE}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_has_lines_around_the_guilty_ones() {
        let source = SourceFile::new("Dockerfile", "FROM a\nRUN b\nCMD c\nUSER d\nUSER e\n");
        assert_eq!(
            excerpt(&source, (3, 3)),
            "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN b\n   3 | >>> CMD c\n   4 |     USER d\n   5 |     USER e\n--------------------\n"
        );
        let short = SourceFile::new("Dockerfile", "FROM a");
        assert_eq!(
            excerpt(&short, (1, 1)),
            "Dockerfile:1\n--------------------\n   1 | >>> FROM a\n--------------------\n"
        );
        assert_eq!(excerpt(&short, (9, 9)), "");
    }
}
