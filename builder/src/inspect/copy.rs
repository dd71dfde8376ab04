//! Files out of what is looked into, as a tar for the client. No process runs: the layers are merged on their trees, and their bytes
//! are read where they lie. Links on the way are followed inside the root, and nowhere else.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use proto::tree::{EntryKind, RelPath, Tree};
use proto::v1;

use super::ground::{self, Ground};
use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::export::stream;
use crate::layer::entry::{Content, LayerEntry, SnapshotDir};
use crate::layer::lower::LowerTrees;
use crate::layer::{diff, tar};
use crate::layers::store_failed;
use crate::request::BuildError;
use crate::snapshot::Snapshotter;
use crate::tree::{Located, MergedTree};

/// Sends what `request` asks for to output 0 of the client, and returns how many entries that were.
///
/// # Errors
/// It is not there; layers that are not here; what the client says.
pub async fn copy(request: &v1::CopyRequest, job: &Job) -> Result<u64, BuildError> {
    let root = ground::root_of(request.root.clone())?;
    let ground = ground::find(&root, &request.platform, job)?;
    job.step("[internal] copy files", async |step| {
        let files = Files::open(&ground, job, step).await?;
        let entries = files.select(request)?;
        let count = entries.len() as u64;
        let layers = job.host.layers.clone();
        stream::to_client(0, job, move |sink| {
            tar::write(&entries, None, sink)
                .map(drop)
                .map_err(|error| layers.unwritten(&error, &entries))
        })
        .await?;
        Ok(count)
    })
    .await
}

/// A root filesystem, and where the bytes of each layer are.
struct Files {
    merged: MergedTree,
    directories: Vec<Arc<SnapshotDir>>,
    /// Of what a failed step left, which is the topmost layer then.
    kept: HashMap<RelPath, Content>,
}

impl Files {
    async fn open(ground: &Ground, job: &Job, step: StepNumber) -> Result<Self, BuildError> {
        let layers = &job.host.layers;
        layers.unpack(&ground.stack, job, step).await?;
        let mut trees = layers.trees(&ground.stack, job, step).await?;
        let directories = ground.stack.chains().iter().map(|chain| layers.open_layer_dir(*chain));
        let directories = directories.collect::<Result<Vec<_>, _>>()?;
        let mut kept = HashMap::new();
        if let Some(dir) = &ground.kept {
            let upper = layers.snapshots().kept_dir(dir);
            let below = trees.clone();
            let entries = blocking::run(move || changes(&upper, &below)).await?;
            trees.push(Arc::new(Tree::new(
                entries.iter().map(|entry| entry.entry.clone()).collect(),
            )));
            kept = entries
                .into_iter()
                .map(|entry| (entry.entry.path, entry.content))
                .collect();
        }
        Ok(Self {
            merged: MergedTree::new(trees),
            directories,
            kept,
        })
    }

    /// The entries of the archive.
    fn select(&self, request: &v1::CopyRequest) -> Result<Vec<LayerEntry>, BuildError> {
        let path = RelPath::clean(&request.path);
        let top = self.reach(&path, request.follow || request.name.is_empty())?;
        let found = self.merged.get(&top);
        let is_directory = found.is_none_or(|found| matches!(found.entry.kind, EntryKind::Directory { .. }));
        if found.is_none() && !top.is_root() {
            return Err(BuildError::user(format!("there is no `/{path}`")));
        }
        if request.name.is_empty() && !is_directory {
            return Err(BuildError::user(format!("`/{path}` is no directory")));
        }
        let name = RelPath::clean(&request.name);
        let mut entries = Vec::new();
        entries.extend(
            found
                .filter(|_| !name.is_root())
                .map(|found| self.entry(found, &top, &name)),
        );
        if is_directory {
            entries.extend(self.merged.walk(&top).map(|found| self.entry(found, &top, &name)));
        }
        Ok(entries)
    }

    /// Where `path` leads, inside the root; a link at its end only if `follow`.
    fn reach(&self, path: &RelPath, follow: bool) -> Result<RelPath, BuildError> {
        let resolve = |path: &RelPath| {
            let resolved = self.merged.resolve(path);
            resolved
                .map(|(reached, _)| reached)
                .map_err(|error| BuildError::user(error.to_string()))
        };
        match (path.parent(), path.name()) {
            (Some(parent), Some(name)) if !follow => Ok(resolve(&parent)?.child(name)),
            _ => resolve(path),
        }
    }

    /// `found`, which is at or below `top`, as it is called in the archive.
    fn entry(&self, found: Located<'_>, top: &RelPath, name: &RelPath) -> LayerEntry {
        let renamed = |path: &RelPath| path.below(top).map(|below| name.join(&below));
        let mut entry = found.entry.clone();
        entry.path = renamed(&entry.path).unwrap_or_else(|| name.clone());
        let mut bytes_of = found;
        entry.kind = match entry.kind {
            EntryKind::Directory { .. } => EntryKind::Directory { opaque: false },
            EntryKind::Hardlink { target } => {
                let first = self.merged.get(&target).filter(|first| first.layer == found.layer);
                match first.and_then(|_| renamed(&target)) {
                    Some(target) => EntryKind::Hardlink { target },
                    // The other name is not in the archive: then this one is the file.
                    None => {
                        bytes_of = self.merged.file_of(found).unwrap_or(found);
                        self.merged.kind_of(found).clone()
                    }
                }
            }
            kind => kind,
        };
        let content = match entry.kind {
            EntryKind::File { .. } => self.content(bytes_of),
            _ => Content::None,
        };
        LayerEntry { entry, content }
    }

    fn content(&self, found: Located<'_>) -> Content {
        match self.directories.get(found.layer) {
            Some(directory) => directory.content(&found.entry.path),
            None => self.kept.get(&found.entry.path).cloned().unwrap_or(Content::None),
        }
    }
}

/// What a failed step left over the layers of `below`, base first.
fn changes(upper: &Path, below: &[Arc<Tree>]) -> Result<Vec<LayerEntry>, BuildError> {
    let lower = LowerTrees(below.iter().rev().map(Arc::as_ref).collect());
    let changes = diff::diff(upper, &lower, &BTreeSet::new()).map_err(|error| store_failed(&error))?;
    Ok(changes.entries)
}
