//! Files and graphs for people: one line an instruction, one line a stage.

use std::fmt::Write as _;

use frontend::instruction::{Instruction, Kind};
use frontend::lower::graph::{StageBase, StageEdges};

use super::File;
use super::graph::Target;
use crate::ui::escape;

/// The instructions of a file behind their lines, indented below their stage.
pub(super) fn instructions(file: &File) -> String {
    let mut text = String::new();
    let mut indent = "";
    for instruction in &file.parsed.instructions {
        let outer = matches!(instruction.kind, Kind::From(_));
        let here = if outer { "" } else { indent };
        append(
            &mut text,
            format_args!("{:<8}{here}{}", lines(instruction), shown(instruction)),
        );
        for heredoc in instruction.heredocs() {
            let lines = heredoc.data.lines().count();
            let name = escape::line(heredoc.name.value.as_bytes());
            append(&mut text, format_args!("{:<8}{here}  <<{name}: {lines} lines", ""));
        }
        if outer {
            indent = "  ";
        }
    }
    text
}

fn lines(instruction: &Instruction) -> String {
    match instruction.lines {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn shown(instruction: &Instruction) -> String {
    let keyword = instruction.keyword.value.to_ascii_uppercase();
    let text = escape::line(instruction.text.as_bytes());
    format!("{keyword} {text}").trim_end().to_owned()
}

/// What stages need, then what targets need.
pub(super) fn graph(names: &[Option<String>], edges: &[StageEdges], targets: &[Target]) -> String {
    let mut text = String::new();
    for (index, edges) in edges.iter().enumerate() {
        let base = match &edges.base {
            StageBase::Stage(parent) => called(names, *parent),
            StageBase::Image(image) => escape::line(image.as_bytes()),
        };
        append(&mut text, format_args!("{} from {base}", called(names, index)));
        for stage in &edges.stages {
            append(&mut text, format_args!("  reads {}", called(names, *stage)));
        }
        for image in &edges.images {
            append(&mut text, format_args!("  reads {}", escape::line(image.as_bytes())));
        }
    }
    for target in targets {
        let name = match target.name.as_str() {
            "" => "the last stage".to_owned(),
            name => format!("target {name}"),
        };
        let needs = match &target.answer {
            Ok(plan) => {
                let needed: Vec<String> = plan.stages.iter().map(|stage| called(names, *stage)).collect();
                format!("needs {}", needed.join(", "))
            }
            Err(_) => "cannot be built".to_owned(),
        };
        append(&mut text, format_args!("{name} {needs}"));
    }
    text
}

/// `stage 1 (build)`
pub(super) fn called(names: &[Option<String>], index: usize) -> String {
    match &names[index] {
        Some(name) => format!("stage {index} ({name})"),
        None => format!("stage {index}"),
    }
}

fn append(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("strings take all text");
}
