//! From the client's Dockerfile to a graph with pinned sources. The only file that knows Dockerfiles.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cache::lease::Lease;
use frontend::diagnostic::{Diagnostic, Severity};
use frontend::lower::LowerOptions;
use frontend::plan::{ImageFacts, ImageRequest, ImageTemplate, Lowered, Plan};
use frontend::source::SourceFile;
use futures_util::FutureExt;
use futures_util::future::{try_join, try_join_all};
use proto::definition::{Definition, VertexId};
use proto::digest::Digest;
use proto::platform::Platform;
use proto::v1::{self, event::Kind};

use crate::build::Job;
use crate::images::{self, ResolvedImage};
use crate::request::{Blame, BuildError, BuildRequest, NamedContext, Place};
use crate::sources::contexts::RemoteContexts;
use crate::sources::{self, Fetched, Source};
use crate::stack::Stack;
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
    /// What was fetched for the graph, by vertex.
    pub sources: HashMap<VertexId, Stack>,
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
    /// Its files, if the server fetched it; nothing if the client has it.
    pub fetched: Option<Stack>,
}

/// Reads the Dockerfile, lowers it until no base image is unknown, walks the contexts it reads, and fetches its remote
/// sources, which `lease` holds.
///
/// # Errors
/// Diagnostics of the Dockerfile, images that cannot be resolved, contexts and sources that cannot be read.
pub async fn make(request: &BuildRequest, job: &Job, lease: &Lease) -> Result<Planned, BuildError> {
    let remote = RemoteContexts::new(request, job, lease);
    let source = read(request, job, &remote).await?;
    let parsed = frontend::parse(&source);
    report(&source, &parsed.diagnostics, job)?;
    let mut options = options(request, job);
    if let Some(name) = frontend::epoch_context(&source, &parsed, &options) {
        let time = remote.time(&name).await?;
        options.context_times.insert(name, time);
    }
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
    let (contexts, fetched) = try_join(
        walk_contexts(&plan, job, &remote),
        fetch_sources(&plan, &source, job, lease),
    )
    .await?;
    let mut definition = plan.definition;
    let mut sources = HashMap::new();
    for (id, fetched) in fetched {
        definition.vertices[id.0 as usize].op = fetched.source.into_op();
        sources.insert(id, fetched.stack);
    }
    let project = project(request, job);
    Ok(Planned {
        definition: Arc::new(definition),
        target: plan.target,
        image: plan.image,
        images: resolved,
        contexts,
        sources,
        source: Arc::new(source),
        source_date_epoch: plan.source_date_epoch,
        project,
    })
}

/// What is built is told apart by its name, and what has no name by where it lies.
fn project(request: &BuildRequest, job: &Job) -> String {
    let place = match (request.tags.first(), request.contexts.get("context")) {
        (Some(tag), _) => tag.repository().to_owned(),
        (None, Some(NamedContext::Remote(source))) => source.shown(),
        (None, _) => job.session.place().unwrap_or_default(),
    };
    format!("{}\0{place}", request.dockerfile_name)
}

async fn read(request: &BuildRequest, job: &Job, remote: &RemoteContexts<'_>) -> Result<SourceFile, BuildError> {
    if request.dockerfile_path.is_some() {
        // A step of its own, which this one would only hide.
        remote.get("context").await?;
    }
    let name = format!("[internal] load build definition from {}", request.dockerfile_name);
    let bytes = job.step(&name, |_| remote.dockerfile()).await?;
    let text = String::from_utf8_lossy(&bytes.dockerfile).into_owned();
    Ok(SourceFile::new(request.dockerfile_name.clone(), text))
}

fn options(request: &BuildRequest, job: &Job) -> LowerOptions {
    let contexts = request.contexts.iter().map(|(name, context)| {
        let lowered = match context {
            NamedContext::Local | NamedContext::Remote(_) => frontend::NamedContext::Local,
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
        allow_network_host: request.allow_network_host,
        source_date_epoch: request.source_date_epoch,
        context_times: BTreeMap::new(),
        multi_platform: false,
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
        error
    })
}

async fn walk_contexts(
    plan: &Plan,
    job: &Job,
    remote: &RemoteContexts<'_>,
) -> Result<HashMap<String, Arc<Context>>, BuildError> {
    let walk = |(name, patterns): (String, Vec<String>)| async move {
        if let Some(stack) = remote.files(&name).await? {
            let context = Context {
                name: name.clone(),
                tree: Arc::default(),
                excluded: Vec::new(),
                fetched: Some(stack),
            };
            return Ok::<_, BuildError>((name, Arc::new(context)));
        }
        let step = format!("[internal] load build context {name}");
        let walked = job.step(&step, |_| job.session.walk(&name, &patterns)).await?;
        let context = Context {
            name: name.clone(),
            tree: Arc::new(MergedTree::new(vec![Arc::new(walked.tree)])),
            excluded: walked.excluded,
            fetched: None,
        };
        Ok((name, Arc::new(context)))
    };
    let walks: Vec<_> = plan
        .selections()
        .into_iter()
        .map(|selection| walk(selection).boxed())
        .collect();
    Ok(try_join_all(walks).await?.into_iter().collect())
}

/// Fetches the remote sources of the graph, all at once.
async fn fetch_sources(
    plan: &Plan,
    source: &SourceFile,
    job: &Job,
    lease: &Lease,
) -> Result<Vec<(VertexId, Fetched)>, BuildError> {
    let vertices = plan.definition.vertices.iter().enumerate();
    let remote = vertices.filter_map(|(index, vertex)| Some((index, vertex, Source::of(&vertex.op)?)));
    let fetches = remote.map(|(index, vertex, wanted)| {
        let fetch = async move {
            let fetched = job
                .step(&vertex.name, |step| sources::fetch(&wanted, job, lease, step))
                .await;
            let id = VertexId(u32::try_from(index).expect("ids of a definition are 32 bits"));
            fetched.map(|fetched| (id, fetched)).map_err(|mut error| {
                let lines = vertex.lines.unwrap_or_default();
                error.place = error.place.or_else(|| place_of(source, lines, wanted.address()));
                error
            })
        };
        fetch.boxed()
    });
    try_join_all(fetches).await
}

/// The place of a word in some lines of the Dockerfile, or these lines if it is not written out there.
fn place_of(source: &SourceFile, (first, last): (u32, u32), word: &str) -> Option<Place> {
    let found = source.find_in_lines(first, last, word);
    (first > 0).then(|| match found {
        Some(span) => Place {
            start: span.start,
            end: span.end,
            line: source.line(span.start),
        },
        None => Place {
            start: 0,
            end: 0,
            line: first,
        },
    })
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
    let place = Place {
        start: first.span.start,
        end: first.span.end,
        line: source.line(first.span.start),
    };
    let mut error = BuildError::new(Blame::User, first.message);
    error.notes = first.notes;
    error.helps = first.helps;
    error.place = Some(place);
    error
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
        line: source.line(diagnostic.span.start),
    }
}
