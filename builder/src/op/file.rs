//! `COPY`, `ADD`, `WORKDIR`: planned on trees, written as a layer; nothing is mounted, and a base image is never unpacked for it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use proto::definition::{CopyAction, CopySource, FileAction, FileOp, Id, Op, Owner, Unpack, VertexId};
use proto::tree::{EntryKind, RelPath, Timestamp, TreeEntry};

use super::archive::{self, Archive};
use super::copy::{self, PlannedContent, PlannedEntry, SelectedSource};
use super::mkdir;
use super::select::{self, SelectError, Selected, Selection};
use super::source::Reader;
use super::work::{BuildWork, FilesOf};
use crate::blocking;
use crate::event::StepNumber;
use crate::layer::entry::{Content, LayerEntry, SnapshotDir};
use crate::layers::{Layers, is_damage, store_failed};
use crate::request::BuildError;
use crate::solve::Inputs;
use crate::stack::{Layer, Stack};
use crate::tree::MergedTree;

/// Does the work and returns the layer.
///
/// # Errors
/// Sources that do not exist, cannot be read or changed meanwhile; destinations that make no sense; a full disk.
pub async fn run(
    work: &BuildWork,
    id: VertexId,
    op: &FileOp,
    inputs: &Inputs,
    step: StepNumber,
) -> Result<Layer, BuildError> {
    let layers = &work.job.host.layers;
    let below = match &op.action {
        // Such a layer is the same on every root: the one at hand need not even be here.
        FileAction::Copy(copy) if copy::is_on_empty(copy) => Stack::default(),
        _ => inputs.stack(op.root),
    };
    let parent = MergedTree::new(layers.trees(&below, &work.job, step).await?);
    let owner = match &op.action {
        FileAction::MakeDir(make) => make.owner.as_ref(),
        FileAction::Copy(copy) => copy.owner.as_ref(),
    };
    let databases = Databases::open(work, &below, owner, step).await?;
    let entries = match &op.action {
        FileAction::MakeDir(make) => {
            let mut lookup = |path: &RelPath| databases.read(&parent, path);
            let has_root = !parent.layers().is_empty();
            let planned = mkdir::plan(&parent, make, has_root.then_some(&mut lookup), now(work));
            let planned = planned.map_err(|error| failed(work, id, &error))?;
            planned
                .into_iter()
                .map(|entry| LayerEntry {
                    entry,
                    content: Content::None,
                })
                .collect()
        }
        FileAction::Copy(copy) => {
            let copying = Copying {
                work,
                id,
                copy,
                inputs,
                step,
            };
            copying.entries(&parent, &databases).await?
        }
    };
    let layers = layers.clone();
    blocking::run(move || layers.write(&entries)).await
}

/// One copy that is being done.
struct Copying<'a> {
    work: &'a BuildWork,
    id: VertexId,
    copy: &'a CopyAction,
    inputs: &'a Inputs,
    step: StepNumber,
}

impl Copying<'_> {
    async fn entries(&self, parent: &MergedTree, databases: &Databases) -> Result<Vec<LayerEntry>, BuildError> {
        let mut sources = Vec::new();
        let mut unpacked = Vec::new();
        for source in &self.copy.sources {
            let mut archives = BTreeMap::new();
            sources.push(match source {
                CopySource::Inline(_) => SelectedSource::Inline,
                CopySource::Path { from, pattern } => {
                    let tree = tree_of(self.work, *from, self.inputs, self.step).await?;
                    let selection = Selection {
                        pattern,
                        exclude: &self.copy.exclude,
                        parents: self.copy.parents,
                    };
                    let selected = selected(self.work, self.id, *from, &selection, &tree)?;
                    let wanted = match self.copy.unpack {
                        Unpack::Nothing => false,
                        Unpack::Context => matches!(self.work.definition.vertex(*from).op, Op::Local(_)),
                        Unpack::Everything => true,
                    };
                    if wanted {
                        archives = self.archives(*from, &selected).await?;
                    }
                    let trees: BTreeMap<_, _> = archives
                        .iter()
                        .map(|(root, archive)| (*root, Arc::clone(&archive.tree)))
                        .collect();
                    if trees.is_empty() {
                        SelectedSource::Path(selected)
                    } else {
                        SelectedSource::Archives {
                            selected,
                            archives: trees,
                        }
                    }
                }
            });
            unpacked.push(archives);
        }
        let mut lookup = |path: &RelPath| databases.read(parent, path);
        let planned = copy::plan(parent, self.copy, &sources, &mut lookup, now(self.work));
        let planned = planned.map_err(|error| failed(self.work, self.id, &error))?;
        self.with_contents(planned, &unpacked).await
    }

    /// The archives among the files that a source of `ADD` names, by their position in the selection.
    async fn archives(&self, from: VertexId, selected: &Selected) -> Result<BTreeMap<usize, Archive>, BuildError> {
        let mut archives = BTreeMap::new();
        for (index, root) in selected.roots.iter().enumerate() {
            let Some(top) = root
                .top
                .as_ref()
                .filter(|top| matches!(top.entry.kind, EntryKind::File { .. }))
            else {
                continue;
            };
            let reader = Reader::open(self.work, from, self.inputs, self.step, None).await?;
            let content = reader.content(&top.content, top.layer, &top.entry.kind);
            let spool_dir = self.work.job.host.store.tmp_dir();
            let (layers, entry) = (self.work.job.host.layers.clone(), top.entry.clone());
            let path = root.path.clone();
            let opened = blocking::run(move || {
                let broken = |error: &(dyn std::error::Error + 'static)| {
                    if is_damage(error) {
                        return store_failed(error);
                    }
                    let mut failure = BuildError::user(format!("archive `{path}`: {error}"));
                    failure.notes.extend(error.source().map(ToString::to_string));
                    failure
                };
                let file = super::source::open_regular(&entry, &content, &layers, &spool_dir);
                let file = file.map_err(|error| broken(&error))?;
                archive::open(file, &spool_dir).map_err(|error| broken(&error))
            });
            if let Some(archive) = opened.await.map_err(|error| at(self.work, self.id, error))? {
                archives.insert(index, archive);
            }
        }
        Ok(archives)
    }

    /// Says of each planned file where its bytes are. Stages are unpacked only if a file of them is wanted.
    async fn with_contents(
        &self,
        mut planned: Vec<PlannedEntry>,
        unpacked: &[BTreeMap<usize, Archive>],
    ) -> Result<Vec<LayerEntry>, BuildError> {
        let wanted = |index: usize| {
            let is_from = |from: &PlannedContent| matches!(from, PlannedContent::Source { source_index, .. } if *source_index == index);
            planned.iter().any(|entry| is_from(&entry.from))
        };
        // One reader for all sources of a context: its files are read in the order of the layer, not source by source.
        let mut readers: BTreeMap<VertexId, Reader> = BTreeMap::new();
        for (index, source) in self.copy.sources.iter().enumerate() {
            if let CopySource::Path { from, .. } = source
                && wanted(index)
                && !readers.contains_key(from)
            {
                let reader = Reader::open(self.work, *from, self.inputs, self.step, Some(self.id)).await?;
                readers.insert(*from, reader);
            }
        }
        planned.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        let entry = |planned: PlannedEntry| {
            let content = match planned.from {
                PlannedContent::None => Content::None,
                PlannedContent::Inline(bytes) => Content::Inline(bytes.into()),
                PlannedContent::Source {
                    source_index,
                    path,
                    layer,
                } => {
                    let reader = match &self.copy.sources[source_index] {
                        CopySource::Path { from, .. } => readers.get(from),
                        CopySource::Inline(_) => None,
                    };
                    let reader = reader.ok_or_else(|| BuildError::bug("a file of a heredoc was planned as a path"))?;
                    reader.content(&path, layer, &planned.entry.kind)
                }
                PlannedContent::Member {
                    source_index,
                    root_index,
                    path,
                } => {
                    let archive = unpacked[source_index].get(&root_index);
                    archive
                        .ok_or_else(|| BuildError::bug("a member of an unknown archive was planned"))?
                        .content(&path)
                }
            };
            Ok(LayerEntry {
                entry: planned.entry,
                content,
            })
        };
        planned.into_iter().map(entry).collect()
    }
}

/// The files behind an input as one tree.
///
/// # Errors
/// Layers that cannot be read.
pub async fn tree_of(
    work: &BuildWork,
    from: VertexId,
    inputs: &Inputs,
    step: StepNumber,
) -> Result<Arc<MergedTree>, BuildError> {
    match work.files_of(from, inputs)? {
        FilesOf::Context(context) => Ok(Arc::clone(&context.tree)),
        FilesOf::Stack(stack) => {
            let trees = work.job.host.layers.trees(&stack, &work.job, step).await?;
            Ok(Arc::new(MergedTree::new(trees)))
        }
    }
}

/// What one source of the copy at `id` names in `tree`.
fn selected(
    work: &BuildWork,
    id: VertexId,
    from: VertexId,
    selection: &Selection<'_>,
    tree: &MergedTree,
) -> Result<Selected, BuildError> {
    select::select(tree, selection).map_err(|error| {
        let mut failure = missing(work, from, error);
        failure.place = work.place(id, Some(selection.pattern));
        failure
    })
}

/// What of a context is selected by `path`, as a stack of one layer: a step never sees the client's files themselves.
///
/// # Errors
/// As [`run`].
pub async fn context_stack(
    work: &BuildWork,
    from: VertexId,
    path: &str,
    inputs: &Inputs,
    step: StepNumber,
) -> Result<Stack, BuildError> {
    let tree = tree_of(work, from, inputs, step).await?;
    let reader = Reader::open(work, from, inputs, step, None).await?;
    let wanted = RelPath::clean(path.as_bytes());
    let everything = RelPath::root();
    let on_the_way = |entry: &TreeEntry| entry.path.below(&wanted).is_some() || wanted.below(&entry.path).is_some();
    let found = tree.walk(&everything).filter(|found| on_the_way(found.entry));
    let entries: Vec<LayerEntry> = found
        .map(|found| LayerEntry {
            entry: found.entry.clone(),
            content: reader.content_of(found.entry, found.layer),
        })
        .collect();
    let layers = work.job.host.layers.clone();
    let layer = blocking::run(move || layers.write(&entries)).await?;
    Ok(Stack::new(vec![layer]))
}

/// `/etc/passwd` and `/etc/group` of a root filesystem, read only if an owner is a name.
struct Databases {
    roots: Vec<Arc<SnapshotDir>>,
    layers: Layers,
}

impl Databases {
    async fn open(
        work: &BuildWork,
        below: &Stack,
        owner: Option<&Owner>,
        step: StepNumber,
    ) -> Result<Self, BuildError> {
        let is_name = |id: &Option<Id>| matches!(id, Some(Id::Name(_)));
        if !owner.is_some_and(|owner| is_name(&owner.user) || is_name(&owner.group)) {
            return Ok(Self {
                roots: Vec::new(),
                layers: work.job.host.layers.clone(),
            });
        }
        let layers = work.job.host.layers.clone();
        layers.unpack(below, &work.job, step).await?;
        let roots = below
            .chains()
            .iter()
            .map(|chain| layers.open_layer_dir(*chain))
            .collect::<Result<_, _>>()?;
        Ok(Self { roots, layers })
    }

    /// A database, links followed inside the root filesystem; nothing if it is no regular file or far too large to be one.
    fn read(&self, parent: &MergedTree, path: &RelPath) -> io::Result<Option<Vec<u8>>> {
        const LIMIT: u64 = 1 << 20;
        let (_, found) = parent.resolve(path).map_err(io::Error::other)?;
        let Some(file) = found.and_then(|found| parent.file_of(found)) else {
            return Ok(None);
        };
        let Some(root) = self.roots.get(file.layer) else {
            return Ok(None);
        };
        super::source::read_small(root, file.entry, &self.layers, LIMIT).map(Some)
    }
}

fn now(work: &BuildWork) -> Timestamp {
    let now = work.job.host.clock.now();
    Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: now.subsec_nanos(),
    }
}

fn failed(work: &BuildWork, id: VertexId, error: &(dyn std::error::Error + 'static)) -> BuildError {
    if is_damage(error) {
        return store_failed(error);
    }
    let mut failure = BuildError::user(error.to_string());
    failure.notes.extend(error.source().map(ToString::to_string));
    at(work, id, failure)
}

/// Adds the place of the instruction.
fn at(work: &BuildWork, id: VertexId, mut error: BuildError) -> BuildError {
    error.place = work.place(id, None);
    error
}

/// A source that is not there; for contexts with what the ignore file has to do with it.
#[must_use]
pub fn missing(work: &BuildWork, from: VertexId, error: SelectError) -> BuildError {
    let SelectError::NotFound { path } = &error else {
        return BuildError::user(error.to_string());
    };
    let Op::Local(local) = &work.definition.vertex(from).op else {
        let stage = &work.definition.vertex(from).stage;
        return BuildError::user(format!("`/{path}` not found in `{stage}`"));
    };
    let what = if local.name == "context" {
        "build context".to_owned()
    } else {
        format!("context `{}`", local.name)
    };
    let failure = BuildError::user(format!("`{path}` is not in the {what}: \"/{path}\": not found"));
    let excluded = work.excluded(&local.name, path);
    match excluded {
        Some((pattern, line)) => failure
            .note(format!("excluded by `{pattern}`, .dockerignore line {line}"))
            .help(format!(
                "add `!{path}` below it, or take the file from a stage with `--from=<stage>`"
            )),
        None => failure.help("paths are relative to the build context; `..` does not lead out of it"),
    }
}
