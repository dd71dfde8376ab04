//! What every stage of a file starts from and copies from, reachable or not: for looking at a file without building it.
//!
//! Named contexts are not looked at, and neither are triggers.

use std::collections::{BTreeMap, BTreeSet};

use proto::reference::Reference;

use super::expand::Words;
use super::reach::Base;
use super::{Input, LowerOptions, from, reach};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, Mount, Word};
use crate::parse::Parsed;
use crate::source::SourceFile;
use crate::stages::Stages;

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageBase {
    /// A stage above.
    Stage(usize),
    /// `scratch`, or a full reference; a word that is none as it is written.
    Image(String),
}

/// What a stage needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageEdges {
    /// What it starts from.
    pub base: StageBase,
    /// Stages that `--from` and mounts name, without the base.
    pub stages: BTreeSet<usize>,
    /// Images that they name, as in [`StageBase::Image`].
    pub images: BTreeSet<String>,
}

/// The edges of all stages, in order of the file.
///
/// # Errors
/// The first `FROM` whose base or platform means nothing, or the first `--from` that cannot name a stage or an image.
pub fn edges(source: &SourceFile, parsed: &Parsed, options: &LowerOptions) -> Result<Vec<StageEdges>, Diagnostic> {
    let stages = Stages::split(&parsed.instructions);
    let file = (source, parsed.escape);
    let globals = from::globals(file, options, &options.build_args, &stages)?;
    let words = Words::global(file, &globals);
    let mut bases = Vec::new();
    for (index, stage) in stages.list.iter().enumerate() {
        let name = from::base_name(stage, &words)?;
        from::platform(stage, &words)?;
        bases.push(match stages.base(index, &name) {
            Some(parent) => StageBase::Stage(parent),
            None => StageBase::Image(full(&name)),
        });
    }
    let edges = bases.into_iter().enumerate().map(|(index, base)| {
        let mut edges = StageEdges {
            base,
            stages: BTreeSet::new(),
            images: BTreeSet::new(),
        };
        for instruction in stages.list[index].body {
            for (word, mount) in reach::sources(instruction) {
                reach::refuse_variables(word, mount)?;
                match reach::find(&stages, index, word, mount)? {
                    Some(found) => edges.stages.insert(found),
                    None => edges.images.insert(full(&word.value)),
                };
            }
        }
        Ok(edges)
    });
    let edges: Vec<StageEdges> = edges.collect::<Result<_, Diagnostic>>()?;
    refuse_circles(&stages, &edges)?;
    Ok(edges)
}

fn full(text: &str) -> String {
    if text == "scratch" {
        return text.to_owned();
    }
    // A word that is no reference is shown as it is; lowering says what is wrong with it.
    text.parse::<Reference>()
        .map_or_else(|_| text.to_owned(), |reference| reference.to_string())
}

/// Names of images that are none, in stages that the target does not need. Other builders refuse the file for them too.
pub(super) fn check_unreached(input: Input<'_>, reached: &BTreeMap<usize, Base>) -> Vec<Diagnostic> {
    let unreached = (0..input.stages.list.len()).filter(|index| !reached.contains_key(index));
    unreached.flat_map(|index| check_names(input, index)).collect()
}

fn check_names(input: Input<'_>, index: usize) -> Vec<Diagnostic> {
    let stage = &input.stages.list[index];
    let mut errors = Vec::new();
    let body = match from::base(input, index) {
        Ok(base) if base.replaced => &[],
        Ok(_) => stage.body,
        Err(error) => {
            errors.push(error);
            stage.body
        }
    };
    for instruction in body {
        for (word, mount) in reach::sources(instruction) {
            errors.extend(check_source(input, index, instruction, (word, mount)).err());
        }
    }
    errors
}

fn check_source(
    input: Input<'_>,
    index: usize,
    instruction: &Instruction,
    (word, mount): (&Word, Option<&Mount>),
) -> Result<(), Diagnostic> {
    reach::refuse_variables(word, mount)?;
    let platform = &input.options.platform;
    let named = word.value == "scratch" || input.context(&word.value, Some(platform)).is_some();
    if !named && reach::find(input.stages, index, word, mount)?.is_none() {
        reach::image(input, index, &word.value, platform, (word.span, instruction.lines))?;
    }
    Ok(())
}

/// A stage that needs itself, by whatever way.
fn refuse_circles(stages: &Stages<'_>, edges: &[StageEdges]) -> Result<(), Diagnostic> {
    let needs = |index: usize| {
        let base = match edges[index].base {
            StageBase::Stage(parent) => Some(parent),
            StageBase::Image(_) => None,
        };
        base.into_iter().chain(edges[index].stages.iter().copied())
    };
    for start in 0..edges.len() {
        let mut seen = BTreeSet::new();
        let mut open: Vec<usize> = needs(start).collect();
        while let Some(next) = open.pop() {
            if next == start {
                let message = format!("circular dependency detected on stage: {}", stages.called(start));
                let span = stages.list[start].instruction.span;
                return Err(Diagnostic::error("circular-stage", span, message));
            }
            if seen.insert(next) {
                open.extend(needs(next));
            }
        }
    }
    Ok(())
}
