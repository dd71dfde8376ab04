//! The client's view of a build context: which files a build may see, as metadata and digests.
//!
//! Nothing outside the root is ever read: every path is opened below the root's descriptor without following links, and
//! links that a source names are resolved here, in the root, by hand. What the ignore file excludes is not even looked at,
//! except where a `!` pattern reaches into it. FIFOs and devices are entries and never opened; sockets are left out.
//!
//! Reading order: this file, then `follow` (sources to paths), `walk` (metadata of these paths, directories side by side: `queue`),
//! `content` (digests, remembered by `stat_cache`); `list` tells people about it.

mod content;
mod dir;
mod follow;
mod list;
mod queue;
mod stat_cache;
mod walk;

use std::io;
use std::path::{Path, PathBuf};

use frontend::patterns::{PatternProblem, Patterns};
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};
use proto::v1;
use rustix::time::{ClockId, clock_gettime};

pub use list::{Fate, Listed, list};

use dir::Root;
use stat_cache::StatCache;

/// What of a context is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalkRequest<'a> {
    /// Paths relative to the root, or wildcard patterns matched per segment as `COPY` does; a directory stands for
    /// everything below it, a link also for what it leads to. None at all, `.` or an empty one: the whole context.
    pub include: &'a [String],
    /// The ignore file; it also excludes what an include names.
    pub ignore: Option<&'a Patterns>,
    /// Which modes the tree has.
    pub modes: ContextModes,
}

/// Which modes files of a context have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContextModes {
    /// Those on disk.
    #[default]
    Disk,
    /// As git keeps them: 0755 for directories and for files that their owner may execute, else 0644; links have none of their own. So
    /// neither the umask of a checkout nor the machine it was made on is part of a key.
    Git,
}

impl From<v1::ContextModes> for ContextModes {
    fn from(wire: v1::ContextModes) -> Self {
        match wire {
            v1::ContextModes::Disk => Self::Disk,
            v1::ContextModes::Git => Self::Git,
        }
    }
}

impl From<ContextModes> for v1::ContextModes {
    fn from(modes: ContextModes) -> Self {
        match modes {
            ContextModes::Disk => Self::Disk,
            ContextModes::Git => Self::Git,
        }
    }
}

impl ContextModes {
    fn of(self, kind: &EntryKind, mode: u32) -> u32 {
        match (self, kind) {
            (Self::Disk, _) | (_, EntryKind::Symlink { .. }) => mode,
            (Self::Git, EntryKind::Directory { .. }) => 0o755,
            (Self::Git, _) if mode & 0o100 != 0 => 0o755,
            (Self::Git, _) => 0o644,
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked {
    /// The selected files and every directory on the way to them, without the root itself; owner 0:0, modes and times as
    /// on disk. Of several names of one file the first is the file and the others are hard links.
    pub tree: Tree,
    /// Includes without wildcards that exist but are not in the tree because of the ignore file, in order of the request.
    pub excluded: Vec<Excluded>,
    /// Selected paths that have no form in an image, with the reason; in order of paths.
    pub skipped: Vec<(RelPath, &'static str)>,
    /// How many files were read; the digests of all others came from the stat cache.
    pub hashed_files: usize,
}

/// An include that the ignore file hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    /// The include, cleaned.
    pub path: RelPath,
    /// The pattern that decided, as written.
    pub pattern: String,
    /// Its line in the ignore file, from 1.
    pub line: u32,
}

/// Why there is no usable view of a context.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The root cannot be opened: missing, unreadable, or no directory.
    #[error("cannot open the build context `{}`", .path.display())]
    Root {
        /// The root as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A selected file or directory cannot be read.
    #[error("cannot read `{path}` in the build context")]
    Read {
        /// Relative to the root.
        path: RelPath,
        /// What the system said.
        source: io::Error,
    },
    /// A path was changed, replaced or removed while it was read.
    #[error("`{path}` changed while the build context was read")]
    Changed {
        /// Relative to the root.
        path: RelPath,
    },
    /// An include is a malformed wildcard pattern.
    #[error("{problem} `{}`", .include.escape_debug())]
    Include {
        /// The include as given.
        include: String,
        /// What is wrong with it.
        problem: PatternProblem,
    },
}

impl WalkError {
    /// The path that is to blame; nothing for the root and for includes.
    fn path(&self) -> Option<&RelPath> {
        match self {
            Self::Read { path, .. } | Self::Changed { path } => Some(path),
            Self::Root { .. } | Self::Include { .. } => None,
        }
    }
}

/// Reads what `request` selects of the directory `root`.
///
/// `stat_cache` is a file that remembers digests between walks of the same root; it belongs to this root alone, since what
/// no walk sees for long is forgotten. Its folder must exist. Without it, or if it cannot be used, every file is read.
///
/// # Errors
/// See [`WalkError`]; the first failure ends the walk.
pub fn walk(root: &Path, request: &WalkRequest<'_>, stat_cache: Option<&Path>) -> Result<Walked, WalkError> {
    let now = clock_gettime(ClockId::Realtime);
    let now = Timestamp {
        seconds: now.tv_sec,
        nanoseconds: u32::try_from(now.tv_nsec).expect("a clock has less than a billion nanoseconds"),
    };
    walk_at(root, request, stat_cache, now)
}

/// [`walk`] with a given clock: `now` decides which files are too young for the stat cache.
///
/// # Errors
/// As for [`walk`].
pub fn walk_at(
    root: &Path,
    request: &WalkRequest<'_>,
    stat_cache: Option<&Path>,
    now: Timestamp,
) -> Result<Walked, WalkError> {
    let nothing_ignored = Patterns::default();
    let ignore = request.ignore.unwrap_or(&nothing_ignored);
    let root = Root::open(root)?;
    let selection = follow::select(&root, ignore, request.include)?;
    let mut cache = StatCache::load(stat_cache, now);
    let scan = walk::scan(&root, ignore, &selection.paths, &cache)?;
    let (mut entries, hashed_files) = content::fill(&root, scan.found, &mut cache)?;
    for entry in &mut entries {
        entry.mode = request.modes.of(&entry.kind, entry.mode);
    }
    cache.save();
    let tree = Tree::new(entries);
    let excluded = excluded(&tree, ignore, selection.named);
    Ok(Walked {
        tree,
        excluded,
        skipped: scan.skipped,
        hashed_files,
    })
}

/// Of the includes that exist, those that are not in the tree although no other reason keeps them out.
fn excluded(tree: &Tree, ignore: &Patterns, named: Vec<follow::Named>) -> Vec<Excluded> {
    let hidden = named
        .into_iter()
        .filter(|named| !named.leads_to.is_root() && tree.get(&named.leads_to).is_none());
    hidden
        .filter_map(|named| {
            let leads_to = named.leads_to.as_bytes();
            // A socket is missing too, but no pattern is to blame.
            let (pattern, line) = ignore
                .deciding(leads_to)
                .filter(|(pattern, _)| !pattern.starts_with('!'))?;
            Some(Excluded {
                path: named.include,
                pattern: pattern.to_owned(),
                line,
            })
        })
        .collect()
}

/// An entry as contexts have it: owner 0:0.
fn entry(path: RelPath, kind: EntryKind, found: walk::Metadata) -> TreeEntry {
    TreeEntry {
        path,
        kind,
        mode: found.mode,
        uid: 0,
        gid: 0,
        mtime: found.stamp.mtime,
        xattrs: found.xattrs,
    }
}
