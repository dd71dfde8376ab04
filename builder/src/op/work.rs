//! What the solver calls when a vertex must be keyed or run: one arm per op, no more.

use std::collections::HashMap;
use std::sync::Arc;

use cache::records::RecordStore;
use frontend::source::SourceFile;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::definition::{Definition, Op, VertexId};
use proto::digest::Digest;
use proto::platform::Platform;
use proto::record::Field;
use proto::tree::RelPath;

use super::{content, exec, file};
use crate::build::Job;
use crate::export::early::Early;
use crate::images::ResolvedImage;
use crate::layers::KnownFiles;
use crate::plan::{Context, Planned};
use crate::request::{BuildError, Place};
use crate::solve::ledger::Ledger;
use crate::solve::slot::Slot;
use crate::solve::transcript::Transcript;
use crate::solve::{Inputs, Run, Work};
use crate::stack::{Layer, Stack};

/// The ops of one build.
#[derive(Debug, Clone)]
pub struct BuildWork {
    /// What every part of the build may use.
    pub job: Job,
    /// The graph.
    pub definition: Arc<Definition>,
    images: HashMap<Digest, Arc<ResolvedImage>>,
    contexts: HashMap<String, Arc<Context>>,
    sources: HashMap<VertexId, Stack>,
    source: Arc<SourceFile>,
    ledger: Arc<Ledger>,
    /// What a step runs by.
    pub slot: Slot,
    /// Where a step also says what it prints.
    pub transcript: Option<Transcript>,
    early: Arc<Early>,
}

/// Where files are taken from.
#[derive(Debug, Clone)]
pub enum FilesOf {
    /// A context of the client.
    Context(Arc<Context>),
    /// A stage or an image.
    Stack(Stack),
}

impl BuildWork {
    /// The ops of `planned`; `ledger` knows what they had before, `early` is told of results.
    #[must_use]
    pub fn new(job: &Job, planned: &Planned, ledger: &Arc<Ledger>, early: &Arc<Early>) -> Self {
        Self {
            early: Arc::clone(early),
            job: job.clone(),
            definition: Arc::clone(&planned.definition),
            images: planned.images.clone(),
            contexts: planned.contexts.clone(),
            sources: planned.sources.clone(),
            source: Arc::clone(&planned.source),
            ledger: Arc::clone(ledger),
            slot: Slot::default(),
            transcript: None,
        }
    }

    /// What the image at the bottom of the root filesystem of `id` says that it runs on; nothing without an image, or if it does
    /// not say.
    #[must_use]
    pub fn platform_below(&self, id: VertexId) -> Option<Platform> {
        let mut below = id;
        loop {
            below = match &self.definition.vertex(below).op {
                Op::Exec(exec) => exec.root?,
                Op::File(file) => file.root?,
                Op::Local(_) | Op::Http(_) | Op::Git(_) => return None,
                Op::Image(image) => {
                    let config = &self.images.get(&image.manifest)?.config;
                    let said = !config.os.is_empty() && !config.architecture.is_empty();
                    return said.then(|| Platform::new(&config.os, &config.architecture, &config.variant));
                }
            };
        }
    }

    /// The files of the layer that `id` made in the last build, as far as they are here.
    #[must_use]
    pub fn files_before(&self, id: VertexId) -> Option<KnownFiles> {
        let store = &self.job.host.store;
        let (_, before) = self.ledger.past(store, &self.definition).partner(id)?;
        let record = store.records().lookup(&[before.key?]).pop()??;
        self.job.host.layers.known_files(&record.layer)
    }

    /// The place of the instruction behind a vertex, narrowed down to `word` if it says that.
    #[must_use]
    pub fn place(&self, id: VertexId, word: Option<&str>) -> Option<Place> {
        let (first, last) = self.definition.vertex(id).lines?;
        let found = word.and_then(|word| self.source.find_in_lines(first, last, word));
        Some(match found {
            Some(span) => Place {
                start: span.start,
                end: span.end,
                line: self.source.line(span.start),
            },
            None => Place {
                start: 0,
                end: 0,
                line: first,
            },
        })
    }

    /// The pattern and line of the ignore file that keeps `path` out of a context, if one does.
    #[must_use]
    pub fn excluded(&self, context: &str, path: &RelPath) -> Option<(String, u32)> {
        let excluded = &self.contexts.get(context)?.excluded;
        let (_, pattern, line) = excluded
            .iter()
            .find(|(excluded, _, _)| RelPath::clean(excluded.as_bytes()) == *path)?;
        Some((pattern.clone(), *line))
    }

    /// The files behind an input.
    ///
    /// # Errors
    /// If the input is neither known nor a source: a mistake of the solver.
    pub fn files_of(&self, id: VertexId, inputs: &Inputs) -> Result<FilesOf, BuildError> {
        match &self.definition.vertex(id).op {
            Op::Local(local) => {
                let context = self.contexts.get(&local.name);
                let context =
                    context.ok_or_else(|| BuildError::bug(format!("context `{}` was not walked", local.name)))?;
                Ok(match &context.fetched {
                    Some(stack) => FilesOf::Stack(stack.clone()),
                    None => FilesOf::Context(Arc::clone(context)),
                })
            }
            Op::Image(_) | Op::Http(_) | Op::Git(_) => Ok(FilesOf::Stack(self.source(id))),
            Op::Exec(_) | Op::File(_) => {
                let output = inputs
                    .get(id)
                    .ok_or_else(|| BuildError::bug("an input was read before it was done"))?;
                Ok(FilesOf::Stack(output.stack.clone()))
            }
        }
    }
}

impl Work for BuildWork {
    fn source(&self, id: VertexId) -> Stack {
        match &self.definition.vertex(id).op {
            Op::Image(image) => self
                .images
                .get(&image.manifest)
                .map(|image| image.stack.clone())
                .unwrap_or_default(),
            Op::Http(_) | Op::Git(_) => self.sources.get(&id).cloned().unwrap_or_default(),
            _ => Stack::default(),
        }
    }

    fn content<'a>(&'a self, id: VertexId, inputs: &'a Inputs) -> BoxFuture<'a, Result<Vec<Field>, BuildError>> {
        content::fields(self, id, inputs).boxed()
    }

    fn listing<'a>(&'a self, id: VertexId, inputs: &'a Inputs) -> BoxFuture<'a, Result<Vec<Field>, BuildError>> {
        content::listing(self, id, inputs).boxed()
    }

    fn run<'a>(&'a self, id: VertexId, inputs: &'a Inputs, run: &Run) -> BoxFuture<'a, Result<Layer, BuildError>> {
        let step = run.step;
        let mut work = self.clone();
        work.job.cancel = run.cancel.clone();
        work.slot.clone_from(&run.slot);
        work.transcript.clone_from(&run.transcript);
        async move {
            let done = match &work.definition.vertex(id).op {
                Op::File(op) => file::run(&work, id, op, inputs, step).await,
                Op::Exec(op) => exec::run(&work, id, op, inputs, step).await,
                Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => {
                    Err(BuildError::bug("a source has no work to run"))
                }
            };
            // Nobody but this knows the session, and everybody will be told of a failure.
            done.map_err(|error| error.scrubbed(work.job.session.secrets()))
        }
        .boxed()
    }

    fn is_present(&self, stack: &Stack) -> bool {
        let Some((layer, chain)) = stack.layers().last().zip(stack.chain()) else {
            return true;
        };
        self.job.host.layers.is_local(layer, chain)
    }

    fn made(&self, id: VertexId, stack: &Stack) {
        self.early.made(id, stack);
    }
}
