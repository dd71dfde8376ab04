//! Lowering: stages → definition, with everything the image config and history need.
//!
//! ```text
//! stages ─ target ─► reach.rs: which stages, which images ──► Need(images)
//!                        │ all known
//!                        ▼
//!                    stage.rs: one stage after the other, in file order
//!                      ├─ from.rs    the filesystem and config it starts with
//!                      ├─ run.rs     RUN, with mount.rs
//!                      ├─ copy.rs    COPY and ADD, with owner.rs and remote.rs
//!                      └─ config.rs  everything that only changes the config, with expose.rs
//! ```
//!
//! A stage only ever refers to stages above it, so file order is dependency order and each stage is lowered once.

pub(crate) mod path;
mod config;
mod copy;
mod expand;
mod expose;
mod from;
mod gofmt;
mod mount;
mod owner;
mod reach;
mod remote;
mod run;
mod stage;

use std::collections::BTreeMap;

use proto::definition::Network;
use proto::platform::Platform;

use crate::args::{self, Globals};
use crate::diagnostic::{Diagnostic, Severity};
use crate::parse::Parsed;
use crate::plan::{ImageFacts, ImageTemplate, Lowered, Plan};
use crate::source::{SourceFile, Span};
use crate::stages::Stages;
use crate::suggest;
use crate::{lint, lint_settings};
use stage::Lowering;

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
    /// Whether other platforms are built too, so that steps must say which one they are for.
    pub multi_platform: bool,
    /// Network of steps that choose none.
    pub default_network: Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--build-context`, by name; a name may end in `::platform`.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Whether steps may use the network of the build server.
    pub allow_network_host: bool,
    /// Upper limit of times: seconds since 1970.
    pub source_date_epoch: Option<i64>,
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
            multi_platform: false,
            default_network: Network::Default,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            contexts: BTreeMap::new(),
            allow_network_host: false,
            source_date_epoch: None,
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
struct Input<'a> {
    source: &'a SourceFile,
    escape: char,
    options: &'a LowerOptions,
    images: &'a Images,
    stages: &'a Stages<'a>,
    globals: &'a Globals,
}

/// Lowers a parsed Dockerfile.
///
/// # Errors
/// All errors that were found, in order of their place; those of the parser first, alone. Warnings travel in
/// [`Plan::diagnostics`].
pub fn lower(
    source: &SourceFile,
    parsed: &Parsed,
    options: &LowerOptions,
    images: &Images,
) -> Result<Lowered, Vec<Diagnostic>> {
    let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
    let errors: Vec<Diagnostic> = parsed.diagnostics.iter().filter(is_error).cloned().collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let stages = Stages::split(&parsed.instructions);
    let target = stages.target(options.target.as_deref()).map_err(|error| vec![error])?;
    let mut warnings = parsed.diagnostics.clone();
    let globals =
        from::globals((source, parsed.escape), options, &stages, &mut warnings).map_err(|error| vec![error])?;
    let source_date_epoch = source_date_epoch(options, &stages, &globals).map_err(|error| vec![error])?;
    let input = Input {
        source,
        escape: parsed.escape,
        options,
        images,
        stages: &stages,
        globals: &globals,
    };
    let reach = reach::collect(input, target)?;
    if !reach.missing.is_empty() {
        return Ok(Lowered::Need(reach.missing));
    }
    lint::check_shape(parsed, &stages, &mut warnings);
    let mut lowering = Lowering::new(input, &reach, warnings);
    for index in reach.bases.keys() {
        lowering.lower_stage(*index);
    }
    let (definition, state, diagnostics) = lowering.finish(target)?;
    let mut plan = Plan {
        definition,
        target: state.root,
        image: ImageTemplate {
            platform: state.platform,
            author: state.author,
            config: state.config,
            base: state.base,
            history: state.history,
        },
        diagnostics,
        ignored_build_args: ignored_build_args(parsed, options, &reach),
        source_date_epoch,
    };
    plan.image.config.labels.extend(options.labels.clone());
    warn_of_ignored_build_args(parsed, &mut plan);
    let argument = |name: &str| options.build_args.get(name).cloned();
    plan.diagnostics = lint_settings::apply(parsed, argument, plan.diagnostics)?;
    Ok(Lowered::Done(Box::new(plan)))
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
            let globals = from::globals((source, parsed.escape), options, &stages, &mut Vec::new()).ok()?;
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
fn warn_of_ignored_build_args(parsed: &Parsed, plan: &mut Plan) {
    if plan.ignored_build_args.is_empty() {
        return;
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
    plan.diagnostics.push(warning);
}
