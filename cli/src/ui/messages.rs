//! What users see of a mistake in their Dockerfile: every file of `testdata/messages`, drawn as a build draws it.

use std::fmt::Write as _;

use expect_test::expect_file;
use frontend::LowerOptions;
use frontend::diagnostic::{Diagnostic, Severity};
use frontend::source::{SourceFile, Span};
use proto::platform::Platform;
use testdata::dockerfiles::{Case, cases, folder};

use super::snippet::{Drawing, draw};
use crate::dockerfile::NamedText;

#[test]
fn mistakes_are_drawn_with_place_cause_and_way_out() {
    let cases = cases("messages");
    assert!(cases.len() >= 30, "{} files", cases.len());
    let mut golden = String::new();
    for case in cases {
        writeln!(golden, "== {}", case.name).unwrap();
        let found = diagnostics(&case);
        assert!(!found.is_empty(), "{} has no mistake", case.name);
        for diagnostic in &found {
            golden.push_str(&drawn(diagnostic, &case));
        }
    }
    expect_file![folder("messages.golden")].assert_eq(&golden);
}

/// What a build of this file says: errors if there are any, else warnings.
fn diagnostics(case: &Case) -> Vec<Diagnostic> {
    let source = SourceFile::new("Dockerfile", case.text.as_str());
    let parsed = frontend::parse(&source);
    let mut options = LowerOptions::new(Platform::new("linux", "amd64", ""));
    for (name, value) in &case.options {
        match name.as_str() {
            "target" => options.target = Some(value.clone()),
            "build-arg" => {
                let (name, value) = value.split_once('=').unwrap();
                options.build_args.insert(name.to_owned(), value.to_owned());
            }
            other => panic!("`{other}` is no option of these files"),
        }
    }
    match frontend::stub::lower_stubbed(&source, &parsed, &options) {
        Ok(plan) => plan.diagnostics,
        Err(diagnostics) => diagnostics,
    }
}

fn drawn(diagnostic: &Diagnostic, case: &Case) -> String {
    let source = SourceFile::new("Dockerfile", case.text.as_str());
    let severity = match diagnostic.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let drawing = Drawing {
        title: &format!("{severity}[{}]", diagnostic.code),
        message: &diagnostic.message,
        start: diagnostic.span.start,
        end: diagnostic.span.end,
        line: if diagnostic.span == Span::default() {
            0
        } else {
            source.line(diagnostic.span.start)
        },
        notes: &diagnostic.notes,
        helps: &diagnostic.helps,
    };
    let text = NamedText {
        name: source.name.clone(),
        bytes: case.text.clone().into_bytes(),
    };
    draw(&drawing, Some(&text))
}
