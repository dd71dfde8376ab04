//! `rbuild build --call` and `--check`: questions about a Dockerfile, answered in the texts and JSON of other builders.
//!
//! Nothing is built and no server is asked: base images are stubs.

mod describe;
mod lint;
mod outline;
mod table;

use std::collections::BTreeMap;

use frontend::diagnostic::Diagnostic;
use frontend::source::{SourceFile, Span};
use frontend::{LowerOptions, NamedContext, Parsed};
use proto::entitlement::Entitlements;
use proto::platform::Platform;
use proto::v1;
use serde::Serialize;

use crate::args::CallArgs;
use crate::dockerfile::NamedText;
use crate::engine;
use crate::exit::{Blame, Problem};
use crate::request::Build;
use crate::ui;
use crate::ui::snippet::{Drawing, draw};
use crate::values;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    method: Method,
    json: bool,
    /// Succeed even if the answer is bad news.
    ignore_status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
    Describe,
}

/// A Dockerfile with what a build would make of it.
struct Subject {
    source: SourceFile,
    parsed: Parsed,
    options: LowerOptions,
}

impl Call {
    /// The question in the flags; nothing if they ask for a build.
    pub(crate) fn parse(args: &CallArgs) -> Result<Option<Self>, Problem> {
        let text = match (&args.call, args.check) {
            (Some(text), _) => text.as_str(),
            (None, true) => "check",
            (None, false) => return Ok(None),
        };
        let mut call = Self {
            method: Method::Check,
            json: false,
            ignore_status: false,
        };
        let mut name = None;
        for field in values::csv(text)? {
            match field.split_once('=') {
                Some(("format", "json")) => call.json = true,
                Some(("format", "text")) => call.json = false,
                Some(("ignorestatus", value)) => call.ignore_status = values::boolean("ignorestatus", value)?,
                Some(_) => {
                    return Err(Problem::usage(format!(
                        "--call: `{field}` in `{text}` is not supported"
                    )));
                }
                None if name.is_none() => name = Some(field),
                None => return Err(Problem::usage(format!("--call: `{text}` has more than one method"))),
            }
        }
        call.method = match name.as_deref().unwrap_or_default() {
            "build" => return Ok(None),
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            "subrequests.describe" => Method::Describe,
            other => {
                return Err(Problem::usage(format!("--call: there is no method `{other}`"))
                    .help("methods are check, outline, targets and subrequests.describe"));
            }
        };
        Ok(Some(call))
    }

    /// Prints the answer.
    ///
    /// # Errors
    /// The Dockerfile is wrong, or has warnings.
    pub(crate) fn answer(self, build: &Build) -> Result<(), Problem> {
        let subject = Subject::new(build)?;
        match self.method {
            Method::Check => lint::answer(self, &subject),
            Method::Outline => outline::outline(self, &subject),
            Method::Targets => outline::targets(self, &subject),
            Method::Describe => describe::answer(self),
        }
    }

    /// The answer as JSON, or as text.
    fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Problem> {
        if !self.json {
            return ui::result(&text());
        }
        let json = serde_json::to_string_pretty(value);
        let json = json.map_err(|error| Problem::new(Blame::Bug, format!("an answer is no JSON: {error}")))?;
        ui::result(&format!("{json}\n"))
    }
}

impl Subject {
    fn new(build: &Build) -> Result<Self, Problem> {
        let description = build.session.description.as_ref();
        let description = description.ok_or_else(|| {
            Problem::usage("`--check` and `--call` need a Dockerfile on this machine, and this context is elsewhere")
                .help("fetch it first, or pass the Dockerfile on stdin with `-f -`")
        })?;
        let text = String::from_utf8_lossy(&description.dockerfile.bytes);
        let source = SourceFile::new(description.dockerfile.name.clone(), text);
        let ignore = description.ignore.as_ref().map(engine::patterns).transpose();
        let request = &build.request;
        Ok(Self {
            parsed: frontend::parse(&source),
            source,
            options: LowerOptions {
                target: Some(request.target.clone()).filter(|target| !target.is_empty()),
                build_args: request.build_args.clone().into_iter().collect(),
                contexts: contexts(request),
                source_date_epoch: request.source_date_epoch,
                ignore: ignore.map_err(Problem::usage)?,
                // What may run is a question for builds.
                entitlements: Entitlements::all(),
                ..LowerOptions::new(platform(request)?)
            },
        })
    }

    /// Tells why there is no answer.
    fn failed(&self, errors: &[Diagnostic]) -> Problem {
        let file = NamedText {
            name: self.source.name.clone(),
            bytes: self.source.text.clone().into_bytes(),
        };
        for error in errors {
            let drawing = Drawing {
                title: "error",
                message: &error.message,
                start: error.span.start,
                end: error.span.end,
                line: match error.span == Span::default() {
                    true => 0,
                    false => self.source.line(error.span.start),
                },
                notes: &error.notes,
                helps: &error.helps,
            };
            ui::remark(draw(&drawing, Some(&file)).trim_end());
        }
        Problem::told(Blame::User)
    }
}

fn platform(request: &v1::SubmitRequest) -> Result<Platform, Problem> {
    match request.platforms.first().filter(|text| !text.is_empty()) {
        Some(text) => text
            .parse()
            .map_err(|error: proto::platform::PlatformError| Problem::usage(error.to_string())),
        None => Ok(engine::native_platform()),
    }
}

/// Named contexts as far as they matter here: whether there are files or an image behind them.
fn contexts(request: &v1::SubmitRequest) -> BTreeMap<String, NamedContext> {
    use v1::named_context::Kind;
    let context = |(name, context): (&String, &v1::NamedContext)| {
        let kind = match &context.kind {
            Some(Kind::Image(reference)) => NamedContext::Image(reference.clone()),
            Some(Kind::OciLayout(_)) => NamedContext::Image(format!("oci-layout://{name}")),
            Some(Kind::Local(_) | Kind::Git(_) | Kind::Http(_)) | None => NamedContext::Local,
        };
        (name.clone(), kind)
    };
    request.contexts.iter().map(context).collect()
}

/// Lines of an instruction, as other builders write them: a range a line.
#[derive(Debug, Serialize)]
struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Debug, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Serialize)]
struct Position {
    line: u32,
}

impl Location {
    fn new(lines: Option<(u32, u32)>) -> Self {
        let lines = lines.into_iter().flat_map(|(first, last)| first..=last);
        let range = |line| Range {
            start: Position { line },
            end: Position { line },
        };
        Self {
            ranges: lines.map(range).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Call>, Problem> {
        Call::parse(&CallArgs {
            call: Some(text.to_owned()),
            check: false,
        })
    }

    #[test]
    fn a_method_comes_with_a_format() {
        let call = parse("format=json,outline").unwrap().unwrap();
        assert_eq!((call.method, call.json), (Method::Outline, true));
        assert_eq!(parse("lint").unwrap().unwrap().method, Method::Check);
        assert!(parse("check,ignorestatus=true").unwrap().unwrap().ignore_status);
        assert_eq!(parse("build").unwrap(), None);
    }

    #[test]
    fn nothing_of_a_call_is_ignored() {
        for (text, words) in [
            ("magic", "no method `magic`"),
            ("check,format=xml", "`format=xml`"),
            ("check,outline", "more than one"),
            ("", "no method"),
        ] {
            let message = parse(text).unwrap_err().message;
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
