//! From the client's Dockerfile to a graph with pinned sources. The only file that knows Dockerfiles.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use frontend::diagnostic::{Diagnostic, Severity};
use frontend::lower::LowerOptions;
use frontend::patterns::{IgnoreFile, Patterns};
use frontend::plan::{ImageFacts, ImageRequest, ImageTemplate, Lowered, Plan};
use frontend::source::{SourceFile, Span};
use futures_util::FutureExt;
use futures_util::future::{try_join, try_join_all};
use proto::definition::{Definition, VertexId};
use proto::digest::Digest;
use proto::platform::Platform;
use proto::v1::{self, event::Kind};

use crate::build::Job;
use crate::executor::emulation::Handlers;
use crate::images::{self, Lookup, ResolvedImage};
use crate::phase::Phase;
use crate::platforms::Shape;
use crate::request::{Blame, BuildError, BuildRequest, NamedContext, Place};
use crate::session::WantedContext;
use crate::sources::contexts::RemoteContexts;
use crate::sources::{self, Fetched, Source};
use crate::stack::Stack;
use crate::tree::MergedTree;

/// A build that is ready to be solved.
#[derive(Debug)]
pub struct Planned {
    /// The graphs of all platforms as one: what they share is there once.
    pub definition: Arc<Definition>,
    /// The images to make, in the order of the platforms.
    pub images_to_make: Vec<PlannedImage>,
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
    /// Tell this Dockerfile's steps from those of others, for explanations only; the most telling first.
    pub projects: Vec<String>,
}

/// The image for one platform.
#[derive(Debug)]
pub struct PlannedImage {
    /// The vertex whose result is the root filesystem; nothing for an empty one.
    pub target: Option<VertexId>,
    /// The image around it.
    pub template: ImageTemplate,
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

/// Reads the Dockerfile, lowers it for each platform until no base image is unknown, walks the contexts it reads, and fetches its
/// remote sources.
///
/// # Errors
/// Diagnostics of the Dockerfile, images that cannot be resolved, contexts and sources that cannot be read.
pub async fn make(request: &BuildRequest, job: &Job) -> Result<Planned, BuildError> {
    let remote = RemoteContexts::new(request, job);
    let dockerfile = Phase::Dockerfile.start();
    let (source, ignore) = read(request, job, &remote).await?;
    dockerfile.end();
    let parsing = Phase::Frontend.start();
    let parsed = frontend::parse(&source);
    parsing.end();
    let mut platforms = options(request, ignore.as_ref(), job);
    for options in &mut platforms {
        if let Some(name) = frontend::epoch_context(&source, &parsed, options) {
            let time = remote.time(&name).await?;
            options.context_times.insert(name, time);
        }
    }
    let mut resolver = Resolver {
        request,
        job,
        source: &source,
        facts: BTreeMap::new(),
        images: HashMap::new(),
    };
    let plans = loop {
        let lowering = Phase::Frontend.start();
        let lowered = platforms
            .iter()
            .map(|options| frontend::lower(&source, &parsed, options, &resolver.facts));
        let lowered = together(lowered).map_err(|errors| first_error(&source, errors, job))?;
        lowering.end();
        match lowered {
            Together::Done(plans) => break plans,
            Together::Need(wanted) => {
                let _metadata = Phase::Metadata.start();
                resolver.resolve(wanted).await?;
            }
        }
    };
    let images = resolver.images;
    warn(&source, &plans, job);
    let source_date_epoch = plans.iter().find_map(|plan| plan.source_date_epoch);
    let mut definition = Definition::default();
    let mut images_to_make = Vec::with_capacity(plans.len());
    for plan in plans {
        images_to_make.push(merge(&mut definition, plan));
    }
    let (contexts, fetched) = try_join(
        walk_contexts(&definition, request, job, &remote),
        fetch_sources(&definition, &source, job),
    )
    .await?;
    let mut sources = HashMap::new();
    for (id, fetched) in fetched {
        definition.vertices[id.0 as usize].op = fetched.source.into_op();
        sources.insert(id, fetched.stack);
    }
    Ok(Planned {
        contexts,
        definition: Arc::new(definition),
        images_to_make,
        images,
        sources,
        source: Arc::new(source),
        source_date_epoch,
        projects: projects(request, job),
    })
}

/// The answers of lowering for all platforms as one.
enum Together {
    /// Images that some platform must know first.
    Need(Vec<ImageRequest>),
    /// A plan a platform.
    Done(Vec<Plan>),
}

/// # Errors
/// Every mistake once, in order of their places.
fn together(lowered: impl Iterator<Item = Result<Lowered, Vec<Diagnostic>>>) -> Result<Together, Vec<Diagnostic>> {
    let (mut plans, mut wanted, mut errors) = (Vec::new(), Vec::<ImageRequest>::new(), Vec::new());
    for lowered in lowered {
        match lowered {
            Ok(Lowered::Done(plan)) => plans.push(*plan),
            Ok(Lowered::Need(requests)) => {
                let image = |request: &ImageRequest| (request.reference.clone(), request.platform.clone());
                let known: Vec<_> = wanted.iter().map(image).collect();
                wanted.extend(requests.into_iter().filter(|request| !known.contains(&image(request))));
            }
            Err(found) => errors.extend(found),
        }
    }
    if !errors.is_empty() {
        return Err(once(errors));
    }
    Ok(match wanted.is_empty() {
        true => Together::Done(plans),
        false => Together::Need(wanted),
    })
}

/// Several platforms find the same things; each is said once, in the order of the file.
fn once(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut seen = Vec::new();
    diagnostics.retain(|found| {
        let new = !seen.contains(found);
        seen.extend(new.then(|| found.clone()));
        new
    });
    diagnostics.sort_by_key(|found| found.span);
    diagnostics
}

fn merge(definition: &mut Definition, plan: Plan) -> PlannedImage {
    let names = definition.merge(plan.definition);
    let rename = |id: VertexId| names[id.0 as usize];
    let mut template = plan.image;
    for entry in &mut template.history {
        entry.layer = entry.layer.map(rename);
    }
    PlannedImage {
        target: plan.target.map(rename),
        template,
    }
}

/// What is built is told apart by its name and by where it lies: in CI the place is another one each time, on a desk the name comes
/// last.
fn projects(request: &BuildRequest, job: &Job) -> Vec<String> {
    let name = request.tags.first().map(|tag| tag.repository().to_owned());
    let place = match request.contexts.get("context") {
        Some(NamedContext::Remote(source)) => source.shown(),
        _ => job.session.place().unwrap_or_default(),
    };
    // A context without a place would be the same project as every other one of these.
    let place = Some(place).filter(|place| name.is_none() || !place.is_empty());
    let projects = name.into_iter().chain(place);
    projects
        .map(|project| format!("{}\0{project}", request.dockerfile_name))
        .collect()
}

/// The Dockerfile, and what its ignore file excludes, for warnings.
async fn read(
    request: &BuildRequest,
    job: &Job,
    remote: &RemoteContexts<'_>,
) -> Result<(SourceFile, Option<Patterns>), BuildError> {
    if request.dockerfile_path.is_some() {
        // A step of its own, which this one would only hide.
        remote.get("context").await?;
    }
    let name = format!("[internal] load build definition from {}", request.dockerfile_name);
    let bytes = job.step(&name, |_| remote.dockerfile()).await?;
    let text = String::from_utf8_lossy(&bytes.dockerfile).into_owned();
    let ignore = bytes.ignore.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // A broken ignore file is told by the walk of the context, and only if there is one.
    let patterns = ignore.and_then(|text| IgnoreFile::parse(&text).ok());
    Ok((SourceFile::new(request.dockerfile_name.clone(), text), patterns))
}

/// What to lower with, for each platform.
fn options(request: &BuildRequest, ignore: Option<&Patterns>, job: &Job) -> Vec<LowerOptions> {
    let native = &job.host.platform;
    if request.platforms.is_empty() {
        let runnable = Handlers::read().runnable(native);
        return vec![options_for(native, Some(runnable), ignore, request, job)];
    }
    let platforms = request.platforms.iter();
    platforms
        .map(|platform| options_for(platform, None, ignore, request, job))
        .collect()
}

fn options_for(
    platform: &Platform,
    adoptable: Option<Vec<Platform>>,
    ignore: Option<&Patterns>,
    request: &BuildRequest,
    job: &Job,
) -> LowerOptions {
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
        platform: platform.clone(),
        adoptable,
        build_platform: job.host.platform.clone(),
        default_network: request.network,
        default_security: request.security,
        extra_hosts: request.add_hosts.clone(),
        shm_size_bytes: request.shm_size_bytes,
        contexts: contexts.collect(),
        entitlements: request.entitlements.clone(),
        source_date_epoch: request.source_date_epoch,
        multi_platform: request.shape == Shape::Index,
        ignore: ignore.cloned(),
        context_times: BTreeMap::new(),
    }
}

/// Finds base images, and remembers them.
struct Resolver<'a> {
    request: &'a BuildRequest,
    job: &'a Job,
    source: &'a SourceFile,
    facts: BTreeMap<(String, Platform), ImageFacts>,
    images: HashMap<Digest, Arc<ResolvedImage>>,
}

impl Resolver<'_> {
    /// Different names at once; one name for one platform after the other.
    async fn resolve(&mut self, wanted: Vec<ImageRequest>) -> Result<(), BuildError> {
        let mut by_name: BTreeMap<String, Vec<ImageRequest>> = BTreeMap::new();
        for wanted in wanted {
            by_name.entry(wanted.reference.clone()).or_default().push(wanted);
        }
        let this = &*self;
        let names = by_name.into_values().map(|wanted| this.resolve_name(wanted).boxed());
        for (wanted, image) in try_join_all(names).await?.into_iter().flatten() {
            let fact = ImageFacts {
                manifest: image.manifest,
                config: image.config.clone(),
            };
            self.facts.insert((wanted.reference, wanted.platform), fact);
            self.images.insert(image.manifest, image);
        }
        Ok(())
    }

    /// One name for several platforms is one image: from the store if that has it for all of them, else what the registry has
    /// behind it at the first question.
    async fn resolve_name(
        &self,
        wanted: Vec<ImageRequest>,
    ) -> Result<Vec<(ImageRequest, Arc<ResolvedImage>)>, BuildError> {
        let mut found = Vec::with_capacity(wanted.len());
        let name = &wanted[0].reference;
        let platforms = wanted.iter().map(|wanted| &wanted.platform);
        let pin = self.pin_of(name);
        let mut lookup = Lookup {
            store: !self.request.pull && pin.is_none() && images::all_in_store(name, platforms, self.job),
            pin,
        };
        for wanted in wanted {
            let image = self.resolve_one(&wanted, lookup).await?;
            lookup.pin = lookup.pin.or(image.pin);
            found.push((wanted, Arc::new(image)));
        }
        Ok(found)
    }

    /// What an earlier round found behind the name.
    fn pin_of(&self, reference: &str) -> Option<Digest> {
        let known = self.facts.iter().filter(|((name, _), _)| name == reference);
        known
            .filter_map(|(_, fact)| self.images.get(&fact.manifest))
            .find_map(|image| image.pin)
    }

    async fn resolve_one(&self, wanted: &ImageRequest, lookup: Lookup) -> Result<ResolvedImage, BuildError> {
        let (request, job) = (self.request, self.job);
        let prefix = match request.shape {
            Shape::Index => format!("{} internal", wanted.platform),
            Shape::Image => "internal".to_owned(),
        };
        let name = format!("[{prefix}] load metadata for {}", wanted.reference);
        let result = job
            .step(&name, |_| {
                images::resolve(&wanted.reference, &wanted.platform, lookup, request, job)
            })
            .await;
        result.map_err(|mut error| {
            error.place = place(self.source, wanted.span);
            if let Some(word) = &wanted.no_stage {
                let note = format!("no stage is called `{word}`, so it was looked for as an image");
                error.notes.push(note);
            }
            if let Some(near) = &wanted.near_stage {
                error.helps.push(format!("did you mean the stage `{near}`?"));
            }
            error
        })
    }
}

async fn walk_contexts(
    definition: &Definition,
    request: &BuildRequest,
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
        let wanted = WantedContext {
            name: &name,
            include: &patterns,
            modes: request.context_modes,
        };
        let walk = || job.session.walk(&wanted, &job.host.context_trees);
        let walked = job.step(&step, |_| walk()).await?;
        let context = Context {
            name: name.clone(),
            tree: walked.tree,
            excluded: walked.excluded,
            fetched: None,
        };
        Ok((name, Arc::new(context)))
    };
    let walks: Vec<_> = frontend::plan::selections(definition)
        .into_iter()
        .map(|selection| walk(selection).boxed())
        .collect();
    Ok(try_join_all(walks).await?.into_iter().collect())
}

/// Fetches the remote sources of the graph, all at once.
async fn fetch_sources(
    definition: &Definition,
    source: &SourceFile,
    job: &Job,
) -> Result<Vec<(VertexId, Fetched)>, BuildError> {
    let vertices = definition.vertices.iter().enumerate();
    let remote = vertices.filter_map(|(index, vertex)| Some((index, vertex, Source::of(&vertex.op)?)));
    let fetches = remote.map(|(index, vertex, wanted)| {
        let fetch = async move {
            let fetched = job.step(&vertex.name, |step| sources::fetch(&wanted, job, step)).await;
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

/// Tells the client what is doubtful.
fn warn(source: &SourceFile, plans: &[Plan], job: &Job) {
    let warnings = plans.iter().flat_map(|plan| plan.diagnostics.iter().cloned());
    for warning in once(warnings.collect()) {
        job.events.publish(Kind::Diagnostic(to_wire(source, &warning)));
    }
}

/// The first error as the failure of the build; all else is told beside it.
fn first_error(source: &SourceFile, found: Vec<Diagnostic>, job: &Job) -> BuildError {
    let is_error = |found: &Diagnostic| found.severity == Severity::Error;
    let Some(at) = found.iter().position(is_error) else {
        return BuildError::bug("the Dockerfile was refused without a reason");
    };
    let mut others = found;
    let first = others.remove(at);
    for other in others {
        job.events.publish(Kind::Diagnostic(to_wire(source, &other)));
    }
    let place = place(source, first.span);
    let mut error = BuildError::new(Blame::User, first.message);
    error.notes = first.notes;
    error.helps = first.helps;
    error.place = place;
    error
}

/// Where a span is; nothing for what no part of the file is to blame for.
fn place(source: &SourceFile, span: Span) -> Option<Place> {
    (span != Span::default()).then(|| Place {
        start: span.start,
        end: span.end,
        line: source.line(span.start),
    })
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
        line: place(source, diagnostic.span).map_or(0, |place| place.line),
    }
}
