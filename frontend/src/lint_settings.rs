//! Which checks a file wants: `# check=skip=…;error=true` at its top, and `# check=skip=…` above an instruction.

use std::collections::BTreeSet;

use crate::diagnostic::{Diagnostic, Severity};
use crate::parse::Parsed;

/// The build argument that replaces the directive.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What one directive says. Keys that are not known ask for nothing.
#[derive(Debug, Default)]
struct Settings {
    /// In lower case; `all` silences everything.
    skip: BTreeSet<String>,
    error: bool,
}

impl Settings {
    fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for (key, value) in text.split(';').filter_map(|part| part.split_once('=')) {
            match key.trim().to_ascii_lowercase().as_str() {
                "skip" => settings
                    .skip
                    .extend(value.split(',').map(|rule| rule.trim().to_ascii_lowercase())),
                "error" => settings.error = value.trim().eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        settings
    }

    fn skips(&self, code: &str) -> bool {
        self.skip.contains("all") || self.skip.contains(&code.to_ascii_lowercase())
    }
}

/// Drops the warnings that the file does not want to hear.
///
/// # Errors
/// If the file says that what remains is an error: the warnings, and an error that names their rules.
pub(crate) fn apply(
    parsed: &Parsed,
    argument: impl Fn(&str) -> Option<String>,
    mut warnings: Vec<Diagnostic>,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let directive = parsed.directives.check.as_ref();
    let text = argument(ARGUMENT).or_else(|| directive.map(|word| word.value.clone()));
    let settings = Settings::parse(&text.unwrap_or_default());
    warnings.retain(|warning| !is_check(warning) || !(settings.skips(warning.code) || skipped_here(parsed, warning)));
    let rules: BTreeSet<&str> = warnings
        .iter()
        .filter(|found| is_check(found))
        .map(|found| found.code)
        .collect();
    if !settings.error || rules.is_empty() {
        return Ok(warnings);
    }
    let rules: Vec<&str> = rules.into_iter().collect();
    let message = format!("lint violation found for rules: {}", rules.join(", "));
    let span = directive.map(|word| word.span).unwrap_or_default();
    warnings.push(Diagnostic::error("lint", span, message));
    Err(warnings)
}

/// Checks have names in camel case.
fn is_check(found: &Diagnostic) -> bool {
    found.severity == Severity::Warning && found.code.starts_with(|first: char| first.is_ascii_uppercase())
}

/// Whether a comment directly above the instruction skips this check there.
fn skipped_here(parsed: &Parsed, warning: &Diagnostic) -> bool {
    let at = warning.span;
    let inside = parsed
        .instructions
        .iter()
        .filter(|found| found.span.start <= at.start && at.end <= found.span.end);
    let mut comments = inside.flat_map(|instruction| &instruction.comments);
    comments.any(|comment| {
        let text = comment.trim().strip_prefix("check=");
        text.is_some_and(|text| Settings::parse(text).skips(warning.code))
    })
}
