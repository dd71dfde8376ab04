//! Which checks a file wants: `# check=skip=…;experimental=…;error=true` at its top, and `# check=skip=…` above an instruction.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Rule;
use crate::diagnostic::{Diagnostic, Severity};
use crate::directives;
use crate::instruction::{Instruction, Word};
use crate::parse::Parsed;
use crate::source::{SourceFile, Span};

/// The build argument that replaces the directive.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// The check that blames one instruction for another.
pub(crate) const MULTIPLE: &str = "MultipleInstructionsDisallowed";

/// Some checks, or all there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self {
                all: true,
                names: BTreeSet::new(),
            },
            text => Self {
                all: false,
                names: text.split(',').map(|name| name.trim().to_owned()).collect(),
            },
        }
    }

    fn contain(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

/// What one directive says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Settings {
    skip: Names,
    experimental: Names,
    error: bool,
}

impl Settings {
    /// Fields between `;`, at most three. The error is the text that other builders print.
    fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(settings);
        }
        for part in text.splitn(3, ';') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("invalid check option {part:?}"))?;
            match key.trim() {
                "skip" => settings.skip = Names::parse(value),
                "experimental" => settings.experimental = Names::parse(value),
                "error" => {
                    settings.error =
                        boolean(value.trim()).ok_or_else(|| format!("failed to parse check option {part:?}"))?;
                }
                key => return Err(format!("invalid check option {key:?}")),
            }
        }
        Ok(settings)
    }

    /// Whether a warning is not to be heard. Our own remarks have no rule, and can be skipped by name all the same.
    fn silences(&self, code: &str) -> bool {
        match Rule::find(code) {
            Some(rule) if rule.experimental => !self.experimental.contain(code),
            _ => self.skip.contain(code),
        }
    }
}

/// A word that stands for yes or no.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Drops the warnings that the file does not want to hear, and adds an error if it says that what remains is one, or if
/// what it says is no setting.
pub(crate) fn apply(
    (source, parsed): (&SourceFile, &Parsed),
    build_args: &BTreeMap<String, String>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let directive = directives::check(source);
    let span = directive.as_ref().map(|word| word.span).unwrap_or_default();
    let settings = match settings(directive.as_ref(), build_args) {
        Ok(settings) => settings,
        Err(message) => {
            diagnostics.push(
                Diagnostic::error("invalid-check", span, message).help(
                    "options are `skip=NAME,…`, `experimental=NAME,…` (or `all` for a name) and `error=true`, with `;` between",
                ),
            );
            return;
        }
    };
    diagnostics.retain(|found| found.severity == Severity::Error || !is_silenced(found, parsed, &settings));
    let is_check = |found: &&Diagnostic| found.severity == Severity::Warning && Rule::find(found.code).is_some();
    let rules: BTreeSet<&str> = diagnostics.iter().filter(is_check).map(|found| found.code).collect();
    let failed = diagnostics.iter().any(|found| found.severity == Severity::Error);
    if settings.error && !rules.is_empty() && !failed {
        let rules: Vec<&str> = rules.into_iter().collect();
        let message = format!("lint violation found for rules: {}", rules.join(", "));
        diagnostics.push(Diagnostic::error("lint", span, message));
    }
}

fn settings(directive: Option<&Word>, build_args: &BTreeMap<String, String>) -> Result<Settings, String> {
    if let Some(text) = build_args.get(ARGUMENT) {
        return Settings::parse(text).map_err(|error| format!("failed to parse {ARGUMENT}: {error}"));
    }
    let text = directive.map_or("", |word| first_field(&word.value));
    Settings::parse(text).map_err(|error| format!("failed to parse check options: {error}"))
}

/// What follows a space is a remark.
fn first_field(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// Whether the file, or the comment above the instruction, silences a warning.
fn is_silenced(found: &Diagnostic, parsed: &Parsed, settings: &Settings) -> bool {
    let Some(here) = instruction_at(parsed, found.span).and_then(above) else {
        return settings.silences(found.code);
    };
    match Rule::find(found.code) {
        // The instruction that replaces it is to blame, and the comment above that one was asked already.
        Some(rule) if rule.name == MULTIPLE => settings.silences(MULTIPLE),
        // For these, a comment can only switch on, and for the others only off.
        Some(rule) if rule.experimental => settings.silences(found.code) && here.silences(found.code),
        _ => settings.silences(found.code) || here.silences(found.code),
    }
}

/// The instruction that a place is in.
pub(crate) fn instruction_at(parsed: &Parsed, at: Span) -> Option<&Instruction> {
    let inside = |found: &&Instruction| found.span.start <= at.start && at.end <= found.span.end;
    parsed.instructions.iter().find(inside)
}

/// Whether the comment above an instruction asks not to hear of `code`.
pub(crate) fn skipped_above(instruction: &Instruction, code: &str) -> bool {
    above(instruction).is_some_and(|settings| settings.silences(code))
}

/// The settings in the comments above an instruction. The first comment that has some counts; one with a mistake has none.
fn above(instruction: &Instruction) -> Option<Settings> {
    let value = |comment: &String| {
        let (key, value) = comment.trim().split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case("check")
            .then(|| value.trim().to_owned())
    };
    let text = instruction.comments.iter().find_map(value)?;
    // A wrong comment is a comment: nobody promised to read it.
    Settings::parse(first_field(&text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Settings {
        Settings::parse(text).unwrap()
    }

    #[test]
    fn options_stand_between_semicolons() {
        let settings = parse(" skip=A, B ; error=TRUE; experimental=all");
        assert!(settings.silences("A") && settings.silences("B") && !settings.silences("C"));
        assert!(settings.error && !settings.silences("InvalidDefinitionDescription"));
        assert_eq!(parse(""), Settings::default());
    }

    #[test]
    fn all_is_everything_but_what_must_be_asked_for() {
        let settings = parse("skip=all");
        assert!(settings.silences("StageNameCasing") && settings.silences("InvalidDefinitionDescription"));
        assert!(!parse("skip=all;experimental=all").silences("InvalidDefinitionDescription"));
        assert!(
            !parse("skip=stagenamecasing").silences("StageNameCasing"),
            "names are exact"
        );
    }

    #[test]
    fn what_is_no_option_is_named() {
        for (text, message) in [
            ("StageNameCasing", "invalid check option \"StageNameCasing\""),
            ("Skip=all", "invalid check option \"Skip\""),
            ("error=maybe", "failed to parse check option \"error=maybe\""),
        ] {
            assert_eq!(Settings::parse(text).unwrap_err(), message);
        }
    }
}
