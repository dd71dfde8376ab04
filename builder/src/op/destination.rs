//! What a copy has planned so far, over what is there: the root filesystem as it will be when the plan is done.

use std::collections::{BTreeMap, BTreeSet};

use proto::tree::{EntryKind, RelPath, Timestamp, TreeEntry};

use super::copy::{CopyError, PlannedContent, PlannedEntry};
use crate::layer::names::Names;
use crate::tree::{MergedTree, ResolveError};

/// Links followed for one name before we call it a loop, as the kernel does.
const MOST_LINKS: usize = 40;

/// What is new in a destination, over what is there.
#[derive(Debug, Default)]
pub(super) struct Destination<'a> {
    /// Nothing for `--link`.
    parent: Option<&'a MergedTree>,
    planned: BTreeMap<RelPath, PlannedEntry>,
    /// Directories of the parent that something else has replaced: what they held does not come back.
    replaced: BTreeSet<RelPath>,
    /// Names of planned files.
    names: Names,
    changed: bool,
}

/// A directory as it is made where none was: 0755.
pub(super) fn made_directory(uid: u32, gid: u32, mtime: Timestamp) -> TreeEntry {
    TreeEntry {
        path: RelPath::root(),
        kind: EntryKind::Directory { opaque: false },
        mode: 0o755,
        uid,
        gid,
        mtime,
        xattrs: Vec::new(),
    }
}

pub(super) fn is_directory(entry: &TreeEntry) -> bool {
    matches!(entry.kind, EntryKind::Directory { .. })
}

impl<'a> Destination<'a> {
    pub(super) fn on(parent: &'a MergedTree) -> Self {
        Self {
            parent: Some(parent),
            ..Self::default()
        }
    }

    pub(super) fn empty() -> Self {
        Self::default()
    }

    pub(super) fn resolve(&self, path: &RelPath) -> Result<RelPath, ResolveError> {
        match self.parent {
            Some(parent) => Ok(parent.resolve(path)?.0),
            None => Ok(path.clone()),
        }
    }

    /// Where `path` below `root` really is: its parents followed through links as a process whose root is `root` does, its
    /// last component as it is.
    pub(super) fn locate_below(&self, root: &RelPath, path: &RelPath) -> Result<RelPath, CopyError> {
        let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut reached = RelPath::root();
        let mut links = 0;
        while let Some(component) = todo.pop() {
            if component == b".." {
                reached = reached.parent().unwrap_or_default();
                continue;
            }
            let next = reached.join(&RelPath::clean(&component));
            let kind = self.entry(&root.join(&next)).map(|entry| entry.kind);
            match kind {
                Some(EntryKind::Symlink { target }) if !todo.is_empty() => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(ResolveError::TooManyLinks { path: root.join(path) }.into());
                    }
                    if target.starts_with(b"/") {
                        reached = RelPath::root();
                    }
                    let parts = target.split(|&byte| byte == b'/').rev();
                    todo.extend(parts.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec));
                }
                _ => reached = next,
            }
        }
        Ok(root.join(&reached))
    }

    pub(super) fn has_changes(&self) -> bool {
        self.changed
    }

    pub(super) fn finish(mut self) -> Vec<PlannedEntry> {
        for (holder, names) in std::mem::take(&mut self.names).into_files() {
            self.order_names(&holder, names);
        }
        self.planned.into_values().collect()
    }

    pub(super) fn entry(&self, path: &RelPath) -> Option<TreeEntry> {
        if let Some(planned) = self.planned.get(path) {
            return Some(planned.entry.clone());
        }
        let hidden = std::iter::successors(Some(path.clone()), RelPath::parent).any(|at| self.replaced.contains(&at));
        match hidden {
            true => None,
            false => Some(self.parent?.get(path)?.entry.clone()),
        }
    }

    pub(super) fn is_directory(&self, path: &RelPath) -> bool {
        path.is_root() || self.entry(path).is_some_and(|entry| is_directory(&entry))
    }

    /// Whether the bytes planned for `path` are those of `from`.
    pub(super) fn holds(&self, path: &RelPath, from: &PlannedContent) -> bool {
        self.planned.get(path).is_some_and(|planned| planned.from == *from)
    }

    /// Makes what is missing of `path` like `made`, and repeats what is there.
    pub(super) fn make_directories(&mut self, path: &RelPath, made: &TreeEntry) -> Result<(), CopyError> {
        let mut reached = RelPath::root();
        for component in path.components() {
            reached = reached.join(&RelPath::clean(component));
            match self.entry(&reached) {
                Some(entry) if is_directory(&entry) => self.repeat(entry),
                Some(_) => return Err(CopyError::NotADirectory { path: reached }),
                None => self.put(&reached, made.clone(), PlannedContent::None),
            }
        }
        Ok(())
    }

    fn repeat(&mut self, mut entry: TreeEntry) {
        entry.kind = EntryKind::Directory { opaque: false };
        self.planned.entry(entry.path.clone()).or_insert(PlannedEntry {
            entry,
            from: PlannedContent::None,
        });
    }

    /// Plans `entry` at `path`, in place of what is planned there and, unless both are directories, below it.
    pub(super) fn put(&mut self, path: &RelPath, mut entry: TreeEntry, from: PlannedContent) {
        if let EntryKind::Directory { opaque } = &mut entry.kind {
            *opaque = self.replaced.contains(path);
            if !self.is_directory(path) {
                self.forget(path);
            }
        } else {
            self.remove(path);
        }
        if let EntryKind::Hardlink { target } = &entry.kind {
            self.names.add(target, path.clone());
        }
        entry.path = path.clone();
        self.changed = true;
        self.planned.insert(path.clone(), PlannedEntry { entry, from });
    }

    fn remove(&mut self, path: &RelPath) {
        if self.is_directory(path) {
            if self.parent.is_some_and(|parent| parent.get(path).is_some()) {
                self.replaced.insert(path.clone());
            }
            let below = self.planned.range(path.clone()..).map(|(at, _)| at);
            let below: Vec<RelPath> = below.take_while(|at| at.below(path).is_some()).cloned().collect();
            for path in &below {
                self.forget(path);
            }
        } else {
            self.forget(path);
        }
    }

    fn forget(&mut self, path: &RelPath) {
        let Some(gone) = self.planned.remove(path) else {
            return;
        };
        if let Some(holder) = self.names.remove(path) {
            self.hold(&holder, gone.entry.kind, gone.from);
        }
    }

    /// Says what the planned name `path` is, and where its bytes are.
    fn hold(&mut self, path: &RelPath, kind: EntryKind, from: PlannedContent) {
        if let Some(planned) = self.planned.get_mut(path) {
            (planned.entry.kind, planned.from) = (kind, from);
        }
    }

    /// The first name of a file in order of the plan is the file.
    fn order_names(&mut self, holder: &RelPath, mut names: BTreeSet<RelPath>) {
        let (Some(file), Some(first)) = (self.planned.get(holder).cloned(), names.pop_first()) else {
            return;
        };
        for name in &names {
            self.hold(
                name,
                EntryKind::Hardlink { target: first.clone() },
                PlannedContent::None,
            );
        }
        self.hold(&first, file.entry.kind, file.from);
    }
}
