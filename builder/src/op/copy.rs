//! `COPY` as a plan: which entries one new layer gets, and where their bytes are.
//!
//! Nothing is mounted or read but the owner databases. `--link` plans onto an empty root, so its layer says nothing about what
//! lies below. Directories on the way to a change are repeated as they are, since layers want parents before children.
//! `--parents` is a matter of selecting: what it selects is the contents of a directory. Archives come as trees.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proto::definition::{CopyAction, CopySource, InlineFile, ModeChange, Unpack};
use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};

use super::destination::{Destination, is_directory, made_directory};
use super::mode;
use super::owner::{self, Lookup, OwnerError};
use super::select::{Picked, Root, Selected};
use crate::tree::{MergedTree, ResolveError};

/// One entry of the new layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedEntry {
    /// Path and metadata in the destination.
    pub entry: TreeEntry,
    /// Where its bytes are.
    pub from: PlannedContent,
}

/// Where the bytes of a planned file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedContent {
    /// It has none.
    None,
    /// At hand.
    Inline(Vec<u8>),
    /// In a source.
    Source {
        /// Position in the action's sources.
        source_index: usize,
        /// Path in the source.
        path: RelPath,
        /// Layer of the source's stack.
        layer: usize,
    },
    /// In an archive that a source names.
    Member {
        /// Position in the action's sources.
        source_index: usize,
        /// Position in the roots of the selection.
        root_index: usize,
        /// Path in the archive's tree.
        path: RelPath,
    },
}

/// One source of the action, selected; in the order of the action.
#[derive(Debug, Clone)]
pub enum SelectedSource {
    /// Of a [`CopySource::Path`].
    Path(Selected),
    /// Of a [`CopySource::Path`] some of whose files are archives to unpack.
    Archives {
        /// The selection.
        selected: Selected,
        /// What the archives hold, by their position in the roots.
        archives: BTreeMap<usize, Arc<Tree>>,
    },
    /// Of a [`CopySource::Inline`].
    Inline,
}

/// Why a copy cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A directory is needed where something else is.
    #[error("mkdir /{path}: not a directory")]
    NotADirectory {
        /// What is in the way.
        path: RelPath,
    },
    /// A directory is copied onto something else.
    #[error("cannot copy to non-directory: /{path}")]
    OntoNonDirectory {
        /// What is in the way.
        path: RelPath,
    },
    /// A file is copied onto a directory.
    #[error("cannot replace to directory /{path} with file")]
    OntoDirectory {
        /// The directory.
        path: RelPath,
    },
    /// Symlinks without end in the destination.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// `--chown`.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// Sources and selections do not belong together.
    #[error("source {index} of the copy was not selected")]
    Unselected {
        /// Position in the action.
        index: usize,
    },
    /// An archive in a place where nothing is unpacked.
    #[error("source {index} of the copy holds an archive, but archives are not unpacked here")]
    NotUnpacked {
        /// Position in the action.
        index: usize,
    },
    /// A hard link of an archive whose file is not in the archive's tree.
    #[error("the archive has a hard link to `{target}`, which is no file")]
    LostLink {
        /// Where the link points.
        target: RelPath,
    },
}

/// Whether the layer does not depend on what is below it. A mode change needs the entries below, so it makes `--link` an
/// ordinary copy.
#[must_use]
pub fn is_on_empty(action: &CopyAction) -> bool {
    action.link && action.mode.is_none()
}

/// The entries of the new layer, parents first; none if no source selected anything.
///
/// `sources` are those of `action`, in its order; `lookup` reads the owner databases of `parent`; `now` is the time of
/// directories that are made.
///
/// # Errors
/// See [`CopyError`].
pub fn plan(
    parent: &MergedTree,
    action: &CopyAction,
    sources: &[SelectedSource],
    lookup: Lookup<'_>,
    now: Timestamp,
) -> Result<Vec<PlannedEntry>, CopyError> {
    let onto_empty = is_on_empty(action);
    let lookup = (!onto_empty && !parent.layers().is_empty()).then_some(lookup);
    let owner = match &action.owner {
        Some(owner) => Some(owner::numbers(owner, lookup)?),
        None => None,
    };
    let mut copy = Copy {
        action,
        owner,
        now,
        destination: if onto_empty {
            Destination::empty()
        } else {
            Destination::on(parent)
        },
    };
    for (index, source) in action.sources.iter().enumerate() {
        match (source, sources.get(index)) {
            (CopySource::Inline(file), Some(SelectedSource::Inline)) => copy.inline(file)?,
            (CopySource::Path { .. }, Some(SelectedSource::Path(selected))) => {
                copy.roots(index, selected, &BTreeMap::new())?;
            }
            (CopySource::Path { .. }, Some(SelectedSource::Archives { selected, archives })) => {
                if action.unpack == Unpack::Nothing {
                    return Err(CopyError::NotUnpacked { index });
                }
                copy.roots(index, selected, archives)?;
            }
            _ => return Err(CopyError::Unselected { index }),
        }
    }
    Ok(copy.destination.finish())
}

struct Copy<'a> {
    action: &'a CopyAction,
    owner: Option<(u32, u32)>,
    now: Timestamp,
    destination: Destination<'a>,
}

impl Copy<'_> {
    /// The destination, links followed.
    fn target(&self) -> Result<RelPath, CopyError> {
        Ok(self.destination.resolve(&RelPath::clean(self.action.dest.as_bytes()))?)
    }

    fn roots(
        &mut self,
        source_index: usize,
        selected: &Selected,
        archives: &BTreeMap<usize, Arc<Tree>>,
    ) -> Result<(), CopyError> {
        for (root_index, root) in selected.roots.iter().enumerate() {
            match archives.get(&root_index) {
                Some(tree) => self.archive((source_index, root_index), tree)?,
                None => self.root(source_index, root)?,
            }
        }
        Ok(())
    }

    /// What `tree` holds, as unpacking it in the destination would leave it: the archive's word wins for what it names, but for
    /// the destination itself, and its parents are followed through links of the destination, with that as their root. A mode
    /// option does not apply: the archive states modes.
    fn archive(&mut self, (source_index, root_index): (usize, usize), tree: &Tree) -> Result<(), CopyError> {
        let target = self.target()?;
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let made = made_directory(uid, gid, self.now);
        self.destination.make_directories(&target, &made)?;
        // Directories that the archive implies and does not name are nobody's: no option of the instruction applies to them.
        let implied = made_directory(0, 0, self.now);
        let mut located: HashMap<&RelPath, RelPath> = HashMap::new();
        for entry in tree.entries().iter().filter(|entry| !entry.path.is_root()) {
            let path = self.destination.locate_below(&target, &entry.path)?;
            self.destination
                .make_directories(&path.parent().unwrap_or_default(), &implied)?;
            let mut planned = self.owned(entry.clone());
            let mut from = PlannedContent::None;
            let member = |path: &RelPath| PlannedContent::Member {
                source_index,
                root_index,
                path: path.clone(),
            };
            match &entry.kind {
                EntryKind::File { .. } => {
                    from = member(&entry.path);
                    located.insert(&entry.path, path.clone());
                }
                EntryKind::Hardlink { target } => {
                    let file = tree
                        .get(target)
                        .filter(|file| matches!(file.kind, EntryKind::File { .. }));
                    let file = file.ok_or_else(|| CopyError::LostLink { target: target.clone() })?;
                    let name = located.get(target);
                    match name.filter(|name| self.destination.holds(name, &member(target))) {
                        Some(name) => planned.kind = EntryKind::Hardlink { target: name.clone() },
                        // Through a link of the destination, something else has taken the file's place.
                        None => {
                            planned.kind = file.kind.clone();
                            from = member(target);
                            located.insert(&file.path, path.clone());
                        }
                    }
                }
                _ => {}
            }
            self.destination.put(&path, planned, from);
        }
        Ok(())
    }

    fn root(&mut self, source_index: usize, root: &Root) -> Result<(), CopyError> {
        match &root.top {
            Some(top) if !is_directory(&top.entry) => {
                let path = self.file_target(&root.name)?;
                self.file(&path, top.entry.clone(), source(source_index, top))
            }
            _ => self.directory(source_index, root),
        }
    }

    fn inline(&mut self, file: &InlineFile) -> Result<(), CopyError> {
        let bytes = file.data.as_slice();
        let entry = TreeEntry {
            path: RelPath::root(),
            kind: EntryKind::File {
                size: bytes.len() as u64,
                content: ContentDigest::of(bytes),
            },
            mode: 0o644,
            ..made_directory(0, 0, self.now)
        };
        let path = self.file_target(file.name.as_bytes())?;
        self.file(&path, entry, PlannedContent::Inline(bytes.to_vec()))
    }

    /// Where a file called `name` goes, its directory made.
    fn file_target(&mut self, name: &[u8]) -> Result<RelPath, CopyError> {
        let target = self.target()?;
        let inside = self.action.dest_is_dir || self.destination.is_directory(&target);
        let path = if inside {
            target.join(&RelPath::clean(name))
        } else {
            target
        };
        let made = self.made(self.now);
        self.destination
            .make_directories(&path.parent().unwrap_or_default(), &made)?;
        Ok(path)
    }

    fn file(&mut self, path: &RelPath, entry: TreeEntry, from: PlannedContent) -> Result<(), CopyError> {
        if self.destination.is_directory(path) {
            return Err(CopyError::OntoDirectory { path: path.clone() });
        }
        let entry = self.changed(entry);
        self.destination.put(path, entry, from);
        Ok(())
    }

    fn directory(&mut self, source_index: usize, root: &Root) -> Result<(), CopyError> {
        let target = self.target()?;
        let mtime = root.top.as_ref().map_or(self.now, |top| top.entry.mtime);
        self.top_directory(&target, mtime)?;
        // Names of one file stay names of one file.
        let mut first_names: HashMap<(usize, &RelPath), RelPath> = HashMap::new();
        for picked in &root.below {
            let path = target.join(&picked.entry.path);
            let mut entry = picked.entry.clone();
            if is_directory(&entry) {
                self.sub_directory(&path, entry, picked.on_the_way)?;
                continue;
            }
            let mut from = PlannedContent::None;
            if matches!(entry.kind, EntryKind::File { .. }) {
                let file = (picked.layer, &picked.content);
                if let Some(first) = first_names.get(&file) {
                    entry.kind = EntryKind::Hardlink { target: first.clone() };
                } else {
                    first_names.insert(file, path.clone());
                    from = source(source_index, picked);
                }
            }
            let made = self.made(self.now);
            self.destination
                .make_directories(&path.parent().unwrap_or_default(), &made)?;
            self.file(&path, entry, from)?;
        }
        Ok(())
    }

    /// An existing directory keeps owner and mode and takes the time of the source.
    fn top_directory(&mut self, target: &RelPath, mtime: Timestamp) -> Result<(), CopyError> {
        if target.is_root() {
            return Ok(());
        }
        let made = self.made(self.now);
        self.destination
            .make_directories(&target.parent().unwrap_or_default(), &made)?;
        let mut entry = match self.destination.entry(target) {
            Some(entry) if !is_directory(&entry) => return Err(CopyError::OntoNonDirectory { path: target.clone() }),
            Some(entry) => entry,
            None => made,
        };
        entry.kind = EntryKind::Directory { opaque: false };
        entry.mtime = mtime;
        self.destination.put(target, entry, PlannedContent::None);
        Ok(())
    }

    /// A directory on both sides takes mode and owner of the source; one that is only on the way takes the mode.
    fn sub_directory(&mut self, path: &RelPath, entry: TreeEntry, on_the_way: bool) -> Result<(), CopyError> {
        let entry = match self.destination.entry(path) {
            Some(there) if !is_directory(&there) => {
                return Err(CopyError::OntoNonDirectory { path: path.clone() });
            }
            Some(there) if on_the_way => TreeEntry {
                mode: entry.mode,
                kind: entry.kind,
                ..there
            },
            _ => self.changed(entry),
        };
        self.destination.put(path, entry, PlannedContent::None);
        Ok(())
    }

    /// A directory that no source has: the permissions of an octal mode apply to it, a symbolic one does not.
    fn made(&self, mtime: Timestamp) -> TreeEntry {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let mut entry = made_directory(uid, gid, mtime);
        if let Some(change @ ModeChange::Octal(_)) = &self.action.mode {
            entry.mode = mode::apply(change, entry.mode, true) & 0o777;
        }
        entry
    }

    /// `entry` after `--chown`.
    fn owned(&self, mut entry: TreeEntry) -> TreeEntry {
        if let Some((uid, gid)) = self.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        entry
    }

    /// `entry` after `--chown` and `--chmod`.
    fn changed(&self, entry: TreeEntry) -> TreeEntry {
        let mut entry = self.owned(entry);
        if let Some(change) = &self.action.mode
            && !matches!(entry.kind, EntryKind::Symlink { .. })
        {
            entry.mode = mode::apply(change, entry.mode, is_directory(&entry));
        }
        entry
    }
}

fn source(source_index: usize, picked: &Picked) -> PlannedContent {
    match picked.entry.kind {
        EntryKind::File { .. } => PlannedContent::Source {
            source_index,
            path: picked.content.clone(),
            layer: picked.layer,
        },
        _ => PlannedContent::None,
    }
}
