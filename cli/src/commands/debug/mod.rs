//! `rbuild debug`: what rbuild makes of a Dockerfile, a word, an ignore file. No server, no store, no network.
//!
//! The JSON is for programs and stays as it is; what is printed without `--json` is for people and may change.

pub(crate) mod args;
mod dot;
mod graph;
mod ignore;
mod instruction;
mod jsonl;
mod parse;
mod shell;
mod text;

use std::path::Path;

use frontend::diagnostic::{Diagnostic, Severity};
use frontend::source::SourceFile;
use frontend::{FirstError, Parsed};
use serde::Serialize;

use crate::dockerfile::{self, NamedText};
use crate::exit::{Blame, Problem};
use crate::ui::{self, snippet};
use args::DebugCommand;

/// Runs one of the commands.
pub(crate) fn run(command: &DebugCommand) -> Result<(), Problem> {
    match command {
        DebugCommand::Parse(args) => parse::run(args),
        DebugCommand::Graph(args) => graph::run(args),
        DebugCommand::Shell(_) => jsonl::answer_each(&shell::answer),
        DebugCommand::Ignore(_) => jsonl::answer_each(&ignore::answer),
    }
}

/// A Dockerfile and what was understood of it.
struct File {
    read: NamedText,
    source: SourceFile,
    parsed: Parsed,
}

/// Why a file has no answer.
#[derive(Debug, Serialize)]
struct Failure {
    message: String,
    line: u32,
}

/// The answer of a command that has none.
#[derive(Debug, Serialize)]
struct Failed {
    ok: bool,
    error: Failure,
}

impl File {
    fn read(path: &Path) -> Result<Self, Problem> {
        let read = if path == Path::new("-") {
            dockerfile::from_stream(std::io::stdin().lock())?
        } else {
            dockerfile::file(path)?
        };
        let source = SourceFile::new(read.name.clone(), String::from_utf8_lossy(&read.bytes));
        let mut parsed = frontend::parse(&source);
        // Another frontend would build it, but ours can say what it reads.
        parsed
            .diagnostics
            .retain(|diagnostic| diagnostic.code != "foreign-syntax");
        Ok(Self { read, source, parsed })
    }

    /// The first mistake as JSON.
    fn first(&self, diagnostics: &[Diagnostic]) -> Failure {
        let first = diagnostics
            .iter()
            .find(|diagnostic| diagnostic.severity == Severity::Error);
        first.map_or_else(
            || Failure {
                message: String::new(),
                line: 0,
            },
            |first| Failure {
                message: first.message.clone(),
                line: self.source.line(first.span.start),
            },
        )
    }

    /// Prints JSON that says why there is no answer.
    fn fail_in_json(error: Failure) -> Problem {
        match print_json(&Failed { ok: false, error }) {
            Ok(()) => Problem::told(Blame::User),
            Err(problem) => problem,
        }
    }

    /// Prints mistakes for people.
    fn fail(&self, diagnostics: &[Diagnostic]) -> Problem {
        for diagnostic in diagnostics {
            self.show(diagnostic);
        }
        Problem::told(Blame::User)
    }

    fn show(&self, diagnostic: &Diagnostic) {
        let word = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let drawing = snippet::Drawing {
            title: &format!("{word}[{}]", diagnostic.code),
            message: &diagnostic.message,
            start: diagnostic.span.start,
            end: diagnostic.span.end,
            line: self.source.line(diagnostic.span.start),
            notes: &diagnostic.notes,
            helps: &diagnostic.helps,
        };
        ui::remark(snippet::draw(&drawing, Some(&self.read)).trim_end());
    }
}

impl From<&FirstError> for Failure {
    fn from(error: &FirstError) -> Self {
        Self {
            message: error.message.clone(),
            line: error.line,
        }
    }
}

fn print_json(answer: &impl Serialize) -> Result<(), Problem> {
    ui::result(&format!("{}\n", json(answer)?))
}

fn json(answer: &impl Serialize) -> Result<String, Problem> {
    serde_json::to_string(answer).map_err(|error| Problem::new(Blame::Bug, format!("an answer is no JSON: {error}")))
}

/// Whether a member says nothing, so that it is left out.
fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
