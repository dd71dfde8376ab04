//! `rbuild debug parse`: the instructions of a file, stage by stage, nothing expanded.

use frontend::Directives;
use frontend::instruction::{Kind, Word};
use frontend::stages::{Stage, Stages};
use serde::Serialize;

use super::args::ParseArgs;
use super::instruction::InstructionJson;
use super::{File, is_empty, print_json, text};
use crate::exit::Problem;
use crate::ui;

/// A whole file.
#[derive(Debug, Serialize)]
struct FileJson<'a> {
    ok: bool,
    escape: char,
    #[serde(skip_serializing_if = "is_empty")]
    directives: DirectivesJson<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    meta_args: Vec<InstructionJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<StageJson<'a>>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct DirectivesJson<'a> {
    #[serde(skip_serializing_if = "is_empty")]
    syntax: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    escape: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    check: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct StageJson<'a> {
    index: usize,
    #[serde(skip_serializing_if = "is_empty")]
    name: Option<String>,
    base: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    platform: Option<&'a str>,
    lines: (u32, u32),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    instructions: Vec<InstructionJson<'a>>,
}

/// Shows the file.
///
/// # Errors
/// The file has mistakes; they were printed.
pub(super) fn run(args: &ParseArgs) -> Result<(), Problem> {
    let file = File::read(&args.file)?;
    match (&file.parsed.first_error, args.json) {
        (Some(error), true) => Err(File::fail_in_json(error.into())),
        (Some(_), false) => Err(file.fail(&file.parsed.diagnostics)),
        (None, true) => print_json(&file_json(&file)),
        (None, false) => ui::result(&text::instructions(&file)),
    }
}

fn file_json(file: &File) -> FileJson<'_> {
    let instructions = &file.parsed.instructions;
    let stages = Stages::split(instructions);
    let globals = instructions
        .iter()
        .take_while(|instruction| !matches!(instruction.kind, Kind::From(_)));
    FileJson {
        ok: true,
        escape: file.parsed.escape,
        directives: directives(&file.parsed.directives),
        meta_args: globals.map(InstructionJson::from).collect(),
        stages: stages
            .list
            .iter()
            .enumerate()
            .map(|(index, stage)| stage_json(index, stage))
            .collect(),
    }
}

fn value(word: Option<&Word>) -> Option<&str> {
    word.map(|word| word.value.as_str())
}

fn directives(written: &Directives) -> DirectivesJson<'_> {
    DirectivesJson {
        syntax: value(written.syntax.as_ref()),
        escape: value(written.escape.as_ref()),
        check: value(written.check.as_ref()),
    }
}

fn stage_json<'a>(index: usize, stage: &Stage<'a>) -> StageJson<'a> {
    StageJson {
        index,
        name: stage.name.clone(),
        base: &stage.from.base.value,
        platform: value(stage.from.platform.as_ref()),
        lines: stage.instruction.lines,
        instructions: stage.body.iter().map(InstructionJson::from).collect(),
    }
}
