//! Checks that need only the shape of a file: nothing expanded, reachable or not. Messages are as other builders print them.

use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;
use crate::instruction::{Command, Instruction, KeyValues, Kind, Word};
use crate::parse::Parsed;
use crate::stages::{Stage, Stages};

/// Words that tell a secret, in names split at `_`.
const SECRET_WORDS: [&str; 11] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "pwd",
    "passwd",
    "secret",
    "token",
];

/// Words that tell that it is none after all.
const PUBLIC_WORDS: [&str; 3] = ["public", "file", "version"];

/// Runs the checks.
pub(crate) fn check_shape(parsed: &Parsed, stages: &Stages<'_>, warnings: &mut Vec<Diagnostic>) {
    check_keyword_case(&parsed.instructions, warnings);
    for arg in &stages.globals {
        check_secret("ARG", &arg.name, warnings);
    }
    let mut names = BTreeSet::new();
    for stage in &stages.list {
        check_from(stage, &mut names, warnings);
        check_repeated(stage, warnings);
        let has_shell = stage
            .body
            .iter()
            .any(|instruction| matches!(instruction.kind, Kind::Shell(_)));
        for instruction in stage.body {
            check_instruction(instruction, has_shell, warnings);
        }
    }
}

fn check_from(stage: &Stage<'_>, names: &mut BTreeSet<String>, warnings: &mut Vec<Diagnostic>) {
    if let (Some(keyword), from) = (&stage.from.as_keyword, &stage.instruction.keyword) {
        let lower = |word: &Word| word.value.chars().all(|c| c.is_ascii_lowercase());
        let upper = |word: &Word| word.value.chars().all(|c| c.is_ascii_uppercase());
        if lower(keyword) != lower(from) || upper(keyword) != upper(from) {
            let message = format!("'{}' and '{}' keywords' casing do not match", keyword.value, from.value);
            warnings.push(Diagnostic::warning("FromAsCasing", keyword.span, message));
        }
    }
    if let Some(platform) = &stage.from.platform {
        if matches!(platform.value.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                platform.value
            );
            warnings.push(Diagnostic::warning("RedundantTargetPlatform", platform.span, message));
        } else if !platform.value.contains('$') && !named_after(stage, &platform.value) {
            let message = format!(
                "FROM --platform flag should not use constant value \"{}\"",
                platform.value
            );
            warnings.push(Diagnostic::warning(
                "FromPlatformFlagConstDisallowed",
                platform.span,
                message,
            ));
        }
    }
    let (Some(written), Some(name)) = (&stage.from.name, &stage.name) else {
        return;
    };
    if written.value != *name {
        let message = format!("Stage name '{}' should be lowercase", written.value);
        warnings.push(Diagnostic::warning("StageNameCasing", written.span, message));
    }
    if matches!(name.as_str(), "scratch" | "context") {
        let message = format!("Stage name should not use the same name as reserved stage \"{name}\"");
        warnings.push(Diagnostic::warning("ReservedStageName", written.span, message));
    }
    if !names.insert(name.clone()) {
        let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
        warnings.push(Diagnostic::warning("DuplicateStageName", written.span, message));
    }
}

/// A stage that is named after a platform is meant to be for it.
fn named_after(stage: &Stage<'_>, platform: &str) -> bool {
    let name = stage.name.as_deref().unwrap_or_default();
    platform
        .split('/')
        .take(2)
        .any(|part| !part.is_empty() && name.contains(part))
}

/// Of these only the last of a stage counts.
fn check_repeated(stage: &Stage<'_>, warnings: &mut Vec<Diagnostic>) {
    let name = |instruction: &Instruction| match instruction.kind {
        Kind::Cmd(_) => Some("CMD"),
        Kind::Entrypoint(_) => Some("ENTRYPOINT"),
        Kind::Healthcheck(_) => Some("HEALTHCHECK"),
        _ => None,
    };
    for (at, instruction) in stage.body.iter().enumerate() {
        let Some(keyword) = name(instruction) else { continue };
        if stage.body[at + 1..].iter().any(|later| name(later) == Some(keyword)) {
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            );
            let span = instruction.keyword.span;
            warnings.push(Diagnostic::warning("MultipleInstructionsDisallowed", span, message));
        }
    }
}

fn check_instruction(instruction: &Instruction, has_shell: bool, warnings: &mut Vec<Diagnostic>) {
    match &instruction.kind {
        Kind::Cmd(Command::Shell(text)) if !has_shell => warnings.push(json_recommended("CMD", text, instruction)),
        Kind::Entrypoint(Command::Shell(text)) if !has_shell => {
            warnings.push(json_recommended("ENTRYPOINT", text, instruction));
        }
        Kind::Maintainer(_) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            warnings.push(Diagnostic::warning(
                "MaintainerDeprecated",
                instruction.keyword.span,
                message,
            ));
        }
        Kind::Arg(args) => args.iter().for_each(|arg| check_secret("ARG", &arg.name, warnings)),
        Kind::Env(pairs) => {
            pairs
                .pairs
                .iter()
                .for_each(|(name, _)| check_secret("ENV", name, warnings));
            check_legacy("ENV", pairs, instruction, warnings);
        }
        Kind::Label(pairs) => check_legacy("LABEL", pairs, instruction, warnings),
        _ => {}
    }
}

fn json_recommended(keyword: &str, text: &Word, instruction: &Instruction) -> Diagnostic {
    let message =
        format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals");
    let span = if text.value.is_empty() {
        instruction.keyword.span
    } else {
        text.span
    };
    Diagnostic::warning("JSONArgsRecommended", span, message)
}

fn check_legacy(keyword: &str, pairs: &KeyValues, instruction: &Instruction, warnings: &mut Vec<Diagnostic>) {
    if pairs.legacy {
        let message =
            format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
        warnings.push(Diagnostic::warning("LegacyKeyValueFormat", instruction.span, message));
    }
}

fn check_secret(keyword: &str, name: &Word, warnings: &mut Vec<Diagnostic>) {
    let lower = name.value.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRET_WORDS) && !has(&PUBLIC_WORDS) {
        let message = format!(
            "Do not use ARG or ENV instructions for sensitive data ({keyword} \"{}\")",
            name.value
        );
        warnings.push(
            Diagnostic::warning("SecretsUsedInArgOrEnv", name.span, message)
                .help("give it to the step that needs it with `RUN --mount=type=secret`"),
        );
    }
}

/// Lower case only if strictly more keywords are written so; mixed case never fits.
fn check_keyword_case(instructions: &[Instruction], warnings: &mut Vec<Diagnostic>) {
    let is = |word: &Word, test: fn(&char) -> bool| word.value.chars().all(|c| test(&c));
    let lower = |instruction: &&Instruction| is(&instruction.keyword, char::is_ascii_lowercase);
    let upper = |instruction: &&Instruction| is(&instruction.keyword, char::is_ascii_uppercase);
    let lower_wins = instructions.iter().filter(lower).count() > instructions.iter().filter(upper).count();
    for instruction in instructions {
        let (fits, style) = match lower_wins {
            true => (lower(&instruction), "lowercase"),
            false => (upper(&instruction), "uppercase"),
        };
        if !fits {
            let message = format!(
                "Command '{}' should match the case of the command majority ({style})",
                instruction.keyword.value
            );
            warnings.push(Diagnostic::warning(
                "ConsistentInstructionCasing",
                instruction.keyword.span,
                message,
            ));
        }
    }
}
