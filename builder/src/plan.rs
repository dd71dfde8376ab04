//! From the client's Dockerfile to a graph with pinned sources. The only file that knows Dockerfiles.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use frontend::diagnostic::{Diagnostic, Severity};
use frontend::lower::LowerOptions;
use frontend::patterns::{IgnoreFile, Patterns};
use frontend::plan::{ImageFacts, ImageRequest, ImageTemplate, Lowered, Plan};
use frontend::source::{SourceFile, Span};
use futures_util::FutureExt;
use futures_util::future::try_join_all;
use proto::definition::{Definition, VertexId};
use proto::digest::Digest;
use proto::platform::Platform;
use proto::v1::{self, event::Kind};

use crate::build::Job;
use crate::images::{self, ResolvedImage};
use crate::request::{Blame, BuildError, BuildRequest, NamedContext, Place};
use crate::tree::MergedTree;

/// A build that is ready to be solved.
#[derive(Debug)]
pub struct Planned {
    /// The graph.
    pub definition: Arc<Definition>,
    /// The vertex whose result is the root filesystem; nothing for an empty one.
    pub target: Option<VertexId>,
    /// The image around it.
    pub image: ImageTemplate,
    /// Pinned images, by their platform manifests.
    pub images: HashMap<Digest, Arc<ResolvedImage>>,
    /// Contexts that the graph reads, by name.
    pub contexts: HashMap<String, Arc<Context>>,
    /// The Dockerfile, for places in messages.
    pub source: Arc<SourceFile>,
    /// Limit of times in seconds since 1970: from the client, a build argument, or the Dockerfile.
    pub source_date_epoch: Option<i64>,
    /// Tells this Dockerfile's steps from those of others, for explanations only.
    pub project: String,
}

/// A build context as far as this build reads it.
#[derive(Debug)]
pub struct Context {
    /// Its name in the session.
    pub name: String,
    /// What of it is selected.
    pub tree: Arc<MergedTree>,
    /// What is there but excluded: path, pattern, line.
    pub excluded: Vec<(String, String, u32)>,
}

/// Reads the Dockerfile, lowers it until no base image is unknown, and walks the contexts it reads.
///
/// # Errors
/// Diagnostics of the Dockerfile, images that cannot be resolved, contexts that cannot be read.
pub async fn make(request: &BuildRequest, job: &Job) -> Result<Planned, BuildError> {
    let (source, ignore) = read(request, job).await?;
    let parsed = frontend::parse(&source);
    let options = options(request, ignore, job);
    let mut facts: BTreeMap<(String, Platform), ImageFacts> = BTreeMap::new();
    let mut resolved = HashMap::new();
    let plan = loop {
        let lowered = frontend::lower(&source, &parsed, &options, &facts);
        match lowered.map_err(|errors| first_error(&source, errors, job))? {
            Lowered::Done(plan) => break *plan,
            Lowered::Need(wanted) => {
                let images = try_join_all(
                    wanted
                        .iter()
                        .map(|wanted| resolve(wanted, request, job, &source).boxed()),
                )
                .await?;
                for (wanted, image) in wanted.into_iter().zip(images) {
                    let fact = ImageFacts {
                        manifest: image.manifest,
                        config: image.config.clone(),
                    };
                    facts.insert((wanted.reference, wanted.platform), fact);
                    resolved.insert(image.manifest, image);
                }
            }
        }
    };
    report(&source, &plan.diagnostics, job)?;
    let contexts = walk_contexts(&plan, job).await?;
    let project = project(request, job);
    Ok(Planned {
        definition: Arc::new(plan.definition),
        target: plan.target,
        image: plan.image,
        images: resolved,
        contexts,
        source: Arc::new(source),
        source_date_epoch: plan.source_date_epoch,
        project,
    })
}

/// What is built is told apart by its name, and what has no name by where it lies.
fn project(request: &BuildRequest, job: &Job) -> String {
    let place = match request.tags.first() {
        Some(tag) => tag.repository().to_owned(),
        None => job.session.place().unwrap_or_default(),
    };
    format!("{}\0{place}", request.dockerfile_name)
}

/// The Dockerfile, and what its ignore file excludes, for warnings.
async fn read(request: &BuildRequest, job: &Job) -> Result<(SourceFile, Option<Patterns>), BuildError> {
    let name = format!("[internal] load build definition from {}", request.dockerfile_name);
    let bytes = job.step(&name, |_| job.session.read_dockerfile()).await?;
    let text = String::from_utf8_lossy(&bytes.dockerfile).into_owned();
    let ignore = bytes.ignore.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // A broken ignore file is told by the walk of the context, and only if there is one.
    let patterns = ignore.and_then(|text| IgnoreFile::parse(&text).ok());
    Ok((SourceFile::new(request.dockerfile_name.clone(), text), patterns))
}

fn options(request: &BuildRequest, ignore: Option<Patterns>, job: &Job) -> LowerOptions {
    let contexts = request.contexts.iter().map(|(name, context)| {
        let lowered = match context {
            NamedContext::Local => frontend::NamedContext::Local,
            NamedContext::Image(reference) => frontend::NamedContext::Image(reference.to_string()),
            NamedContext::OciLayout { .. } => frontend::NamedContext::Image(images::layout_name(name)),
        };
        (name.clone(), lowered)
    });
    LowerOptions {
        target: request.target.clone(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        platform: request.platform.clone(),
        build_platform: job.host.platform.clone(),
        default_network: request.network,
        extra_hosts: request.add_hosts.clone(),
        shm_size_bytes: request.shm_size_bytes,
        contexts: contexts.collect(),
        entitlements: request.entitlements.clone(),
        source_date_epoch: request.source_date_epoch,
        multi_platform: false,
        ignore,
    }
}

async fn resolve(
    wanted: &ImageRequest,
    request: &BuildRequest,
    job: &Job,
    source: &SourceFile,
) -> Result<Arc<ResolvedImage>, BuildError> {
    let name = format!("[internal] load metadata for {}", wanted.reference);
    let result = job
        .step(&name, |_| {
            images::resolve(&wanted.reference, &wanted.platform, request, job)
        })
        .await;
    result.map(Arc::new).map_err(|mut error| {
        let (start, end) = (wanted.span.start, wanted.span.end);
        error.place = Some(Place {
            start,
            end,
            line: source.line(start),
        });
        if let Some(near) = &wanted.near_stage {
            error.helps.push(format!("did you mean the stage `{near}`?"));
        }
        error
    })
}

async fn walk_contexts(plan: &Plan, job: &Job) -> Result<HashMap<String, Arc<Context>>, BuildError> {
    let walk = |(name, patterns): (String, Vec<String>)| async move {
        let step = format!("[internal] load build context {name}");
        let walked = job.step(&step, |_| job.session.walk(&name, &patterns)).await?;
        let context = Context {
            name: name.clone(),
            tree: Arc::new(MergedTree::new(vec![Arc::new(walked.tree)])),
            excluded: walked.excluded,
        };
        Ok::<_, BuildError>((name, Arc::new(context)))
    };
    let walks: Vec<_> = plan
        .selections()
        .into_iter()
        .map(|selection| walk(selection).boxed())
        .collect();
    Ok(try_join_all(walks).await?.into_iter().collect())
}

/// Tells warnings to the client; the first error becomes the build's failure.
fn report(source: &SourceFile, diagnostics: &[Diagnostic], job: &Job) -> Result<(), BuildError> {
    let (errors, warnings): (Vec<_>, Vec<_>) = diagnostics
        .iter()
        .cloned()
        .partition(|diagnostic| diagnostic.severity == Severity::Error);
    for warning in &warnings {
        job.events.publish(Kind::Diagnostic(to_wire(source, warning)));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(first_error(source, errors, job))
    }
}

/// The first error as the failure of the build; the others are told beside it.
fn first_error(source: &SourceFile, errors: Vec<Diagnostic>, job: &Job) -> BuildError {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else {
        return BuildError::bug("the Dockerfile was refused without a reason");
    };
    for error in errors {
        job.events.publish(Kind::Diagnostic(to_wire(source, &error)));
    }
    let place = (first.span != Span::default()).then(|| Place {
        start: first.span.start,
        end: first.span.end,
        line: source.line(first.span.start),
    });
    let mut error = BuildError::new(Blame::User, first.message);
    error.notes = first.notes;
    error.helps = first.helps;
    error.place = place;
    error
}

/// From 1; 0 for what has no place, such as a target that no stage has.
fn line(source: &SourceFile, span: Span) -> u32 {
    if span == Span::default() {
        0
    } else {
        source.line(span.start)
    }
}

fn to_wire(source: &SourceFile, diagnostic: &Diagnostic) -> v1::Diagnostic {
    use v1::diagnostic::Severity as Wire;
    let severity = match diagnostic.severity {
        Severity::Warning => Wire::Warning,
        Severity::Error => Wire::Error,
    };
    v1::Diagnostic {
        severity: severity.into(),
        code: diagnostic.code.to_owned(),
        message: diagnostic.message.clone(),
        notes: diagnostic.notes.clone(),
        helps: diagnostic.helps.clone(),
        start: diagnostic.span.start,
        end: diagnostic.span.end,
        line: line(source, diagnostic.span),
    }
}
