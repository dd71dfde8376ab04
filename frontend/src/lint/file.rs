//! Checks that need only the shape of a file: nothing expanded, reachable or not.

use std::collections::BTreeMap;

use super::fix;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, Kind, Word};
use crate::parse::Parsed;
use crate::stages::{Stage, Stages};

/// Names of stages that mean something else.
const RESERVED: [&str; 2] = ["scratch", "context"];

/// Runs the checks.
pub(crate) fn check(parsed: &Parsed, stages: &Stages<'_>, warnings: &mut Vec<Diagnostic>) {
    check_keyword_case(parsed, warnings);
    for instruction in &parsed.instructions {
        check_instruction(instruction, warnings);
    }
    let mut names = BTreeMap::new();
    for stage in &stages.list {
        check_name(stage, &mut names, warnings);
    }
}

fn check_instruction(instruction: &Instruction, warnings: &mut Vec<Diagnostic>) {
    match &instruction.kind {
        Kind::Maintainer(author) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            let label = format!(
                "LABEL org.opencontainers.image.authors={}",
                fix::value(&author.value, '\\')
            );
            warnings.push(
                Diagnostic::warning("MaintainerDeprecated", instruction.keyword.span, message)
                    .help(format!("write `{label}`")),
            );
        }
        Kind::From(from) => {
            if let (Some(keyword), Some(name)) = (&from.as_keyword, &from.name) {
                check_as(keyword, &instruction.keyword, warnings);
                check_description("FROM", &[&name.value.to_ascii_lowercase()], instruction, warnings);
            }
        }
        Kind::Arg(args) => {
            let names: Vec<&str> = args.iter().map(|arg| arg.name.value.as_str()).collect();
            check_description("ARG", &names, instruction, warnings);
        }
        _ => {}
    }
}

fn is_lower(text: &str) -> bool {
    text == text.to_lowercase()
}

fn is_upper(text: &str) -> bool {
    text == text.to_uppercase()
}

/// A `FROM` in mixed case fits no `AS`; that it is in mixed case is told elsewhere.
fn check_as(keyword: &Word, from: &Word, warnings: &mut Vec<Diagnostic>) {
    let (fits, wanted) = match &from.value {
        text if is_lower(text) => (is_lower(&keyword.value), "as"),
        text if is_upper(text) => (is_upper(&keyword.value), "AS"),
        _ => return,
    };
    if !fits {
        let message = format!("'{}' and '{}' keywords' casing do not match", keyword.value, from.value);
        warnings.push(Diagnostic::warning("FromAsCasing", keyword.span, message).help(format!("write `{wanted}`")));
    }
}

/// The last line of the comment above must begin with one of the names.
fn check_description(keyword: &str, names: &[&str], instruction: &Instruction, warnings: &mut Vec<Diagnostic>) {
    let Some(comment) = instruction.comments.last() else {
        return;
    };
    let first = comment.split(' ').next().unwrap_or_default();
    if names.is_empty() || names.contains(&first) {
        return;
    }
    let example = if let [name] = names { *name } else { "<arg_key>" };
    let message = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    warnings.push(
        Diagnostic::warning("InvalidDefinitionDescription", instruction.keyword.span, message)
            .help("if the comment is about something else, end it with a line that is only `#`"),
    );
}

fn check_name<'a>(stage: &Stage<'a>, names: &mut BTreeMap<String, u32>, warnings: &mut Vec<Diagnostic>) {
    let (Some(written), Some(name)) = (&stage.from.name, &stage.name) else {
        return;
    };
    if written.value != *name {
        let message = format!("Stage name '{}' should be lowercase", written.value);
        warnings.push(Diagnostic::warning("StageNameCasing", written.span, message).help(format!("write `{name}`")));
    }
    if RESERVED.contains(&name.as_str()) {
        let message = format!("Stage name should not use the same name as reserved stage \"{name}\"");
        warnings
            .push(Diagnostic::warning("ReservedStageName", written.span, message).help("give the stage another name"));
    }
    if let Some(first) = names.get(name) {
        let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
        warnings.push(
            Diagnostic::warning("DuplicateStageName", written.span, message)
                .note(format!(
                    "the other one is on line {first}; the name means the last one above"
                ))
                .help("give one of them another name"),
        );
    }
    names.entry(name.clone()).or_insert(stage.instruction.lines.0);
}

/// Lower case only if strictly more keywords are written so; mixed case never fits. What stands before the first stage is
/// neither counted nor checked.
fn check_keyword_case(parsed: &Parsed, warnings: &mut Vec<Diagnostic>) {
    let outside = |instruction: &&Instruction| !matches!(instruction.kind, Kind::From(_));
    let keywords: Vec<&Word> = parsed
        .instructions
        .iter()
        .skip_while(outside)
        .map(|instruction| &instruction.keyword)
        .collect();
    let count = |fits: fn(&str) -> bool| keywords.iter().filter(|keyword| fits(&keyword.value)).count();
    let lower_wins = count(is_lower) > count(is_upper);
    for keyword in keywords {
        let (wanted, style) = match lower_wins {
            true => (keyword.value.to_lowercase(), "lowercase"),
            false => (keyword.value.to_uppercase(), "uppercase"),
        };
        if keyword.value != wanted {
            let message = format!(
                "Command '{}' should match the case of the command majority ({style})",
                keyword.value
            );
            warnings.push(
                Diagnostic::warning("ConsistentInstructionCasing", keyword.span, message)
                    .help(format!("write `{wanted}`")),
            );
        }
    }
}
