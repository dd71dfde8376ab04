//! `FROM`, and the `ARG`s before the first one.

use std::collections::BTreeMap;

use proto::platform::Platform;

use super::expand::Words;
use super::reach::{self, Base, Origin};
use super::{Input, LowerOptions};
use crate::args::Globals;
use crate::diagnostic::Diagnostic;
use crate::source::SourceFile;
use crate::stages::{Stage, Stages};

/// Values that `FROM` lines see: predefined ones, then the global `ARG`s in order, each able to use those before it.
/// `build_args` win over defaults.
pub(crate) fn globals(
    file: (&SourceFile, char),
    options: &LowerOptions,
    build_args: &BTreeMap<String, String>,
    stages: &Stages<'_>,
) -> Result<Globals, Diagnostic> {
    let last = stages.list.last().and_then(|stage| stage.name.clone());
    let asked = options.target.clone().filter(|target| !target.is_empty());
    let target_stage = asked.or(last).unwrap_or_else(|| "default".to_owned());
    let mut globals = Globals::predefined(options, &target_stage);
    for arg in &stages.globals {
        let name = &arg.name.value;
        let value = match (build_args.get(name), &arg.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(Words::global(file, &globals).expand(default)?),
            (None, None) => None,
        };
        match value {
            Some(value) => {
                globals.values.insert(name.clone(), value);
            }
            None => {
                globals.declared.insert(name.clone());
            }
        }
    }
    Ok(globals)
}

/// What the stage `index` starts from.
/// Variables without a value were told by `lint/from.rs`.
pub(crate) fn base(input: Input<'_>, index: usize) -> Result<Base, Diagnostic> {
    let stage = &input.stages.list[index];
    let place = (stage.from.base.span, stage.instruction.lines);
    let words = Words::global((input.source, input.escape), input.globals);
    let explicit = platform(stage, &words)?;
    let platform = explicit.unwrap_or_else(|| input.options.platform.clone());
    if let Some(context) = stage
        .name
        .as_ref()
        .and_then(|name| input.context(name, Some(&platform)))
    {
        return Ok(Base {
            origin: reach::named(context.0, context.1, &platform, place),
            platform,
            replaced: true,
        });
    }
    let text = base_name(stage, &words)?;
    let origin = if let Some((name, context)) = input.context(&text, Some(&platform)) {
        reach::named(name, context, &platform, place)
    } else if let Some(parent) = input.stages.base(index, &text) {
        Origin::Stage(parent)
    } else if text == "scratch" {
        Origin::Empty
    } else {
        reach::image(input, index, &text, &platform, place)?
    };
    // Nothing is for every platform, whatever the line says.
    let platform = match origin {
        Origin::Empty => input.options.platform.clone(),
        _ => platform,
    };
    Ok(Base {
        origin,
        platform,
        replaced: false,
    })
}

/// What stands behind `FROM`, expanded.
pub(super) fn base_name(stage: &Stage<'_>, words: &Words<'_>) -> Result<String, Diagnostic> {
    let text = words.expand(&stage.from.base)?;
    if text.is_empty() {
        let message = format!("base name ({}) should not be blank", stage.from.base.value);
        return Err(Diagnostic::error("blank-base", stage.from.base.span, message)
            .help("declare the variable with `ARG` and a default before the first `FROM`"));
    }
    Ok(text)
}

/// `FROM --platform`.
pub(super) fn platform(stage: &Stage<'_>, words: &Words<'_>) -> Result<Option<Platform>, Diagnostic> {
    let Some(word) = &stage.from.platform else {
        return Ok(None);
    };
    let text = words.expand(word)?;
    if text.is_empty() {
        let message = format!("empty platform value from expression {}", word.value);
        return Err(Diagnostic::error("invalid-platform", word.span, message));
    }
    let wrong = |error| {
        let message = format!("failed to parse platform {text}");
        Diagnostic::error("invalid-platform", word.span, message).note(format!("{error}"))
    };
    let platform: Result<Platform, proto::platform::PlatformError> = text.parse();
    platform.map(Some).map_err(wrong)
}
