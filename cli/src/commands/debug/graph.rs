//! `rbuild debug graph`: what stages start from and read, and the image that each target gives.
//!
//! For linux/amd64 on linux/amd64, whatever this machine is: the same answer everywhere.

use std::collections::BTreeMap;

use frontend::diagnostic::Diagnostic;
use frontend::lower::graph::{self as stage_graph, StageBase, StageEdges};
use frontend::lower::{Images, LowerOptions};
use frontend::stages::Stages;
use frontend::{Lowered, Plan, stub};
use proto::entitlement::Entitlements;
use proto::oci::Config;
use proto::platform::Platform;
use serde::Serialize;

use super::args::GraphArgs;
use super::{Failure, File, dot, is_empty, print_json, text};
use crate::exit::Problem;
use crate::{ui, values};

/// A target and what became of it.
pub(super) struct Target {
    /// Empty: the last stage.
    pub(super) name: String,
    /// What is built, or why nothing is.
    pub(super) answer: Result<Box<Plan>, Vec<Diagnostic>>,
}

#[derive(Debug, Serialize)]
struct GraphJson<'a> {
    ok: bool,
    stages: Vec<StageJson<'a>>,
    targets: Vec<TargetJson<'a>>,
}

#[derive(Debug, Serialize)]
struct StageJson<'a> {
    index: usize,
    #[serde(skip_serializing_if = "is_empty")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    base_image: Option<&'a str>,
    #[serde(skip_serializing_if = "is_empty")]
    base_stage: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uses_stages: Vec<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uses_images: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct TargetJson<'a> {
    target: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "is_empty")]
    stages_needed: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Debug, Serialize)]
struct ImageJson<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    variant: &'a str,
    #[serde(skip_serializing_if = "is_empty")]
    author: &'a str,
    config: &'a Config,
}

/// Shows the graph.
///
/// # Errors
/// The file has mistakes, or an image that only a registry knows is needed.
pub(super) fn run(args: &GraphArgs) -> Result<(), Problem> {
    let file = File::read(&args.file)?;
    let json = args.form.json;
    if let Some(error) = &file.parsed.first_error {
        return Err(match json {
            true => File::fail_in_json(error.into()),
            false => file.fail(&file.parsed.diagnostics),
        });
    }
    let options = options(args)?;
    let edges = match stage_graph::edges(&file.source, &file.parsed, &options) {
        Ok(edges) => edges,
        Err(error) if json => return Err(File::fail_in_json(file.first(&[error]))),
        Err(error) => return Err(file.fail(&[error])),
    };
    let stages = Stages::split(&file.parsed.instructions);
    let names: Vec<Option<String>> = stages.list.into_iter().map(|stage| stage.name).collect();
    let targets = targets(&file, args, &options, &names)?;
    match (json, args.form.dot) {
        (true, _) => print_json(&graph_json(&file, &names, &edges, &targets)),
        (_, true) => ui::result(&dot::graph(&names, &edges)),
        _ => {
            ui::result(&text::graph(&names, &edges, &targets))?;
            tell_errors(&file, &targets)
        }
    }
}

/// Says once why targets cannot be built.
fn tell_errors(file: &File, targets: &[Target]) -> Result<(), Problem> {
    let mut told: Vec<Diagnostic> = Vec::new();
    for error in targets
        .iter()
        .filter_map(|target| target.answer.as_ref().err())
        .flatten()
    {
        if !told.contains(error) {
            told.push(error.clone());
        }
    }
    if told.is_empty() { Ok(()) } else { Err(file.fail(&told)) }
}

fn options(args: &GraphArgs) -> Result<LowerOptions, Problem> {
    let mut build_args = BTreeMap::new();
    for text in &args.build_args {
        let (name, value) = values::key_value("--build-arg", text)?;
        build_args.insert(name.to_owned(), value.to_owned());
    }
    Ok(LowerOptions {
        build_args,
        // Nothing runs, so nothing has to be granted.
        entitlements: Entitlements::all(),
        ..LowerOptions::new(Platform::new("linux", "amd64", ""))
    })
}

/// The targets that are asked for: one, or the last stage and then each name once.
fn targets(
    file: &File,
    args: &GraphArgs,
    options: &LowerOptions,
    names: &[Option<String>],
) -> Result<Vec<Target>, Problem> {
    let mut wanted = vec![args.target.clone().unwrap_or_default()];
    for name in names.iter().flatten().filter(|_| args.target.is_none()) {
        if !wanted.contains(name) {
            wanted.push(name.clone());
        }
    }
    let answers = wanted.into_iter().map(|name| {
        let options = LowerOptions {
            target: Some(name.clone()),
            ..options.clone()
        };
        let answer = lower(file, &options, args.stub_images)?;
        Ok(Target { name, answer })
    });
    answers.collect()
}

type Answer = Result<Box<Plan>, Vec<Diagnostic>>;

/// Findings that the file makes errors are not in the way: the graph is not about them.
fn lower(file: &File, options: &LowerOptions, stub_images: bool) -> Result<Answer, Problem> {
    let answer = lower_checked(file, options, stub_images)?;
    let is_check = |errors: &Vec<Diagnostic>| errors.iter().any(|error| error.code == "lint");
    if !answer.as_ref().is_err_and(is_check) {
        return Ok(answer);
    }
    let mut options = options.clone();
    options
        .build_args
        .insert("BUILDKIT_DOCKERFILE_CHECK".to_owned(), "skip=all".to_owned());
    lower_checked(file, &options, stub_images)
}

fn lower_checked(file: &File, options: &LowerOptions, stub_images: bool) -> Result<Answer, Problem> {
    if stub_images {
        return Ok(stub::lower_stubbed(&file.source, &file.parsed, options));
    }
    match frontend::lower(&file.source, &file.parsed, options, &Images::new()) {
        Ok(Lowered::Done(plan)) => Ok(Ok(plan)),
        Ok(Lowered::Need(requests)) => {
            let image = requests.first().map_or("", |request| request.reference.as_str());
            let problem = Problem::usage(format!(
                "the config of the image `{image}` is needed, and no registry is asked"
            ));
            Err(problem.help("add `--stub-images` to take every image for the same small one"))
        }
        Err(errors) => Ok(Err(errors)),
    }
}

fn graph_json<'a>(
    file: &File,
    names: &'a [Option<String>],
    edges: &'a [StageEdges],
    targets: &'a [Target],
) -> GraphJson<'a> {
    let stages = names.iter().zip(edges).enumerate();
    GraphJson {
        ok: true,
        stages: stages
            .map(|(index, (name, edges))| stage_json(index, name.as_deref(), edges))
            .collect(),
        targets: targets.iter().map(|target| target_json(file, target)).collect(),
    }
}

fn stage_json<'a>(index: usize, name: Option<&'a str>, edges: &'a StageEdges) -> StageJson<'a> {
    let (base_image, base_stage) = match &edges.base {
        StageBase::Image(image) => (Some(image.as_str()), None),
        StageBase::Stage(parent) => (None, Some(*parent)),
    };
    StageJson {
        index,
        name,
        base_image,
        base_stage,
        uses_stages: edges.stages.iter().copied().collect(),
        uses_images: edges.images.iter().map(String::as_str).collect(),
    }
}

fn target_json<'a>(file: &File, target: &'a Target) -> TargetJson<'a> {
    let (plan, error) = match &target.answer {
        Ok(plan) => (Some(plan), None),
        Err(errors) => (None, Some(file.first(errors))),
    };
    TargetJson {
        target: &target.name,
        ok: plan.is_some(),
        stages_needed: plan.map_or(&[], |plan| &plan.stages),
        image: plan.map(|plan| ImageJson {
            architecture: &plan.image.platform.architecture,
            os: &plan.image.platform.os,
            variant: &plan.image.platform.variant,
            author: &plan.image.author,
            config: &plan.image.config,
        }),
        error,
    }
}
