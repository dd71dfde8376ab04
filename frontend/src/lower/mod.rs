//! Lowering: stages → definition, with everything the image config and history need.
//!
//! ```text
//! stages ─ target ─► reach.rs: which stages, which images ──► Need(images)
//!                        │ all known
//!                        ▼
//!                    stage.rs: one stage after the other, in file order
//!                      ├─ from.rs    the filesystem and config it starts with
//!                      ├─ run.rs     RUN, with mount.rs and mount_options.rs
//!                      ├─ copy.rs    COPY and ADD, with owner.rs and remote.rs
//!                      ├─ config.rs  everything that only changes the config, with expose.rs
//!                      └─ checks.rs  what is legal there, and likely not meant
//! ```
//!
//! A stage only ever refers to stages above it, so file order is dependency order and each stage is lowered once.

pub(crate) mod path;
mod checks;
mod config;
mod copy;
pub(crate) mod expand;
mod expose;
pub(crate) mod from;
mod gofmt;
pub mod graph;
mod mount;
mod mount_options;
mod owner;
pub(crate) mod reach;
mod remote;
mod run;
mod stage;

use std::collections::BTreeMap;

use proto::definition::{Network, Security};
use proto::entitlement::Entitlements;
use proto::platform::Platform;

use crate::args::{self, Globals};
use crate::diagnostic::{Diagnostic, Severity};
use crate::directives::{self, FOREIGN_SYNTAX};
use crate::lint;
use crate::parse::Parsed;
use crate::patterns::Patterns;
use crate::plan::{ImageFacts, ImageRequest, ImageTemplate, Lowered, Plan};
use crate::source::{SourceFile, Span};
use crate::stages::Stages;
use crate::suggest;
pub use mount_options::{MountOptions, MountType};
use stage::Lowering;

pub(crate) use checks::DeclaredArg;
pub use checks::tells_secret;

/// Facts of images, by reference and platform as they were asked for.
pub type Images = BTreeMap<(String, Platform), ImageFacts>;

/// What the user asked for, apart from the Dockerfile.
#[derive(Debug, Clone)]
pub struct LowerOptions {
    /// The stage to build; nothing means the last one.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`: applied last.
    pub labels: BTreeMap<String, String>,
    /// What the image runs on.
    pub platform: Platform,
    /// What the build runs on.
    pub build_platform: Platform,
    /// Platforms that steps can run on here, for builds whose platform nobody chose: a stage takes over the platform of its
    /// base image if it is one of these. Nothing: `platform` was chosen, and the image says that it is for it.
    pub adoptable: Option<Vec<Platform>>,
    /// Whether other platforms are built too, so that steps must say which one they are for.
    pub multi_platform: bool,
    /// Network of steps that choose none.
    pub default_network: Network,
    /// What steps may do that do not ask for more.
    pub default_security: Security,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--build-context`, by name; a name may end in `::platform`.
    pub contexts: BTreeMap<String, NamedContext>,
    /// What steps may have beyond the usual.
    pub entitlements: Entitlements,
    /// Upper limit of times: seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// What the ignore file keeps out of the main context: copying it is worth a warning.
    pub ignore: Option<Patterns>,
    /// Times of contexts by name, for a `SOURCE_DATE_EPOCH` that names one; nothing for a context that has none.
    pub context_times: BTreeMap<String, Option<i64>>,
}

impl LowerOptions {
    /// No wishes but a platform.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            build_platform: platform.clone(),
            platform,
            adoptable: None,
            multi_platform: false,
            default_network: Network::Default,
            default_security: Security::Sandbox,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            contexts: BTreeMap::new(),
            entitlements: Entitlements::default(),
            source_date_epoch: None,
            ignore: None,
            context_times: BTreeMap::new(),
        }
    }
}

/// What stands behind a name given with `--build-context`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// Files of the client under that name.
    Local,
    /// An image: reference text, or an opaque name that the builder resolves (an OCI layout). An opaque name must not
    /// look like a reference, or it is completed like one; a `://` in it is enough.
    Image(String),
}

/// All that lowering reads and never changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    source: &'a SourceFile,
    escape: char,
    options: &'a LowerOptions,
    images: &'a Images,
    stages: &'a Stages<'a>,
    globals: &'a Globals,
}

/// Which stages are lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The target and what it needs.
    Target,
    /// All there are, unless a target is asked for.
    All,
}

/// One attempt at lowering a file.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// What came of it; nothing if some diagnostic is an error.
    pub(crate) made: Option<Made>,
    /// Problems in order of their place: what the file says about checks is not applied yet.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// What an attempt can make.
#[derive(Debug)]
pub(crate) enum Made {
    /// Images must be known first.
    Need(Vec<ImageRequest>),
    /// A plan, its diagnostics left out.
    Done(Box<Done>),
}

/// A plan, and what descriptions of the target are made of.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) plan: Plan,
    /// The index of the target.
    pub(crate) target: usize,
    pub(crate) globals: Globals,
    /// What each stage starts from.
    pub(crate) bases: BTreeMap<usize, reach::Base>,
    /// `ARG`s of stages, as they were lowered.
    pub(crate) declared: Vec<DeclaredArg>,
}

/// Lowers a parsed Dockerfile.
///
/// # Errors
/// All errors that were found, in order of their place; those of the parser first, alone. Warnings travel in
/// [`Plan::diagnostics`]; if the file says that they are errors, they follow the error that says so.
pub fn lower(
    source: &SourceFile,
    parsed: &Parsed,
    options: &LowerOptions,
    images: &Images,
) -> Result<Lowered, Vec<Diagnostic>> {
    let mut attempt = attempt((source, parsed), options, images, Selection::Target);
    if let Some(Made::Need(images)) = attempt.made {
        return Ok(Lowered::Need(images));
    }
    lint::settings::apply((source, parsed), &options.build_args, &mut attempt.diagnostics);
    match attempt.made {
        Some(Made::Done(done)) if !attempt.diagnostics.iter().any(is_error) => Ok(Lowered::Done(Box::new(Plan {
            diagnostics: attempt.diagnostics,
            ..done.plan
        }))),
        _ => {
            let (mut errors, warnings): (Vec<_>, Vec<_>) = attempt.diagnostics.into_iter().partition(is_error);
            if errors.iter().any(|error| error.code == "lint") {
                errors.extend(warnings);
            }
            Err(errors)
        }
    }
}

/// Lowers what `selection` says.
pub(crate) fn attempt(
    (source, parsed): (&SourceFile, &Parsed),
    options: &LowerOptions,
    images: &Images,
    selection: Selection,
) -> Attempt {
    let mut diagnostics = told_by_parser(parsed, options.build_args.get("BUILDKIT_SYNTAX").map(String::as_str));
    let mut made = None;
    if !diagnostics.iter().any(is_error) {
        match make((source, parsed), options, images, selection, &mut diagnostics) {
            Ok(found) => made = Some(found),
            Err(errors) => diagnostics.extend(errors),
        }
    }
    let place = |diagnostic: &Diagnostic| (diagnostic.span, diagnostic.code);
    diagnostics.sort_by(|a, b| place(a).cmp(&place(b)));
    diagnostics.dedup();
    let made = made.filter(|_| !diagnostics.iter().any(is_error));
    Attempt { made, diagnostics }
}

fn is_error(diagnostic: &Diagnostic) -> bool {
    diagnostic.severity == Severity::Error
}

/// Errors end it here; problems that do not, errors of single instructions among them, go to `diagnostics`.
fn make(
    (source, parsed): (&SourceFile, &Parsed),
    options: &LowerOptions,
    images: &Images,
    selection: Selection,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Made, Vec<Diagnostic>> {
    let one = |error| vec![error];
    let file = (source, parsed.escape);
    let stages = Stages::split(&parsed.instructions);
    lint::file::check(parsed, &stages, diagnostics);
    let globals = from::globals(file, options, &options.build_args, &stages).map_err(one)?;
    lint::from::check(file, options, &stages, &globals, diagnostics);
    let target = stages.target(options.target.as_deref()).map_err(one)?;
    let source_date_epoch = source_date_epoch(options, &stages, &globals).map_err(one)?;
    let input = Input {
        source,
        escape: parsed.escape,
        options,
        images,
        stages: &stages,
        globals: &globals,
    };
    let all = selection == Selection::All && options.target.is_none();
    let targets = if all { 0..stages.list.len() } else { target..target + 1 };
    let reach = reach::collect(input, targets)?;
    let errors = graph::check_unreached(input, &reach.bases);
    if !errors.is_empty() {
        return Err(errors);
    }
    if !reach.missing.is_empty() {
        return Ok(Made::Need(reach.missing));
    }
    let mut lowering = Lowering::new(input, &reach);
    for index in reach.bases.keys() {
        lowering.lower_stage(*index);
    }
    let finished = lowering.finish(target);
    diagnostics.extend(finished.diagnostics);
    let state = finished.target;
    let mut plan = Plan {
        definition: finished.definition,
        target: state.root,
        stages: reach.bases.keys().copied().collect(),
        image: ImageTemplate {
            platform: platform_of(&state, options),
            author: state.author,
            config: state.config,
            base: state.base,
            history: state.history,
        },
        diagnostics: Vec::new(),
        ignored_build_args: ignored_build_args(parsed, options, &reach),
        source_date_epoch,
    };
    plan.image.config.labels.extend(options.labels.clone());
    diagnostics.extend(warn_of_ignored_build_args(parsed, &plan));
    Ok(Made::Done(Box::new(Done {
        plan,
        target,
        declared: finished.declared,
        bases: reach.bases.clone(),
        globals,
    })))
}

/// What the parser has to say. `syntax` is the frontend image that takes the place of the one in the file; a file that is meant
/// for a foreign one is in a language of its own, so all else that seems wrong in it says nothing.
fn told_by_parser(parsed: &Parsed, syntax: Option<&str>) -> Vec<Diagnostic> {
    let foreign = |found: &&Diagnostic| found.code == FOREIGN_SYNTAX && is_error(found);
    let chosen = match syntax {
        Some(image) => directives::refuse_foreign(image, Span::default()),
        None => parsed.diagnostics.iter().find(foreign).cloned(),
    };
    match chosen {
        Some(error) => vec![error],
        None => parsed
            .diagnostics
            .iter()
            .filter(|found| !foreign(found))
            .cloned()
            .collect(),
    }
}

/// The platform that the image says it is for: the one that was chosen, else that of the image at its bottom.
fn platform_of(state: &stage::StageState, options: &LowerOptions) -> Platform {
    match (&options.adoptable, &state.base) {
        (None, _) => options.platform.clone(),
        (Some(_), Some(base)) if !base.os.is_empty() && !base.architecture.is_empty() => {
            Platform::new(&base.os, &base.architecture, &base.variant)
        }
        (Some(_), _) => state.platform.clone(),
    }
}

/// Decimal seconds from the options, a build argument, or the default of a global `ARG`, in this order.
fn source_date_epoch(
    options: &LowerOptions,
    stages: &Stages<'_>,
    globals: &Globals,
) -> Result<Option<i64>, Diagnostic> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    if options.source_date_epoch.is_some() {
        return Ok(options.source_date_epoch);
    }
    let text = options.build_args.get(NAME).or_else(|| globals.values.get(NAME));
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let declared = stages.globals.iter().find(|arg| arg.name.value == NAME);
    let span = declared.map_or(Span::default(), |arg| arg.default.as_ref().unwrap_or(&arg.name).span);
    let wrong = |_| {
        Diagnostic::error("invalid-epoch", span, format!("invalid SOURCE_DATE_EPOCH: {text}"))
            .help("give seconds since 1970 as a decimal number")
    };
    match options.context_times.get(text) {
        Some(time) => Ok(*time),
        None => text.parse().map(Some).map_err(wrong),
    }
}

/// The context whose time is to be the limit of times: `SOURCE_DATE_EPOCH` is `context` or the name of another one. Its time is
/// asked for in [`LowerOptions::context_times`].
#[must_use]
pub fn epoch_context(source: &SourceFile, parsed: &Parsed, options: &LowerOptions) -> Option<String> {
    let stages = Stages::split(&parsed.instructions);
    let text = match options.build_args.get("SOURCE_DATE_EPOCH") {
        Some(text) => text.clone(),
        None => {
            // A global `ARG` that cannot be expanded is reported when it is lowered.
            let globals = from::globals((source, parsed.escape), options, &options.build_args, &stages).ok()?;
            globals.values.get("SOURCE_DATE_EPOCH")?.clone()
        }
    };
    (options.source_date_epoch.is_none() && (text == "context" || options.contexts.contains_key(&text))).then_some(text)
}

fn ignored_build_args(parsed: &Parsed, options: &LowerOptions, reach: &reach::Reach<'_>) -> Vec<String> {
    let mut declared = args::declared_names(&parsed.instructions);
    for triggers in reach.triggers.values() {
        for trigger in triggers {
            declared.extend(args::declared_names(std::slice::from_ref(&*trigger.instruction)));
        }
    }
    args::undeclared(&options.build_args, &declared)
}

/// Others ignore a misspelt `--build-arg` in silence; here one line says so.
fn warn_of_ignored_build_args(parsed: &Parsed, plan: &Plan) -> Option<Diagnostic> {
    if plan.ignored_build_args.is_empty() {
        return None;
    }
    let declared = args::declared_names(&parsed.instructions);
    let names: Vec<String> = plan.ignored_build_args.iter().map(|name| format!("`{name}`")).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let message = format!(
        "{} {verb} given as build argument but no `ARG` declares it",
        names.join(", ")
    );
    let mut warning = Diagnostic::warning("UnusedBuildArg", Span::default(), message);
    for name in &plan.ignored_build_args {
        if let Some(near) = suggest::nearest(name, declared.iter().copied()) {
            warning = warning.help(format!("for `{name}`, did you mean `{near}`?"));
        }
    }
    Some(warning)
}
