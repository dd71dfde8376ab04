//! `rbuild check`: what is wrong with a Dockerfile, and what is likely not meant. Asks no server.

mod github;
mod json;
mod sarif;
mod text;

use std::io::Read;
use std::path::Path;

use frontend::source::{SourceFile, Span};
use frontend::{Checked, Finding, LowerOptions};
use proto::entitlement::Entitlements;

use crate::args::{CheckArgs, CheckFormat};
use crate::dockerfile::{self, Description};
use crate::engine;
use crate::exit::{Blame, Problem};
use crate::ui;

/// Checks.
///
/// # Errors
/// The file is wrong; or it has warnings, and they were asked to be errors.
pub(crate) fn run(args: &CheckArgs, stdin: impl Read) -> Result<(), Problem> {
    let description = read(&args.file, stdin)?;
    let text = String::from_utf8_lossy(&description.dockerfile.bytes);
    let source = SourceFile::new(description.dockerfile.name, text);
    let ignore = description.ignore.as_ref().map(engine::patterns).transpose();
    let options = LowerOptions {
        ignore: ignore.map_err(Problem::usage)?,
        entitlements: Entitlements::all(),
        ..LowerOptions::new(engine::native_platform())
    };
    let checked = frontend::check(&source, &frontend::parse(&source), &options);
    let print = match args.format {
        CheckFormat::Text => text::print,
        CheckFormat::Json => json::print,
        CheckFormat::Sarif => sarif::print,
        CheckFormat::Github => github::print,
    };
    ui::result(&print(&checked, &source))?;
    // Remarks of ours are no checks: a file that passes everywhere else passes here.
    let warned = checked.warnings.iter().any(|finding| finding.rule.is_some());
    if !checked.errors.is_empty() || (args.error && warned) {
        return Err(Problem::told(Blame::User));
    }
    Ok(())
}

/// The Dockerfile under the name it is found by from here. A directory has an ignore file, a file has none.
fn read(path: &Path, stdin: impl Read) -> Result<Description, Problem> {
    if path == Path::new("-") {
        return Ok(Description {
            dockerfile: dockerfile::from_stream(stdin)?,
            ignore: None,
        });
    }
    if !path.is_dir() {
        let description = dockerfile::read(path.parent().unwrap_or(path), Some(path))?;
        return Ok(Description {
            ignore: None,
            ..description
        });
    }
    let mut description = dockerfile::read(path, None)?;
    let name = path.join(&description.dockerfile.name);
    let name = name.strip_prefix(".").unwrap_or(&name);
    description.dockerfile.name = name.display().to_string();
    Ok(description)
}

/// Line and column, both from 1; columns count characters.
fn position(source: &SourceFile, offset: u32) -> (u32, usize) {
    let before = source.slice(Span { start: 0, end: offset });
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (source.line(offset), before[line_start..].chars().count() + 1)
}

/// First position and the one behind the last character.
fn region(source: &SourceFile, finding: &Finding) -> Option<[(u32, usize); 2]> {
    let span = finding.diagnostic.span;
    finding.lines?;
    Some([position(source, span.start), position(source, span.end)])
}

/// Problems with their level: errors, checks, remarks of ours.
fn all(checked: &Checked) -> impl Iterator<Item = (Level, &Finding)> {
    let errors = checked.errors.iter().map(|finding| (Level::Error, finding));
    let warnings = checked.warnings.iter().map(|finding| match finding.rule {
        Some(_) => (Level::Warning, finding),
        None => (Level::Note, finding),
    });
    errors.chain(warnings)
}

/// How bad it is. The names are those of SARIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    Note,
}
