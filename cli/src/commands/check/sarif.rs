//! SARIF 2.1.0: one run, with the rules that have found something and what they found.

use std::collections::BTreeSet;

use frontend::Checked;
use frontend::Finding;
use frontend::lint::rules::{RULES, Rule};
use frontend::source::SourceFile;
use serde_json::{Value, json};

use super::{Level, region};
use crate::VERSION;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

pub(super) fn print(checked: &Checked, source: &SourceFile) -> String {
    let codes: BTreeSet<&str> = super::all(checked)
        .map(|(_, finding)| finding.diagnostic.code)
        .collect();
    let codes: Vec<&str> = codes.into_iter().collect();
    let rules: Vec<Value> = codes.iter().map(|code| rule(code)).collect();
    let result = |(level, finding): (Level, &Finding)| {
        let code = finding.diagnostic.code;
        json!({
            "ruleId": code,
            "ruleIndex": codes.iter().position(|known| *known == code),
            "level": match level {
                Level::Error => "error",
                Level::Warning => "warning",
                Level::Note => "note",
            },
            "message": { "text": message(finding) },
            "locations": [location(finding, source)],
        })
    };
    let results: Vec<Value> = super::all(checked).map(result).collect();
    let log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "rbuild", "version": VERSION, "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn rule(code: &str) -> Value {
    let Some(rule) = RULES.iter().find(|rule: &&Rule| rule.name == code) else {
        return json!({ "id": code });
    };
    let mut value = json!({ "id": code, "shortDescription": { "text": rule.description } });
    if let Some(url) = rule.url() {
        value["helpUri"] = url.into();
    }
    value
}

fn message(finding: &Finding) -> String {
    let diagnostic = &finding.diagnostic;
    let mut lines = vec![diagnostic.message.clone()];
    lines.extend(diagnostic.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(diagnostic.helps.iter().map(|help| format!("help: {help}")));
    lines.join("\n")
}

fn location(finding: &Finding, source: &SourceFile) -> Value {
    let mut place = json!({ "artifactLocation": { "uri": uri(&source.name) } });
    if let Some([start, end]) = region(source, finding) {
        place["region"] = json!({
            "startLine": start.0, "startColumn": start.1, "endLine": end.0, "endColumn": end.1,
        });
    }
    json!({ "physicalLocation": place })
}

/// A path as a reference to a file, relative as it is.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
        match plain {
            true => uri.push(char::from(byte)),
            false => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_references() {
        assert_eq!(uri("a b/Dockerfile.ä"), "a%20b/Dockerfile.%C3%A4");
    }
}
