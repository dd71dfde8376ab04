//! What a layer means, entry by entry, over the layers below: where links lead, what hides what, which name wins.
//!
//! This is the judge; [`super::place`] is the hand. Entries may come in any order and more than once, so whiteouts and opaque
//! marks take effect at the end only: they speak about the layers below, never about the layer that they are in.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use proto::tree::{EntryKind, RelPath, Tree, TreeEntry};

use super::limits::{LimitExceeded, Limits};
use super::lower::{Lower, default_directory};
use super::names::Names;
use super::place::Place;

/// Links followed for one name before we call it a loop, as the kernel does.
const MOST_LINKS: usize = 40;

/// Why an entry is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name has a `..` component or a NUL.
    #[error("its name leaves the root or is no name")]
    Name,
    /// The name of a whiteout says nothing that could be removed.
    #[error("it is a whiteout of no file name")]
    Whiteout,
    /// A parent is a file, device or pipe.
    #[error("`{0}` is no directory")]
    Parent(RelPath),
    /// Links that lead to each other.
    #[error("its parents are links without end")]
    LinkLoop,
    /// The target of a hard link is no regular file of this layer or of those below.
    #[error("its hard link target is no file of the image")]
    HardLink,
    /// A character device 0:0, which overlayfs takes for a whiteout.
    #[error("it is the device 0:0")]
    Device,
    /// The root is not a directory.
    #[error("it makes the root something else than a directory")]
    Root,
    /// A type of member that we do not know.
    #[error("its type is unknown")]
    Type,
}

/// What can go wrong with one entry.
#[derive(Debug)]
pub(crate) enum EntryError {
    Refused(Refusal),
    Limit(LimitExceeded),
    Lower(io::Error),
    Write(io::Error),
}

impl From<Refusal> for EntryError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

struct Node {
    entry: TreeEntry,
    /// The layer names it; the others are parents that it needs.
    named: bool,
}

/// A place on the way down from the root.
struct Reached {
    path: RelPath,
    /// This layer hides what the layers below have here.
    hidden: bool,
    /// Nothing is here, nor below.
    absent: bool,
}

impl Reached {
    fn root() -> Self {
        Self {
            path: RelPath::root(),
            hidden: false,
            absent: false,
        }
    }
}

/// The layer so far. With a place, the disk follows.
pub(crate) struct Merged<'a> {
    lower: &'a dyn Lower,
    limits: &'a Limits,
    pub(super) place: Option<Place>,
    /// Closed under parents: above each node are directories.
    nodes: BTreeMap<RelPath, Node>,
    whiteouts: BTreeSet<RelPath>,
    opaque: BTreeSet<RelPath>,
    names: Names,
    /// Of all that was ever kept.
    metadata_bytes: u64,
    /// Components of the targets of links that were followed.
    steps: Cell<u64>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(lower: &'a dyn Lower, limits: &'a Limits, place: Option<Place>) -> Result<Self, EntryError> {
        let root = RelPath::root();
        let entry = lower.entry(&root).map_err(EntryError::Lower)?;
        let node = Node {
            entry: entry.unwrap_or_else(|| default_directory(&root)),
            named: false,
        };
        Ok(Self {
            lower,
            limits,
            place,
            nodes: BTreeMap::from([(root, node)]),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            names: Names::default(),
            metadata_bytes: 0,
            steps: Cell::new(0),
        })
    }

    /// An archive over `lower` that is never written anywhere.
    pub(crate) fn in_memory(lower: &'a dyn Lower, limits: &'a Limits) -> Result<Self, EntryError> {
        Self::new(lower, limits, None)
    }

    /// Where `path` really is: its parents followed through links, inside the root; its last component as it is.
    pub(crate) fn locate(&self, path: &RelPath) -> Result<RelPath, EntryError> {
        self.check(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Ok(RelPath::root());
        };
        let located = self.resolve(&parent)?.join(&RelPath::clean(name));
        self.check(&located)?;
        Ok(located)
    }

    /// Whether a link may lead to `target`: none that a kernel would not make, since each name on its way costs work.
    pub(crate) fn check_link(&self, target: &[u8]) -> Result<(), EntryError> {
        match target.len() > self.limits.path_bytes {
            true => Err(EntryError::Limit(LimitExceeded::PathBytes(self.limits.path_bytes))),
            false => Ok(()),
        }
    }

    fn check(&self, path: &RelPath) -> Result<(), EntryError> {
        let limits = self.limits;
        let exceeded = if path.as_bytes().len() > limits.path_bytes {
            LimitExceeded::PathBytes(limits.path_bytes)
        } else if path.components().any(|name| name.len() > limits.component_bytes) {
            LimitExceeded::ComponentBytes(limits.component_bytes)
        } else if path.components().count() > limits.depth {
            LimitExceeded::Depth(limits.depth)
        } else {
            return Ok(());
        };
        Err(EntryError::Limit(exceeded))
    }

    fn resolve(&self, path: &RelPath) -> Result<RelPath, EntryError> {
        // Nearly always: the directory was in the layer just before.
        if self.is_own_directory(path) {
            return Ok(path.clone());
        }
        let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        // Where we are, and the way back: a link may lead up and down thousands of times.
        let mut way = vec![Reached::root()];
        let mut links = 0;
        while let Some(component) = todo.pop() {
            if component == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let here = way.last().expect("the root is never left");
            let next = self.enter(here, &component)?;
            let entry = if next.absent { None } else { self.look_from(&next)? };
            match entry.map(|entry| entry.kind) {
                None => way.push(Reached { absent: true, ..next }),
                Some(EntryKind::Directory { .. }) => way.push(next),
                Some(EntryKind::Symlink { target }) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Refusal::LinkLoop.into());
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    let parts = target.split(|&byte| byte == b'/').rev();
                    let before = todo.len();
                    todo.extend(parts.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec));
                    self.walk(todo.len() - before)?;
                }
                Some(_) => return Err(Refusal::Parent(next.path).into()),
            }
        }
        Ok(way.pop().map(|reached| reached.path).unwrap_or_default())
    }

    /// Counts steps that links cost: a short name can lead through forty links of thousands of components.
    fn walk(&self, steps: usize) -> Result<(), EntryError> {
        self.steps.set(self.steps.get().saturating_add(steps as u64));
        let limit = self.limits.link_steps;
        match self.steps.get() > limit {
            true => Err(EntryError::Limit(LimitExceeded::LinkSteps(limit))),
            false => Ok(()),
        }
    }

    /// One component further.
    fn enter(&self, here: &Reached, component: &[u8]) -> Result<Reached, EntryError> {
        let path = here.path.join(&RelPath::clean(component));
        self.check(&path)?;
        let hides = || self.whiteouts.contains(&here.path) || self.opaque.contains(&here.path);
        Ok(Reached {
            hidden: here.hidden || hides(),
            absent: here.absent,
            path,
        })
    }

    /// What is at a place that was reached through directories.
    fn look_from(&self, at: &Reached) -> Result<Option<TreeEntry>, EntryError> {
        match self.nodes.get(&at.path) {
            Some(node) => Ok(Some(node.entry.clone())),
            None if at.hidden || self.whiteouts.contains(&at.path) => Ok(None),
            None => self.lower.entry(&at.path).map_err(EntryError::Lower),
        }
    }

    fn is_own_directory(&self, path: &RelPath) -> bool {
        let kind = self.nodes.get(path).map(|node| &node.entry.kind);
        matches!(kind, Some(EntryKind::Directory { .. }))
    }

    /// What the layers below show at `path`, as far as this layer lets it through.
    fn look_below(&self, path: &RelPath) -> Result<Option<TreeEntry>, EntryError> {
        if self.whiteouts.contains(path) || self.hidden_by_parent(path) {
            return Ok(None);
        }
        self.lower.entry(path).map_err(EntryError::Lower)
    }

    fn hidden_by_parent(&self, path: &RelPath) -> bool {
        std::iter::successors(path.parent(), RelPath::parent).any(|parent| {
            self.whiteouts.contains(&parent)
                || self.opaque.contains(&parent)
                || (self.nodes.contains_key(&parent) && !self.is_own_directory(&parent))
        })
    }

    /// Makes room for `entry` and notes it; its parents are made if nobody named them. The caller fills the place.
    pub(crate) fn add(&mut self, entry: TreeEntry) -> Result<(), EntryError> {
        let directory = matches!(entry.kind, EntryKind::Directory { .. });
        if entry.path.is_root() && !directory {
            return Err(Refusal::Root.into());
        }
        if directory && self.is_own_directory(&entry.path) {
            return self.insert(Node { entry, named: true });
        }
        self.remove(&entry.path)?;
        self.make_parents(&entry.path)?;
        if directory {
            self.make_directory(&entry.path)?;
        }
        if let EntryKind::Hardlink { target } = &entry.kind {
            self.names.add(target, entry.path.clone());
        }
        self.insert(Node { entry, named: true })
    }

    /// A few bytes of a layer can name a path of many directories, each of which becomes a node.
    fn insert(&mut self, node: Node) -> Result<(), EntryError> {
        let entry = &node.entry;
        let link = match &entry.kind {
            EntryKind::Symlink { target } => target.len(),
            EntryKind::Hardlink { target } => target.as_bytes().len(),
            _ => 0,
        };
        let xattrs = entry.xattrs.iter().map(|(name, value)| name.len() + value.len());
        let bytes = entry.path.as_bytes().len() + link + xattrs.sum::<usize>();
        self.keep(bytes)?;
        self.nodes.insert(node.entry.path.clone(), node);
        if self.nodes.len() as u64 > self.limits.entries {
            return Err(EntryError::Limit(LimitExceeded::Entries(self.limits.entries)));
        }
        Ok(())
    }

    /// Counts bytes that stay in memory until the layer ends.
    pub(crate) fn keep(&mut self, bytes: usize) -> Result<(), EntryError> {
        self.metadata_bytes = self.metadata_bytes.saturating_add(bytes as u64);
        let limit = self.limits.metadata_bytes;
        match self.metadata_bytes > limit {
            true => Err(EntryError::Limit(LimitExceeded::MetadataBytes(limit))),
            false => Ok(()),
        }
    }

    /// Sets the digest of a file whose bytes have been read.
    pub(crate) fn set_kind(&mut self, path: &RelPath, kind: EntryKind) {
        if let Some(node) = self.nodes.get_mut(path) {
            node.entry.kind = kind;
        }
    }

    fn make_directory(&mut self, path: &RelPath) -> Result<(), EntryError> {
        match &mut self.place {
            Some(place) => place.directory(path).map_err(EntryError::Write),
            None => Ok(()),
        }
    }

    fn make_parents(&mut self, path: &RelPath) -> Result<(), EntryError> {
        let mut missing: Vec<RelPath> = std::iter::successors(path.parent(), RelPath::parent)
            .take_while(|parent| !self.nodes.contains_key(parent))
            .collect();
        let Some(first) = missing.last() else { return Ok(()) };
        let mut above = Reached {
            hidden: self.hidden_by_parent(first),
            absent: false,
            path: first.parent().unwrap_or_default(),
        };
        while let Some(parent) = missing.pop() {
            let hidden = above.hidden || self.whiteouts.contains(&above.path) || self.opaque.contains(&above.path);
            let below = match above.absent || hidden || self.whiteouts.contains(&parent) {
                true => None,
                false => self.lower.entry(&parent).map_err(EntryError::Lower)?,
            };
            let below = below.filter(|entry| matches!(entry.kind, EntryKind::Directory { .. }));
            above = Reached {
                hidden,
                absent: below.is_none(),
                path: parent.clone(),
            };
            let entry = below.map_or_else(
                || default_directory(&parent),
                |entry| TreeEntry {
                    kind: EntryKind::Directory { opaque: false },
                    ..entry
                },
            );
            self.make_directory(&parent)?;
            self.insert(Node { entry, named: false })?;
        }
        Ok(())
    }

    /// Takes back what this layer had at `path` and below: a later entry of the same name wins.
    fn remove(&mut self, path: &RelPath) -> Result<(), EntryError> {
        if !self.nodes.contains_key(path) {
            return Ok(());
        }
        let below = self.nodes.range(path.clone()..).map(|(path, _)| path);
        let mut paths: Vec<RelPath> = below.take_while(|at| at.below(path).is_some()).cloned().collect();
        // Children first.
        while let Some(path) = paths.pop() {
            let directory = self.is_own_directory(&path);
            if let Some(place) = &mut self.place {
                place.remove(&path, directory).map_err(EntryError::Write)?;
            }
            self.forget(&path);
        }
        Ok(())
    }

    fn forget(&mut self, path: &RelPath) {
        let Some(node) = self.nodes.remove(path) else {
            return;
        };
        if let Some(holder) = self.names.remove(path) {
            self.set_kind(&holder, node.entry.kind);
        }
    }

    /// What a hard link to `target` comes to: the file or link of this layer, else of those below (second: true).
    /// Nothing if there is nothing yet.
    pub(crate) fn link_target(&self, target: &RelPath) -> Result<Option<(TreeEntry, bool)>, EntryError> {
        let own = self.nodes.get(target).map(|node| &node.entry);
        let own = match own.map(|entry| &entry.kind) {
            Some(EntryKind::Hardlink { .. }) => {
                let holder = self.names.holder(target);
                holder.and_then(|holder| self.nodes.get(holder)).map(|node| &node.entry)
            }
            _ => own,
        };
        let (entry, from_below) = match own {
            Some(entry) => (entry.clone(), false),
            None => match self.look_below(target)? {
                Some(entry) => (entry, true),
                None => return Ok(None),
            },
        };
        match entry.kind {
            EntryKind::File { .. } | EntryKind::Symlink { .. } => Ok(Some((entry, from_below))),
            _ => Err(Refusal::HardLink.into()),
        }
    }

    pub(super) fn add_whiteout(&mut self, path: RelPath) -> Result<(), EntryError> {
        self.keep(path.as_bytes().len())?;
        let implied = self.nodes.get_mut(&path).filter(|node| !node.named);
        if let Some(node) = implied {
            node.entry = default_directory(&path);
        }
        self.whiteouts.insert(path);
        Ok(())
    }

    pub(super) fn add_opaque(&mut self, directory: RelPath) -> Result<(), EntryError> {
        self.keep(directory.as_bytes().len())?;
        self.opaque.insert(directory);
        Ok(())
    }

    /// Lets whiteouts and opaque marks take effect, gives directories their metadata, and returns what the layer says.
    pub(crate) fn finish(mut self) -> Result<Tree, (RelPath, EntryError)> {
        let fail = |path: &RelPath| {
            let path = path.clone();
            move |error| (path, error)
        };
        let mut tree = Vec::new();
        for path in self.opaque.clone() {
            self.finish_opaque(&path).map_err(fail(&path))?;
        }
        for path in self.whiteouts.clone() {
            if self.finish_whiteout(&path).map_err(fail(&path))? {
                tree.push(TreeEntry {
                    kind: EntryKind::Whiteout,
                    mode: 0,
                    ..default_directory(&path)
                });
            }
        }
        for (holder, names) in std::mem::take(&mut self.names).into_files() {
            self.order_names(&holder, names);
        }
        for (path, node) in self.nodes.into_iter().rev() {
            if let (Some(place), EntryKind::Directory { .. }) = (&mut self.place, &node.entry.kind) {
                let finished = place.finish_directory(&node.entry);
                finished.map_err(|error| (path, EntryError::Write(error)))?;
            }
            if node.named {
                tree.push(node.entry);
            }
        }
        Ok(Tree::new(tree))
    }

    fn finish_opaque(&mut self, path: &RelPath) -> Result<(), EntryError> {
        if path.is_root() {
            // overlayfs merges the roots of all layers whatever their marks say: name what is hidden.
            for name in self.lower.children(path).map_err(EntryError::Lower)? {
                self.whiteouts.insert(RelPath::clean(&name));
            }
            self.opaque.remove(path);
        } else if !self.nodes.contains_key(path) {
            let below = self.look_below(path)?;
            let Some(entry) = below.filter(|entry| matches!(entry.kind, EntryKind::Directory { .. })) else {
                return Ok(());
            };
            self.make_parents(path)?;
            self.make_directory(path)?;
            self.insert(Node { entry, named: true })?;
        }
        self.mark_opaque(path);
        Ok(())
    }

    fn mark_opaque(&mut self, path: &RelPath) {
        if let Some(node) = self.nodes.get_mut(path)
            && let EntryKind::Directory { opaque } = &mut node.entry.kind
        {
            *opaque = true;
            node.named = true;
        }
    }

    /// Returns whether the whiteout stays one: nothing of this layer stands in its place.
    fn finish_whiteout(&mut self, path: &RelPath) -> Result<bool, EntryError> {
        if self.nodes.contains_key(path) {
            self.mark_opaque(path);
            return Ok(false);
        }
        if self.hidden_by_parent(path) {
            return Ok(false);
        }
        // A whiteout of nothing would show as a device in directories that overlayfs does not merge.
        if self.place.is_some() && self.lower.entry(path).map_err(EntryError::Lower)?.is_some() {
            self.make_parents(path)?;
            let entry = TreeEntry {
                kind: EntryKind::Whiteout,
                ..default_directory(path)
            };
            if let Some(place) = &mut self.place {
                place.special(&entry).map_err(EntryError::Write)?;
            }
        }
        Ok(true)
    }

    /// The first name of a file in order of the tree is the file.
    fn order_names(&mut self, holder: &RelPath, mut names: BTreeSet<RelPath>) {
        let kind = self.nodes.get(holder).map(|node| node.entry.kind.clone());
        let (Some(kind), Some(first)) = (kind, names.pop_first()) else {
            return;
        };
        for name in &names {
            self.set_kind(name, EntryKind::Hardlink { target: first.clone() });
        }
        self.set_kind(&first, kind);
    }
}
