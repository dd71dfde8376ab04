//! Which stages the target needs, what each starts from, and which images must be known first.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use proto::platform::Platform;
use proto::reference::Reference;

use super::{Images, Input, NamedContext};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Instruction, Kind, Mount, Word};
use crate::parse::parse;
use crate::plan::ImageRequest;
use crate::source::{SourceFile, Span};
use crate::stages::{Found, Stages};

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `scratch`.
    Empty,
    /// A stage of this file.
    Stage(usize),
    /// An image; with the name of the named context that stands for it.
    Image(ImageRequest, Option<String>),
    /// A build context of the client.
    Local(String),
}

/// What a stage starts from.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) origin: Origin,
    pub(crate) platform: Platform,
    /// The stage is a named context: its instructions are skipped.
    pub(crate) replaced: bool,
}

/// An `ONBUILD` trigger that a stage runs first.
#[derive(Debug, Clone)]
pub(crate) struct Trigger<'a> {
    pub(crate) instruction: Cow<'a, Instruction>,
    /// Text of a trigger that an image brought: its spans mean nothing in this file.
    pub(crate) foreign: Option<String>,
}

impl Trigger<'_> {
    /// The instruction as a message quotes it.
    pub(crate) fn text(&self) -> String {
        match &self.foreign {
            Some(text) => text.clone(),
            None => format!("{} {}", self.instruction.keyword.value, self.instruction.text),
        }
    }
}

/// The answer of [`collect`].
#[derive(Debug, Default)]
pub(crate) struct Reach<'a> {
    /// Reachable stages.
    pub(crate) bases: BTreeMap<usize, Base>,
    /// Triggers of stages that have some.
    pub(crate) triggers: BTreeMap<usize, Vec<Trigger<'a>>>,
    /// Images whose facts are not there yet.
    pub(crate) missing: Vec<ImageRequest>,
    /// Whether steps of stages without a name need a number to tell them apart.
    pub(crate) several: bool,
    errors: Vec<Diagnostic>,
}

/// Walks back from `targets`. A base image that is not known yet may bring triggers that need more; then the next call
/// asks for those.
pub(crate) fn collect<'a>(input: Input<'a>, targets: Range<usize>) -> Result<Reach<'a>, Vec<Diagnostic>> {
    let mut reach = Reach {
        several: input.stages.list.len() > 1 || has_implicit_stage(input),
        ..Reach::default()
    };
    let mut open: Vec<usize> = targets.collect();
    while let Some(index) = open.pop() {
        if reach.bases.contains_key(&index) {
            continue;
        }
        match reach.visit(input, index) {
            Ok(next) => open.extend(next),
            Err(error) => reach.errors.push(error),
        }
    }
    if reach.errors.is_empty() {
        reach.missing.sort_by_key(|request| request.span);
        Ok(reach)
    } else {
        reach.errors.sort_by_key(|error| error.span);
        reach.errors.dedup();
        Err(reach.errors)
    }
}

/// Images and contexts that are only copied from count as stages when steps are named.
fn has_implicit_stage(input: Input<'_>) -> bool {
    input.stages.list.iter().enumerate().any(|(index, stage)| {
        let sources = stage.body.iter().flat_map(sources);
        sources
            .into_iter()
            .any(|(word, mount)| found(input.stages, index, word, mount) == Found::Unknown)
    })
}

impl<'a> Reach<'a> {
    /// Resolves what one stage starts from and copies from; answers with the stages among them.
    fn visit(&mut self, input: Input<'a>, index: usize) -> Result<Vec<usize>, Diagnostic> {
        let base = super::from::base(input, index)?;
        let triggers = self.triggers(input, index, &base)?;
        let mut next = Vec::new();
        self.note(input.images, &base.origin, &mut next);
        let body = if base.replaced {
            &[]
        } else {
            input.stages.list[index].body
        };
        let own = body.iter().map(|instruction| (instruction, None));
        let inherited = triggers
            .iter()
            .map(|trigger| (&*trigger.instruction, trigger.foreign.as_deref()));
        for (instruction, foreign) in inherited.chain(own) {
            for (word, mount) in sources(instruction) {
                match resolve(input, index, instruction, word, mount) {
                    Ok(origin) => self.note(input.images, &origin, &mut next),
                    Err(error) => self.errors.push(relocate(error, input, index, foreign)),
                }
            }
        }
        if !triggers.is_empty() {
            self.triggers.insert(index, triggers);
        }
        self.bases.insert(index, base);
        Ok(next)
    }

    fn note(&mut self, images: &Images, origin: &Origin, next: &mut Vec<usize>) {
        match origin {
            Origin::Empty | Origin::Local(_) => {}
            Origin::Stage(index) => next.push(*index),
            Origin::Image(request, _) => {
                let same = |other: &ImageRequest| {
                    (&other.reference, &other.platform) == (&request.reference, &request.platform)
                };
                let known = images.contains_key(&(request.reference.clone(), request.platform.clone()));
                if !known && !self.missing.iter().any(same) {
                    self.missing.push(request.clone());
                }
            }
        }
    }

    fn triggers(&self, input: Input<'a>, index: usize, base: &Base) -> Result<Vec<Trigger<'a>>, Diagnostic> {
        match &base.origin {
            _ if base.replaced => Ok(Vec::new()),
            Origin::Stage(parent) => {
                let parent = &input.stages.list[*parent];
                let replaced = parent
                    .name
                    .as_ref()
                    .is_some_and(|name| input.context(name, None).is_some());
                let body = if replaced { &[] } else { parent.body };
                body.iter().filter_map(own_trigger).collect()
            }
            Origin::Image(request, _) => {
                let facts = input.images.get(&(request.reference.clone(), request.platform.clone()));
                let texts = facts.map_or(&[][..], |facts| &facts.config.config.on_build[..]);
                texts.iter().map(|text| parse_trigger(input, index, text)).collect()
            }
            Origin::Empty | Origin::Local(_) => Ok(Vec::new()),
        }
    }
}

/// The trigger that an instruction of this file leaves behind, if it is an `ONBUILD`.
fn own_trigger(instruction: &Instruction) -> Option<Result<Trigger<'_>, Diagnostic>> {
    let Kind::Onbuild { inner, .. } = &instruction.kind else {
        return None;
    };
    Some(match inner {
        Ok(inner) => Ok(Trigger {
            instruction: Cow::Borrowed(&**inner),
            foreign: None,
        }),
        Err(mistake) => Err(Diagnostic::clone(mistake)),
    })
}

/// A trigger as an image config holds it: one instruction.
fn parse_trigger<'a>(input: Input<'a>, index: usize, text: &str) -> Result<Trigger<'a>, Diagnostic> {
    let from = &input.stages.list[index].from.base;
    let failed = |why: &str| {
        let message = format!("the base image has a trigger that cannot run: {why}");
        Diagnostic::error("invalid-trigger", from.span, message).note(format!("the trigger is `{text}`"))
    };
    // A stage around it, because instructions outside of one are wrong by themselves.
    let parsed = parse(&SourceFile::new("trigger", format!("FROM scratch\n{text}\n")));
    let error = parsed
        .diagnostics
        .iter()
        .find(|found| found.severity == crate::diagnostic::Severity::Error);
    if let Some(error) = error {
        return Err(failed(&error.message));
    }
    let mut instructions = parsed.instructions.into_iter().skip(1);
    match (instructions.next(), instructions.next()) {
        (
            Some(Instruction {
                kind: Kind::From(_) | Kind::Onbuild { .. } | Kind::Maintainer(_),
                keyword,
                ..
            }),
            _,
        ) => Err(failed(&format!(
            "{} isn't allowed as an ONBUILD trigger",
            keyword.value
        ))),
        (Some(instruction), None) => Ok(Trigger {
            instruction: Cow::Owned(instruction),
            foreign: Some(text.to_owned()),
        }),
        _ => Err(failed("it is not exactly one instruction")),
    }
}

/// Moves a problem in a trigger that is not the stage's own to the `FROM` that brought it.
pub(crate) fn relocate(error: Diagnostic, input: Input<'_>, index: usize, foreign: Option<&str>) -> Diagnostic {
    match foreign {
        None => error,
        Some(text) => {
            let span = input.stages.list[index].from.base.span;
            Diagnostic { span, ..error }.note(format!("in the base's trigger `{text}`"))
        }
    }
}

/// The `from` words of an instruction, each with the mount it stands in.
pub(super) fn sources(instruction: &Instruction) -> Vec<(&Word, Option<&Mount>)> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.iter().map(|word| (word, None)).collect(),
        Kind::Run(run) => {
            let from = |mount| super::mount::from_word(mount).map(|word| (word, Some(mount)));
            run.mounts.iter().filter_map(from).collect()
        }
        _ => Vec::new(),
    }
}

/// What a `--from` or a mount's `from` means: a named context, a stage above, an image.
pub(crate) fn resolve(
    input: Input<'_>,
    index: usize,
    instruction: &Instruction,
    word: &Word,
    mount: Option<&Mount>,
) -> Result<Origin, Diagnostic> {
    refuse_variables(word, mount)?;
    let platform = &input.options.platform;
    let place = (word.span, instruction.lines);
    if let Some((name, context)) = input.context(&word.value, Some(platform)) {
        return Ok(named(name, context, platform, place));
    }
    let own = input.stages.called(index);
    match found(input.stages, index, word, mount) {
        Found::Earlier(found) => Ok(Origin::Stage(found)),
        Found::Itself => {
            let message = format!("circular dependency detected on stage: {own}");
            Err(Diagnostic::error("circular-stage", word.span, message))
        }
        Found::Later(_) => Err(later(word, mount, &own)),
        Found::OutOfRange => Err(out_of_range(input.stages, word)),
        Found::Unknown if word.value == "scratch" => Ok(Origin::Empty),
        Found::Unknown => Ok(match image(input, index, &word.value, platform, place)? {
            Origin::Image(request, context) => {
                let no_stage = is_word(&word.value).then(|| word.value.clone());
                Origin::Image(ImageRequest { no_stage, ..request }, context)
            }
            other => other,
        }),
    }
}

fn found(stages: &Stages<'_>, index: usize, word: &Word, mount: Option<&Mount>) -> Found {
    match mount {
        None => stages.find(index, &word.value),
        Some(_) => stages.find_named(index, &word.value),
    }
}

/// The stage that a `--from` or a mount's `from` names, wherever it stands; nothing: it names an image.
pub(super) fn find(
    stages: &Stages<'_>,
    index: usize,
    word: &Word,
    mount: Option<&Mount>,
) -> Result<Option<usize>, Diagnostic> {
    match found(stages, index, word, mount) {
        Found::Earlier(found) | Found::Later(found) => Ok(Some(found)),
        Found::Itself => Ok(Some(index)),
        Found::Unknown => Ok(None),
        Found::OutOfRange => Err(out_of_range(stages, word)),
    }
}

fn out_of_range(stages: &Stages<'_>, word: &Word) -> Diagnostic {
    let error = Diagnostic::error(
        "unknown-stage",
        word.span,
        format!("invalid stage index {}", word.value),
    );
    error.note(format!("this file has the stages 0 to {}", stages.list.len() - 1))
}

pub(super) fn refuse_variables(word: &Word, mount: Option<&Mount>) -> Result<(), Diagnostic> {
    if !word.value.contains('$') {
        return Ok(());
    }
    let message = match mount {
        None => {
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a \
             workaround"
        }
        Some(_) => "'from' doesn't support variable expansion, define alias stage instead",
    };
    Err(Diagnostic::error("variable-in-from", word.span, message))
}

fn later(word: &Word, mount: Option<&Mount>, own: &str) -> Diagnostic {
    let message = match mount {
        None => format!(
            "cannot copy from stage \"{}\", it needs to be defined before current stage \"{own}\"",
            word.value
        ),
        Some(mount) => format!(
            "cannot mount from stage \"{}\" to \"{}\", stage needs to be defined before current command",
            word.value,
            super::mount::target_text(mount)
        ),
    };
    let help = format!("move the stage `{}` above this one", word.value);
    Diagnostic::error("later-stage", word.span, message).help(help)
}

/// Whether `text` could be meant as the name of a stage: images usually have a tag, a digest or a registry.
fn is_word(text: &str) -> bool {
    let more = |c: char| matches!(c, '-' | '_');
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more(c))
}

/// An image by the reference a user wrote.
pub(crate) fn image(
    input: Input<'_>,
    index: usize,
    text: &str,
    platform: &Platform,
    (span, lines): (Span, (u32, u32)),
) -> Result<Origin, Diagnostic> {
    let reference: Reference = text.parse().map_err(|_| {
        let message = format!("failed to parse stage name \"{text}\": invalid reference format");
        let error = Diagnostic::error("invalid-reference", span, message);
        let error = match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => error.note("names of stages and repositories are lower case"),
            false => error,
        };
        input.stages.suggest(error, &text.to_ascii_lowercase(), index)
    })?;
    let request = ImageRequest {
        reference: reference.to_string(),
        platform: platform.clone(),
        span,
        lines,
        near_stage: input.stages.nearest(text, index),
        no_stage: None,
    };
    Ok(Origin::Image(request, None))
}

/// What stands behind a named context.
pub(crate) fn named(name: &str, context: &NamedContext, platform: &Platform, place: (Span, (u32, u32))) -> Origin {
    match context {
        NamedContext::Local => Origin::Local(name.to_owned()),
        NamedContext::Image(text) => {
            // What is no reference is a name that the builder made up.
            let full = text.parse::<Reference>().map(|reference| reference.to_string());
            let request = ImageRequest {
                reference: full.unwrap_or_else(|_| text.clone()),
                platform: platform.clone(),
                span: place.0,
                lines: place.1,
                near_stage: None,
                no_stage: None,
            };
            Origin::Image(request, Some(name.to_owned()))
        }
    }
}

impl<'a> Input<'a> {
    /// The named context that stands for `name`: the same text, or the same image when both are references. An entry
    /// for one platform wins.
    pub(crate) fn context(&self, name: &str, platform: Option<&Platform>) -> Option<(&'a str, &'a NamedContext)> {
        if matches!(name, "scratch" | "context") {
            return None;
        }
        let reference = name.parse::<Reference>().ok();
        let same = |key: &str| {
            key.eq_ignore_ascii_case(name) || (reference.is_some() && key.parse::<Reference>().ok() == reference)
        };
        let entries = self.options.contexts.iter();
        let mut general = None;
        for (key, context) in entries {
            match key.split_once("::") {
                None if same(key) => general = Some((key.as_str(), context)),
                Some((key_name, key_platform)) if same(key_name) => {
                    let key_platform = key_platform.parse::<Platform>().ok();
                    if key_platform.is_some() && key_platform.as_ref() == platform {
                        return Some((key.as_str(), context));
                    }
                }
                _ => {}
            }
        }
        general
    }
}
