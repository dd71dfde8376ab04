//! Logical lines to instructions: one function per keyword, and what is wrong with the file as a whole.

mod flags;
mod first_error;
mod form;
mod heredoc;
mod run;
mod device;
mod copy;
mod health;
mod simple;

use crate::diagnostic::{Diagnostic, Severity};
use crate::directives::Directives;
use crate::instruction::{Heredoc, Instruction, Kind};
use crate::scan::Scanner;
use crate::source::{SourceFile, Span};
use crate::suggest;
use crate::text::{Piece, is_separator};
pub use first_error::FirstError;
use first_error::FirstErrors;
use flags::FlagWord;
pub(crate) use flags::switch;
use heredoc::Opener;

/// What is known of a Dockerfile from its text alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What the top of the file says.
    pub directives: Directives,
    /// The escape character in force.
    pub escape: char,
    /// What was understood, in order. Instructions with a mistake are missing.
    pub instructions: Vec<Instruction>,
    /// Mistakes and warnings, in order of their place.
    pub diagnostics: Vec<Diagnostic>,
    /// Where a builder stops that reports one mistake only.
    pub first_error: Option<FirstError>,
}

impl Parsed {
    /// Whether some diagnostic is an error: there is no build then.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

const KEYWORDS: [&str; 18] = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "LABEL",
    "CMD",
    "ENTRYPOINT",
    "WORKDIR",
    "USER",
    "EXPOSE",
    "VOLUME",
    "SHELL",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ONBUILD",
    "MAINTAINER",
];

/// Reads a Dockerfile. Never fails and never stops at a mistake: see [`Parsed::diagnostics`].
#[must_use]
pub fn parse(source: &SourceFile) -> Parsed {
    let mut diagnostics = Vec::new();
    let (directives, directive_lines) = Directives::read(source, &mut diagnostics);
    let escape = directives.escape_char();
    let mut parser = Parser {
        source,
        scanner: Scanner::new(source, escape, directive_lines),
        escape,
        diagnostics,
        first: FirstErrors::default(),
        stage: Stage::None,
    };
    let instructions = parser.run();
    let Parser {
        mut diagnostics, first, ..
    } = parser;
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    Parsed {
        directives,
        escape,
        instructions,
        diagnostics,
        first_error: first.first(),
    }
}

/// How far the file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing yet.
    None,
    /// Instructions, but none that opens a stage.
    Outside,
    /// That an instruction stands outside of any stage was said.
    Complained,
    /// A `FROM`, or what was meant to be one.
    Open,
}

struct Parser<'a> {
    source: &'a SourceFile,
    scanner: Scanner<'a>,
    escape: char,
    diagnostics: Vec<Diagnostic>,
    first: FirstErrors,
    stage: Stage,
}

/// One instruction, taken apart as far as its keyword does not matter.
struct Statement<'a> {
    /// In upper case.
    keyword: &'static str,
    /// Where the keyword stands: the place to blame for what is missing.
    place: Span,
    flags: Vec<FlagWord<'a>>,
    /// Everything after the flags.
    rest: Piece<'a>,
    heredocs: Vec<(Opener<'a>, Heredoc)>,
    escape: char,
}

impl Statement<'_> {
    fn error(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, self.place, message)
    }

    fn needs_an_argument(&self) -> Diagnostic {
        self.error(
            "missing-argument",
            format!("{} requires at least one argument", self.keyword),
        )
    }
}

impl Parser<'_> {
    fn run(&mut self) -> Vec<Instruction> {
        let mut instructions = Vec::new();
        self.first.note(self.source, 0, &self.diagnostics);
        let mut seen = self.diagnostics.len();
        while let Some(line) = self.scanner.next_line(&mut self.diagnostics) {
            let whole = line.joined.piece();
            self.watch_stage(whole.trim());
            match self.instruction(whole, line.joined.start(), line.comments) {
                Ok(instruction) => instructions.push(instruction),
                Err(diagnostic) => self.diagnostics.push(diagnostic),
            }
            let start = Span::new(line.joined.start(), line.joined.start()).start;
            self.first
                .note(self.source, self.source.line(start), &self.diagnostics[seen..]);
            seen = self.diagnostics.len();
        }
        self.check_file();
        self.first.note(self.source, 0, &self.diagnostics[seen..]);
        instructions
    }

    /// Only `ARG` may stand outside of a stage. A misspelt `FROM` counts as one, or every line below it would be blamed.
    fn watch_stage(&mut self, line: Piece<'_>) {
        let (keyword, _) = split_keyword(line);
        let word = keyword.as_str();
        let known = known(word);
        let meant = known.or_else(|| suggest::nearest(word, KEYWORDS));
        self.stage = match (self.stage, meant, known) {
            (Stage::Open, _, _) | (_, Some("FROM"), _) => Stage::Open,
            (Stage::None | Stage::Outside, _, Some(name)) if name != "ARG" => {
                let diagnostic =
                    Diagnostic::error("outside-stage", keyword.span(), "no build stage in current context")
                        .note(format!("`{name}` stands before the first `FROM`"))
                        .help("begin the file with `FROM <image>`; only `ARG` may stand before it");
                self.diagnostics.push(diagnostic);
                Stage::Complained
            }
            (Stage::Complained, _, _) => Stage::Complained,
            (_, _, None) => Stage::Complained,
            _ => Stage::Outside,
        };
    }

    fn check_file(&mut self) {
        let end = self.source.text.trim_end().len();
        let (code, message) = match self.stage {
            _ if self.source.text.is_empty() => ("empty-file", "the Dockerfile cannot be empty"),
            Stage::None => ("no-instructions", "file with no instructions"),
            Stage::Outside => ("no-stage", "dockerfile contains no stages to build"),
            Stage::Complained | Stage::Open => return,
        };
        let span = if self.stage == Stage::None {
            Span::new(0, 0)
        } else {
            Span::new(end, end)
        };
        self.diagnostics
            .push(Diagnostic::error(code, span, message).help("add `FROM <image>`, or `FROM scratch`"));
    }

    /// `whole` begins with the keyword, blanks aside; its first line begins at `start`.
    fn instruction(
        &mut self,
        whole: Piece<'_>,
        start: usize,
        comments: Vec<String>,
    ) -> Result<Instruction, Diagnostic> {
        let line = whole.trim();
        let (keyword, arguments) = split_keyword(line);
        let kind = self.kind(keyword, arguments, whole.behind(keyword).trim_start())?;
        let span = line.span();
        let last_end = self.scanner.last_end();
        let text = self.source.slice(Span::new(span.start as usize, last_end)).trim_end();
        Ok(Instruction {
            keyword: keyword.word(),
            span: Span::new(span.start as usize, span.start as usize + text.len()),
            lines: (
                self.source.line(Span::new(start, start).start),
                self.source.line(Span::new(last_end, last_end).start),
            ),
            text: arguments.as_str().to_owned(),
            comments,
            kind,
        })
    }

    /// `verbatim` are the arguments with the blanks behind them.
    fn kind(&mut self, keyword: Piece<'_>, arguments: Piece<'_>, verbatim: Piece<'_>) -> Result<Kind, Diagnostic> {
        let name = known(keyword.as_str());
        let meant = name.or_else(|| suggest::nearest(keyword.as_str(), KEYWORDS));
        let (flags, rest) = flags::split(arguments, self.escape);
        // Bodies go first: whatever else is wrong with this instruction, they are no instructions.
        let heredocs = match meant {
            Some("RUN" | "COPY" | "ADD") => self.heredocs(rest),
            _ => Ok(Vec::new()),
        };
        let Some(name) = name else {
            return Err(unknown_instruction(keyword, meant));
        };
        let heredocs = heredocs?;
        if name == "ONBUILD" {
            flags::Flags::check(&flags, &[])?;
            return self.onbuild(keyword.span(), rest, verbatim);
        }
        let statement = Statement {
            keyword: name,
            place: keyword.span(),
            flags,
            rest,
            heredocs,
            escape: self.escape,
        };
        match name {
            "FROM" => simple::from(&statement),
            "RUN" => run::run(&statement),
            "COPY" => copy::copy(&statement),
            "ADD" => copy::add(&statement),
            "HEALTHCHECK" => health::healthcheck(&statement),
            "ARG" => simple::arg(&statement),
            // What follows has no flags; `STOPSIGNAL` alone does not mind some.
            "STOPSIGNAL" => simple::text(&statement).map(Kind::StopSignal),
            _ => {
                let kind = simple::flagless(&statement);
                match kind {
                    Err(error) if first_error::is_of_shape(&error) => Err(error),
                    kind => flags::Flags::check(&statement.flags, &[]).and(kind),
                }
            }
        }
    }

    fn heredocs<'p>(&mut self, rest: Piece<'p>) -> Result<Vec<(Opener<'p>, Heredoc)>, Diagnostic> {
        // A wrong array is blamed later, and has no heredocs either way.
        if !matches!(form::json(rest), Ok(None)) {
            return Ok(Vec::new());
        }
        let mut heredocs = Vec::new();
        for opener in heredoc::openers(rest, |name| self.scanner.has_end_mark(name)) {
            let name = opener.name.value.clone();
            let Some(body) = self.scanner.take_body(&name, opener.chomp, &mut self.diagnostics) else {
                let error = Diagnostic::error("unterminated-heredoc", opener.piece.span(), "unterminated heredoc");
                return Err(error.help(format!("end the text with a line that is only `{name}`")));
            };
            let heredoc = Heredoc {
                name: opener.name.clone(),
                opener: opener.piece.as_str().to_owned(),
                data: body.data,
                written: self.source.slice(body.span).to_owned(),
                data_span: body.span,
                expand: opener.expand,
                chomp: opener.chomp,
            };
            heredocs.push((opener, heredoc));
        }
        Ok(heredocs)
    }

    /// The inner instruction is parsed here, so that its mistakes show now. Those that do not blur where it ends are warnings:
    /// the image can be built, only not built upon.
    fn onbuild(&mut self, place: Span, rest: Piece<'_>, verbatim: Piece<'_>) -> Result<Kind, Diagnostic> {
        if rest.is_empty() {
            return Err(Diagnostic::error(
                "missing-argument",
                place,
                "ONBUILD requires at least one argument",
            ));
        }
        let (keyword, _) = split_keyword(rest);
        let refusal = match known(keyword.as_str()) {
            Some("ONBUILD") => Some("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
            Some(name @ ("FROM" | "MAINTAINER")) => Some(format!("{name} isn't allowed as an ONBUILD trigger")),
            _ => None,
        };
        if let Some(message) = refusal {
            return Err(Diagnostic::error("onbuild-trigger", keyword.span(), message));
        }
        let inner = match self.instruction(rest, place.start as usize, Vec::new()) {
            Err(error) if first_error::is_of_shape(&error) => return Err(error),
            inner => inner,
        };
        let mut text = verbatim.word();
        for heredoc in inner.as_ref().map_or(&[][..], Instruction::heredocs) {
            text.value
                .push_str(&format!("\n{}{}", heredoc.written, heredoc.name.value));
        }
        if let Err(error) = &inner {
            let message = format!("no build from this image can run this trigger: {}", error.message);
            let warning = Diagnostic::warning("broken-trigger", error.span, message);
            self.diagnostics.push(Diagnostic {
                helps: error.helps.clone(),
                ..warning
            });
        }
        Ok(Kind::Onbuild {
            text,
            inner: inner.map(Box::new).map_err(Box::new),
        })
    }
}

/// The keyword, and what follows.
fn split_keyword(line: Piece<'_>) -> (Piece<'_>, Piece<'_>) {
    let at = line.as_str().find(is_separator).unwrap_or(line.as_str().len());
    let (keyword, arguments) = line.split_at(at);
    (keyword, arguments.trim())
}

fn known(keyword: &str) -> Option<&'static str> {
    KEYWORDS.into_iter().find(|name| name.eq_ignore_ascii_case(keyword))
}

fn unknown_instruction(keyword: Piece<'_>, meant: Option<&str>) -> Diagnostic {
    let written = keyword.as_str();
    let message = match meant {
        Some(name) => format!("unknown instruction: {written} (did you mean {name}?)"),
        None => format!("unknown instruction: {written}"),
    };
    let diagnostic = Diagnostic::error("unknown-instruction", keyword.span(), message);
    match meant {
        Some(_) => diagnostic,
        None => diagnostic.help("if this line belongs to the one above, end that one with the escape character"),
    }
}
