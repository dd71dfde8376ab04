//! Events to text. The only place that prints: results go to stdout, everything else to stderr.

pub(crate) mod escape;
pub(crate) mod json;
#[cfg(test)]
mod messages;
pub(crate) mod plain;
pub(crate) mod snippet;
pub(crate) mod steps;
pub(crate) mod tty;

use std::io::{self, Write};

use proto::v1;
use proto::v1::diagnostic::Severity;
use proto::v1::event::Kind;

use crate::config::{Display, Progress};
use crate::dockerfile::NamedText;
use crate::exit::Problem;
use snippet::Drawing;

/// Prints a line about what happens to the user's command.
pub(crate) fn remark(text: &str) {
    // Without a stderr there is nobody to tell.
    drop(writeln!(io::stderr(), "{text}"));
}

/// Prints the words of a problem.
pub(crate) fn problem(problem: &Problem) {
    // As above; the exit code still says it.
    drop(write!(io::stderr(), "{}", problem.text()));
}

/// Prints a result.
///
/// # Errors
/// Stdout is closed or full: the result is lost, and that is a failure.
pub(crate) fn result(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Problem::environment(format!("stdout: {error}")))
}

/// Shows the events of one build.
pub(crate) struct Screen<W> {
    source: Option<NamedText>,
    out: W,
    display: Display,
    view: View,
    /// Mistakes that were told and not shown yet: one of them comes as the failure, and all are shown in the order of the file.
    mistakes: Vec<v1::Diagnostic>,
}

enum View {
    Plain(plain::Plain),
    Tty(tty::Live),
    Json,
    RawJson(json::RawJson),
    Quiet,
}

impl<W: Write> Screen<W> {
    /// A screen that writes to `out`; `source` is the Dockerfile, for excerpts.
    pub(crate) fn new(display: Display, source: Option<NamedText>, out: W) -> Self {
        let view = match display.progress {
            Progress::Plain => View::Plain(plain::Plain::new(display.terminal)),
            Progress::Tty => View::Tty(tty::Live::new(display.colour)),
            Progress::Quiet => View::Quiet,
            Progress::Json => View::Json,
            Progress::RawJson => View::RawJson(json::RawJson::default()),
        };
        Self {
            source,
            out,
            display,
            view,
            mistakes: Vec::new(),
        }
    }

    /// Shows one event.
    ///
    /// # Errors
    /// Nobody reads: the caller goes on, the build is not the screen's.
    pub(crate) fn show(&mut self, event: &v1::Event) -> io::Result<()> {
        match &mut self.view {
            View::Plain(plain) => plain.show(event, &mut self.out)?,
            View::Tty(live) => live.show(event)?,
            View::Json => writeln!(self.out, "{}", json::event(event))?,
            View::RawJson(raw) => raw.show(event, &mut self.out)?,
            View::Quiet => {}
        }
        match &event.kind {
            Some(Kind::Diagnostic(diagnostic)) if self.is_text() => {
                if diagnostic.severity() == Severity::Error {
                    self.mistakes.push(diagnostic.clone());
                    return Ok(());
                }
                self.text(&diagnostic_text(diagnostic, self.source.as_ref()))
            }
            Some(Kind::Finished(v1::Finished {
                outcome: Some(v1::finished::Outcome::Failure(failure)),
            })) => self.failure(failure),
            Some(_) => self.all_mistakes(|_| true),
            None => Ok(()),
        }
    }

    /// The failure among the mistakes, in the order of the file; what has no place comes last.
    fn failure(&mut self, failure: &v1::Failure) -> io::Result<()> {
        let at = (failure.line == 0, failure.line, failure.start);
        self.all_mistakes(|found| (found.line == 0, found.line, found.start) <= at)?;
        self.text(&failure_text(failure, self.source.as_ref()))?;
        self.all_mistakes(|_| true)
    }

    fn all_mistakes(&mut self, shown_now: impl Fn(&v1::Diagnostic) -> bool) -> io::Result<()> {
        let (now, later) = std::mem::take(&mut self.mistakes).into_iter().partition(shown_now);
        self.mistakes = later;
        let now: Vec<v1::Diagnostic> = now;
        now.iter()
            .try_for_each(|found| self.text(&diagnostic_text(found, self.source.as_ref())))
    }

    fn is_text(&self) -> bool {
        !matches!(self.view, View::Json | View::RawJson(_))
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        let coloured = if self.display.colour {
            colour(text)
        } else {
            text.to_owned()
        };
        match &self.view {
            View::Tty(live) => live.print(&coloured),
            // In the middle of JSON lines a failure is on the stream already, as an event.
            View::Json => Ok(()),
            View::Plain(_) | View::RawJson(_) | View::Quiet => self.out.write_all(coloured.as_bytes()),
        }
    }
}

/// The first word in red or yellow.
fn colour(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| match line.split_once(':') {
        Some((word, rest)) if word == "error" || word.starts_with("error[") => {
            format!("\x1b[1;31m{word}\x1b[0m:{rest}")
        }
        Some((word, rest)) if word.starts_with("warning") => format!("\x1b[1;33m{word}\x1b[0m:{rest}"),
        _ => line.to_owned(),
    });
    lines.collect()
}

fn diagnostic_text(diagnostic: &v1::Diagnostic, source: Option<&NamedText>) -> String {
    let word = match diagnostic.severity() {
        Severity::Error => "error",
        Severity::Warning | Severity::Unspecified => "warning",
    };
    let title = match diagnostic.code.as_str() {
        "" => word.to_owned(),
        code => format!("{word}[{code}]"),
    };
    let drawing = Drawing {
        title: &title,
        message: &diagnostic.message,
        start: diagnostic.start,
        end: diagnostic.end,
        line: diagnostic.line,
        notes: &diagnostic.notes,
        helps: &diagnostic.helps,
    };
    snippet::draw(&drawing, source)
}

/// The failed step with its last lines, then what went wrong and where.
pub(crate) fn failure_text(failure: &v1::Failure, source: Option<&NamedText>) -> String {
    let mut text = String::new();
    if !failure.log_tail.is_empty() {
        text.push_str("------\n");
        text.push_str(&format!(" > {}:\n", escape::line(failure.step.as_bytes())));
        for line in &failure.log_tail {
            text.push_str(&escape::line(line.as_bytes()));
            text.push('\n');
        }
        text.push_str("------\n");
    }
    let drawing = Drawing {
        title: "error",
        message: &failure.message,
        start: failure.start,
        end: failure.end,
        line: failure.line,
        notes: &failure.notes,
        helps: &failure.helps,
    };
    text.push_str(&snippet::draw(&drawing, source));
    text
}
