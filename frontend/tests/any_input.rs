//! Whatever the input is: no panic, every span is a piece of the text, and what is printed is understood as before.

mod print;

use frontend::diagnostic::Diagnostic;
use frontend::instruction::{Instruction, Kind};
use frontend::source::{SourceFile, Span};
use frontend::{LowerOptions, Parsed, parse};
use proptest::prelude::*;
use proto::platform::Platform;
use testdata::dockerfiles::cases;

/// Fragments that mean something, so that random files reach every corner of the parser.
const FRAGMENTS: [&str; 44] = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "HEALTHCHECK",
    "ONBUILD",
    "VOLUME",
    "SHELL",
    "CMD",
    "b",
    "AS",
    "x=1",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\\\n",
    "`\n",
    "\\",
    "`",
    "#",
    "# escape=`\n",
    "# syntax=x\n",
    "<<E",
    "<<-\"E\"",
    "<< E",
    "\nE\n",
    "\n\tE\n",
    "[\"a\",",
    "\"b\"]",
    "[",
    "\"",
    "'",
    "--mount=",
    "--from=",
    "--interval=1s",
    "--",
    "é",
    "\u{3000}",
    "\u{feff}",
    "$A",
];

fn files() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(FRAGMENTS.to_vec());
    let meaningful = prop::collection::vec(fragment, 0..40).prop_map(|parts| parts.concat());
    prop_oneof![4 => meaningful, 1 => any::<String>()]
}

fn spans(parsed: &Parsed) -> Vec<Span> {
    let mut spans: Vec<Span> = parsed.diagnostics.iter().map(|diagnostic| diagnostic.span).collect();
    parsed
        .instructions
        .iter()
        .for_each(|instruction| collect(instruction, &mut spans));
    spans
}

fn collect(instruction: &Instruction, spans: &mut Vec<Span>) {
    spans.extend([instruction.span, instruction.keyword.span]);
    match &instruction.kind {
        Kind::From(from) => {
            spans.push(from.base.span);
            spans.extend(from.name.iter().chain(&from.platform).map(|word| word.span));
        }
        Kind::Arg(args) => {
            spans.extend(
                args.iter()
                    .flat_map(|arg| std::iter::once(&arg.name).chain(&arg.default))
                    .map(|word| word.span),
            );
        }
        Kind::Env(values) | Kind::Label(values) => {
            spans.extend(values.pairs.iter().flat_map(|(key, value)| [key.span, value.span]));
        }
        Kind::Run(run) => {
            spans.extend(
                run.heredocs
                    .iter()
                    .flat_map(|heredoc| [heredoc.name.span, heredoc.data_span]),
            );
            spans.extend(
                run.mounts
                    .iter()
                    .flat_map(|mount| &mount.options)
                    .map(|(key, _)| key.span),
            );
        }
        Kind::Copy(copy) | Kind::Add(copy) => {
            spans.extend(copy.sources.iter().chain([&copy.dest]).map(|word| word.span));
            spans.extend(
                copy.heredocs
                    .iter()
                    .flat_map(|heredoc| [heredoc.name.span, heredoc.data_span]),
            );
        }
        Kind::Shell(words) | Kind::Expose(words) | Kind::Volume(words) => {
            spans.extend(words.iter().map(|word| word.span))
        }
        Kind::User(word) | Kind::Workdir(word) | Kind::StopSignal(word) | Kind::Maintainer(word) => {
            spans.push(word.span)
        }
        Kind::Onbuild { text, inner } => {
            spans.push(text.span);
            if let Ok(inner) = inner {
                collect(inner, spans);
            }
        }
        Kind::Cmd(_) | Kind::Entrypoint(_) | Kind::Healthcheck(_) => {}
    }
}

/// What lowering says of a file, with images that are all alike.
fn lower(source: &SourceFile, parsed: &Parsed) -> Vec<Diagnostic> {
    let options = LowerOptions::new(Platform::new("linux", "amd64", ""));
    match frontend::stub::lower_stubbed(source, parsed, &options) {
        Ok(plan) => plan.diagnostics,
        Err(diagnostics) => diagnostics,
    }
}

fn shapes(parsed: &Parsed) -> Vec<String> {
    parsed.instructions.iter().map(print::shape).collect()
}

/// What is understood of `text`, and of that when it was printed.
fn printed(text: &str) -> (Vec<String>, Vec<String>) {
    let parsed = parse(&SourceFile::new("Dockerfile", text));
    let again = parse(&SourceFile::new("Dockerfile", print::print(&parsed)));
    (shapes(&parsed), shapes(&again))
}

#[test]
fn files_of_the_corpus_survive_printing() {
    for kind in ["ok", "plan", "real"] {
        for case in cases(&format!("dockerfiles/{kind}")) {
            let (before, after) = printed(&case.text);
            assert_eq!(after, before, "{}", case.name);
        }
    }
}

#[test]
fn a_blank_in_a_quote_that_nothing_ends_survives_printing() {
    let (before, after) = printed("FROM b\nENV A=x\" \\\u{a0}\n");
    assert!(before[1].contains("x\\\" "), "{before:?}");
    assert_eq!(after, before);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn spans_are_pieces_of_the_text(text in files()) {
        let source = SourceFile::new("Dockerfile", text.clone());
        let parsed = parse(&source);
        for span in spans(&parsed) {
            prop_assert!(text.get(span.start as usize..span.end as usize).is_some(), "{span:?} in {text:?}");
        }
        prop_assert!(!parsed.instructions.is_empty() || parsed.has_errors());
        for instruction in &parsed.instructions {
            prop_assert!(source.slice(instruction.span).starts_with(instruction.keyword.value.chars().next().unwrap()));
            prop_assert!(instruction.lines.0 <= instruction.lines.1);
        }
    }

    #[test]
    fn what_is_printed_is_understood_as_before(text in files()) {
        let (before, after) = printed(&text);
        prop_assert_eq!(after, before);
    }

    #[test]
    fn lowering_ends_with_a_plan_or_with_places_in_the_text(text in files()) {
        // Most random files begin without a stage.
        let text = format!("FROM b AS x\n{text}");
        let source = SourceFile::new("Dockerfile", text.as_str());
        let parsed = parse(&source);
        for diagnostic in lower(&source, &parsed) {
            let (start, end) = (diagnostic.span.start as usize, diagnostic.span.end as usize);
            prop_assert!(text.get(start..end).is_some(), "{diagnostic:?} in {text:?}");
        }
    }

    #[test]
    fn lines_below_a_mistake_are_still_understood(bad in "[A-Z]{8}[a-z ]{0,9}") {
        prop_assume!(!bad.starts_with("VOLUMES"));
        let text = format!("FROM b\n{bad}\nENV A=1\n");
        let parsed = parse(&SourceFile::new("Dockerfile", text));
        prop_assert!(matches!(parsed.instructions.last().map(|last| &last.kind), Some(Kind::Env(_))));
    }
}

#[test]
fn a_hostile_file_takes_no_quadratic_time() {
    // A search for the end mark per line would take 10^11 steps here.
    let text = format!("FROM b\n{}", "RUN a << X\n".repeat(100_000));
    let parsed = parse(&SourceFile::new("Dockerfile", text));
    assert_eq!(parsed.instructions.len(), 100_001);
    assert!(!parsed.has_errors());
}
