//! `rbuild context ls`: what a build would read of its context, and why it would not read the rest. Asks no server.

use std::path::Path;

use frontend::LowerOptions;
use frontend::source::SourceFile;
use proto::entitlement::Entitlements;
use serde_json::{Value, json};

use super::images::table;
use crate::args::{ContextArgs, Format};
use crate::dockerfile::{self, Description, NamedText};
use crate::engine::{self, Fate, Listed};
use crate::exit::{Blame, Problem};
use crate::ui;
use crate::ui::{escape, plain::bytes};

/// Directories that are rarely meant to be part of an image.
const SUSPECTS: [&str; 2] = [".git", "node_modules"];

/// The parts of the answer, each with the largest first.
struct Answer {
    /// The ignore file, if there is one.
    ignore: Option<String>,
    sent: Vec<Listed>,
    excluded: Vec<Listed>,
    unused: Vec<Listed>,
}

/// Lists.
///
/// # Errors
/// There is no such directory, it can not be read, or the Dockerfile is wrong.
pub(crate) fn list(args: &ContextArgs) -> Result<(), Problem> {
    let root = &args.context;
    if !root.is_dir() {
        return Err(Problem::usage(format!("`{}` is not a directory", root.display())));
    }
    let (dockerfile, ignore) = describe(root, args.file.as_deref())?;
    let include = dockerfile.map(|file| selection(&file)).transpose()?;
    let patterns = ignore
        .as_ref()
        .map(engine::patterns)
        .transpose()
        .map_err(Problem::usage)?;
    let listed = engine::list(root, patterns.as_ref(), include.as_deref()).map_err(Problem::environment)?;
    let answer = Answer::new(listed, ignore.map(|file| file.name));
    match args.format.format {
        Format::Text => {
            ui::result(&answer.text(args.size))?;
            answer.remarks().iter().for_each(|remark| ui::remark(remark));
            Ok(())
        }
        Format::Json => ui::result(&format!("{}\n", answer.json())),
    }
}

/// The Dockerfile, if one is named or there, and the ignore file that goes with it.
fn describe(root: &Path, file: Option<&Path>) -> Result<(Option<NamedText>, Option<NamedText>), Problem> {
    let is_there = ["Dockerfile", "dockerfile"].iter().any(|name| root.join(name).exists());
    if file.is_none() && !is_there {
        return Ok((None, dockerfile::context_ignore(root)?));
    }
    let Description { dockerfile, ignore } = dockerfile::read(root, file)?;
    Ok((Some(dockerfile), ignore))
}

/// What the instructions of the last stage and of those that it needs ask for.
fn selection(file: &NamedText) -> Result<Vec<String>, Problem> {
    let source = SourceFile::new(file.name.clone(), String::from_utf8_lossy(&file.bytes));
    let options = LowerOptions {
        entitlements: Entitlements::all(),
        ..LowerOptions::new(engine::native_platform())
    };
    let plan = frontend::stub::lower_stubbed(&source, &frontend::parse(&source), &options).map_err(|errors| {
        let message = errors.first().map_or("it has an error", |error| error.message.as_str());
        let problem = Problem::new(Blame::User, format!("`{}`: {message}", file.name));
        problem.help("`rbuild check` shows where")
    })?;
    Ok(plan.selections().remove("context").unwrap_or_default())
}

impl Answer {
    fn new(listed: Vec<Listed>, ignore: Option<String>) -> Self {
        let mut answer = Self {
            ignore,
            sent: Vec::new(),
            excluded: Vec::new(),
            unused: Vec::new(),
        };
        for listed in listed {
            match listed.fate {
                // Directories are there for what they hold.
                Fate::Sent if listed.files == 0 => {}
                Fate::Sent => answer.sent.push(listed),
                Fate::Excluded { .. } => answer.excluded.push(listed),
                Fate::Unused => answer.unused.push(listed),
            }
        }
        for list in [&mut answer.sent, &mut answer.excluded, &mut answer.unused] {
            // Stable: equally large ones stay in order of paths.
            list.sort_by_key(|listed| std::cmp::Reverse(listed.size_bytes));
        }
        answer
    }

    fn text(&self, with_sizes: bool) -> String {
        let row = |listed: &Listed, why: String| {
            let size = if with_sizes {
                bytes(listed.size_bytes)
            } else {
                String::new()
            };
            [size, shown(listed), why]
        };
        let mut rows: Vec<[String; 3]> = self.sent.iter().map(|listed| row(listed, String::new())).collect();
        let name = self.ignore.as_deref().unwrap_or_default();
        for listed in &self.excluded {
            if let Fate::Excluded { pattern, line } = &listed.fate {
                let pattern = escape::line(pattern.as_bytes());
                rows.push(row(listed, format!("excluded by `{pattern}`, {name} line {line}")));
            }
        }
        rows.extend(
            self.unused
                .iter()
                .map(|listed| row(listed, "not copied by any instruction".to_owned())),
        );
        let mut text = match with_sizes {
            true => table(rows, ["SIZE", "PATH", "LEFT OUT"]),
            false => table(
                rows.into_iter().map(|[_, path, why]| [path, why]).collect(),
                ["PATH", "LEFT OUT"],
            ),
        };
        text.push_str(&format!("a build reads {}\n", total(&self.sent)));
        text
    }

    fn remarks(&self) -> Vec<String> {
        let below = |listed: &Listed, name: &str| listed.path.components().any(|part| part == name.as_bytes());
        let found = SUSPECTS
            .iter()
            .filter(|name| self.sent.iter().any(|listed| below(listed, name)));
        found
            .map(|name| {
                format!("help: `{name}` is part of it; if it is not needed, add `**/{name}` to the ignore file")
            })
            .collect()
    }

    fn json(&self) -> Value {
        let plain = |listed: &Listed| {
            json!({
                "path": listed.path.to_string(), "size_bytes": listed.size_bytes, "files": listed.files,
            })
        };
        let excluded = |listed: &Listed| {
            let mut value = plain(listed);
            if let Fate::Excluded { pattern, line } = &listed.fate {
                value["pattern"] = pattern.as_str().into();
                value["line"] = (*line).into();
            }
            value
        };
        json!({
            "ignore_file": self.ignore,
            "size_bytes": size(&self.sent),
            "sent": self.sent.iter().map(plain).collect::<Vec<_>>(),
            "excluded": self.excluded.iter().map(excluded).collect::<Vec<_>>(),
            "unused": self.unused.iter().map(plain).collect::<Vec<_>>(),
        })
    }
}

fn size(list: &[Listed]) -> u64 {
    list.iter().map(|listed| listed.size_bytes).sum()
}

fn total(list: &[Listed]) -> String {
    let files: u64 = list.iter().map(|listed| listed.files).sum();
    let word = if files == 1 { "file" } else { "files" };
    format!("{files} {word}, {}", bytes(size(list)))
}

/// A path; with the number of files if it stands for several.
fn shown(listed: &Listed) -> String {
    let path = escape::line(listed.path.as_bytes());
    match (listed.files, &listed.fate) {
        (0 | 1, _) | (_, Fate::Sent) => path,
        (files, _) => format!("{path}/ ({files} files)"),
    }
}
