//! Every file of `testdata/dockerfiles/check` against what the checks find in it, with what they offer instead.
//!
//! A finding is a line: first and last line of its instruction, its code, the guilty part, the message. A file named like a
//! Dockerfile, with `.dockerignore` at its end, is its ignore file.
#![expect(
    clippy::unwrap_used,
    reason = "the lint sees tests only in test functions, not in what they call"
)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use frontend::lint::rules::RULES;
use frontend::patterns::IgnoreFile;
use frontend::source::SourceFile;
use frontend::{Checked, Finding, LowerOptions, check, parse};
use proto::platform::Platform;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfiles/check")
}

fn options() -> LowerOptions {
    LowerOptions::new(Platform::new("linux", "amd64", ""))
}

fn checked(text: &str, options: &LowerOptions) -> Checked {
    let source = SourceFile::new("Dockerfile", text);
    check(&source, &parse(&source), options)
}

/// Names of the files, sorted, without their ends.
fn cases() -> Vec<String> {
    let paths = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let dockerfiles = paths.filter(|path| path.extension().unwrap() == "dockerfile");
    let mut names: Vec<String> = dockerfiles
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn check_case(name: &str) -> String {
    let read = |end: &str| std::fs::read_to_string(folder().join(format!("{name}.{end}")));
    let text = read("dockerfile").unwrap();
    let options = LowerOptions {
        ignore: read("dockerignore").ok().map(|text| IgnoreFile::parse(&text).unwrap()),
        ..options()
    };
    let source = SourceFile::new(name, text.clone());
    let found = checked(&text, &options);
    let rendered = |(word, finding)| render(&source, word, finding);
    let warnings = found.warnings.iter().map(|finding| ("warning", finding));
    let errors = found.errors.iter().map(|finding| ("error", finding));
    warnings.chain(errors).map(rendered).collect()
}

fn render(source: &SourceFile, word: &str, finding: &Finding) -> String {
    let diagnostic = &finding.diagnostic;
    let (first, last) = finding.lines.unwrap_or_default();
    let mut out = format!(
        "{first}-{last} {word}[{}] {:?}: {}\n",
        diagnostic.code,
        source.slice(diagnostic.span),
        diagnostic.message
    );
    for note in &diagnostic.notes {
        writeln!(out, "    note: {note}").unwrap();
    }
    for help in &diagnostic.helps {
        writeln!(out, "    help: {help}").unwrap();
    }
    out
}

#[test]
fn checks_find_what_is_likely_not_meant() {
    let mut golden = String::new();
    for name in cases() {
        write!(golden, "== {name}\n{}", check_case(&name)).unwrap();
    }
    expect_file![folder().join("../check.golden")].assert_eq(&golden);
}

#[test]
fn every_check_that_needs_no_image_has_a_case_and_offers_a_way_out() {
    let golden: String = cases().iter().map(|name| check_case(name)).collect();
    for rule in RULES.iter().filter(|rule| rule.name != "InvalidBaseImagePlatform") {
        let found = golden.split(&format!("warning[{}]", rule.name)).nth(1);
        let found = found.unwrap_or_else(|| panic!("no case has {}", rule.name));
        let end = found.find("\n1").unwrap_or(found.len());
        assert!(found[..end].contains("    help: "), "{} offers nothing", rule.name);
    }
}

#[test]
fn a_target_limits_what_is_looked_into() {
    let text = "FROM base AS a\nENV A=$B\nFROM base AS c\nENV C=$D\n";
    let messages = |target: Option<&str>| {
        let options = LowerOptions {
            target: target.map(str::to_owned),
            ..options()
        };
        let found = checked(text, &options);
        let messages = found.warnings.into_iter().map(|finding| finding.diagnostic.message);
        messages.collect::<Vec<_>>().join("; ")
    };
    assert_eq!(messages(Some("a")), "Usage of undefined variable '$B'");
    assert_eq!(
        messages(None),
        "Usage of undefined variable '$B'; Usage of undefined variable '$D'"
    );
}

#[test]
fn a_build_argument_replaces_the_settings_of_the_file() {
    let with = |value: &str| {
        let mut options = options();
        options
            .build_args
            .insert("BUILDKIT_DOCKERFILE_CHECK".into(), value.into());
        checked("# check=skip=all\nFROM base AS X\n", &options)
    };
    assert_eq!(with("skip=StageNameCasing").warnings, []);
    assert_eq!(with("skip=CopyIgnoredFile").warnings.len(), 1);
    assert_eq!(
        with("error=1").errors[0].diagnostic.message,
        "lint violation found for rules: StageNameCasing"
    );
    assert_eq!(
        with("nonsense").errors[0].diagnostic.message,
        "failed to parse BUILDKIT_DOCKERFILE_CHECK: invalid check option \"nonsense\""
    );
}
