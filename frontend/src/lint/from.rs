//! Checks of what stands in `FROM`, in every stage: nobody has to need it for a mistake to be one.

use std::collections::BTreeMap;

use proto::platform::Platform;
use proto::reference::Reference;

use crate::args::Globals;
use crate::diagnostic::Diagnostic;
use crate::instruction::Word;
use crate::lower::LowerOptions;
use crate::lower::expand::Words;
use crate::lower::from::globals;
use crate::source::SourceFile;
use crate::stages::{Stage, Stages};

/// Runs the checks. `values` are the global arguments of this build.
pub(crate) fn check(
    file: (&SourceFile, char),
    options: &LowerOptions,
    stages: &Stages<'_>,
    values: &Globals,
    warnings: &mut Vec<Diagnostic>,
) {
    check_defaults(file, options, stages, warnings);
    for stage in &stages.list {
        for word in std::iter::once(&stage.from.base).chain(&stage.from.platform) {
            let words = Words::global(file, values);
            // What cannot be expanded is an error where somebody needs it.
            drop(words.expand(word));
            warnings.extend(words.into_warnings());
        }
        if let Some(word) = &stage.from.platform {
            check_platform(stage, word, &Words::global(file, values), values, warnings);
        }
    }
}

/// A file should build without build arguments too.
fn check_defaults(
    file: (&SourceFile, char),
    options: &LowerOptions,
    stages: &Stages<'_>,
    warnings: &mut Vec<Diagnostic>,
) {
    // What is wrong with the arguments themselves is told for the values of this build.
    let Ok(defaults) = globals(file, options, &BTreeMap::new(), stages) else {
        return;
    };
    for stage in &stages.list {
        let base = &stage.from.base;
        let Ok(text) = Words::global(file, &defaults).expand(base) else {
            return;
        };
        if text.parse::<Reference>().is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                base.value
            );
            let warning = Diagnostic::warning("InvalidDefaultArgInFrom", base.span, message);
            warnings.push(warning.help("give the arguments defaults that make a name, as in `ARG VERSION=latest`"));
        }
    }
}

fn check_platform(stage: &Stage<'_>, word: &Word, words: &Words<'_>, values: &Globals, warnings: &mut Vec<Diagnostic>) {
    const TARGET: &str = "TARGETPLATFORM";
    let Some(lookups) = words.lookups(word) else {
        return;
    };
    if lookups.set.is_empty() && lookups.unset.is_empty() {
        check_constant(stage, word, &lookups.text, warnings);
    }
    let only_target = lookups.unset.is_empty() && lookups.set.len() == 1 && lookups.set.contains(TARGET);
    if only_target && values.values.get(TARGET) == Some(&lookups.text) {
        let message = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            word.value
        );
        let warning = Diagnostic::warning("RedundantTargetPlatform", word.span, message);
        warnings.push(warning.help(format!("remove `--platform={}`", word.value)));
    }
}

/// A stage that is named after a platform is meant to be for it.
fn check_constant(stage: &Stage<'_>, word: &Word, text: &str, warnings: &mut Vec<Diagnostic>) {
    // A text that is no platform is an error where somebody needs it.
    let Ok(platform) = text.parse::<Platform>() else {
        return;
    };
    let name = stage.name.as_deref().unwrap_or_default();
    if name.contains(&platform.os) || name.contains(&platform.architecture) {
        return;
    }
    let message = format!("FROM --platform flag should not use constant value \"{text}\"");
    let warning = Diagnostic::warning("FromPlatformFlagConstDisallowed", word.span, message);
    warnings.push(warning.help(format!(
        "remove it and build with `--platform {text}`, or name the stage after the platform"
    )));
}
