//! What one source of a `COPY` names, and how that enters a key.
//!
//! Roots are resolved: a symlink named as a source is followed, inside its filesystem. Links met below a root stay links.

use frontend::patterns::{self, PatternError, PatternProblem, Patterns};
use proto::record::Field;
use proto::tree::{EntryKind, RelPath, TreeEntry};

use crate::tree::{Located, MergedTree, ResolveError};

/// How a source is read.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Path or wildcard pattern as written; leading `/` and `..` are clipped here.
    pub pattern: &'a str,
    /// `--exclude`, relative to each root; a root itself is never excluded.
    pub exclude: &'a [String],
    /// `--parents`: the one root is the root of the filesystem, or the directory before `/./` in the pattern; below it are the
    /// paths that match the rest, with all directories on their way. `**` is a wildcard then, nothing is followed through links,
    /// and as it is no root, what is named is not spared by `exclude`.
    pub parents: bool,
}

/// The outcome: every root with what is below it.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    /// In byte order of the paths that matched; empty if a wildcard matched nothing.
    pub roots: Vec<Root>,
}

/// One file or directory that a source names.
#[derive(Debug, Clone)]
pub struct Root {
    /// Its name in a destination directory; empty for the root of the filesystem.
    pub name: Vec<u8>,
    /// Where it is, links followed.
    pub path: RelPath,
    /// Its own entry; nothing for the root of the filesystem.
    pub top: Option<Picked>,
    /// What is below, paths relative to the root, parents first. Empty for a file.
    pub below: Vec<Picked>,
}

/// An entry and where its bytes are.
#[derive(Debug, Clone)]
pub struct Picked {
    /// The entry; its path is relative to the [`Root`]. A hard link's kind is that of its file.
    pub entry: TreeEntry,
    /// The path in the source that holds the bytes.
    pub content: RelPath,
    /// The layer of the source that holds the bytes.
    pub layer: usize,
    /// A directory that nobody wanted, on the way to something that was.
    pub on_the_way: bool,
}

/// Why a source selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// A path without wildcards that is not there.
    #[error("`/{path}` not found")]
    NotFound {
        /// The path, cleaned.
        path: RelPath,
    },
    /// Symlinks without end.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A malformed wildcard.
    #[error("{problem} `{}`", .pattern.escape_debug())]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong.
        problem: PatternProblem,
    },
    /// A malformed `--exclude`.
    #[error("`--exclude`")]
    Exclude(#[from] PatternError),
}

/// Selects files of `source`.
///
/// # Errors
/// See [`SelectError`]. A wildcard without a match is no error.
pub fn select(source: &MergedTree, selection: &Selection<'_>) -> Result<Selected, SelectError> {
    let exclude = Patterns::new(selection.exclude)?;
    if selection.parents {
        return with_parents(source, selection.pattern, &exclude);
    }
    let mut roots = Vec::new();
    for path in matches(source, selection.pattern)? {
        let (resolved, found) = source.resolve(&path)?;
        if found.is_none() && !resolved.is_root() {
            return Err(SelectError::NotFound { path });
        }
        let below = pick_below(source, &resolved, |path| !exclude.matches(path.as_bytes()));
        roots.push(Root {
            name: path.name().unwrap_or_default().to_vec(),
            top: found.and_then(|found| pick(source, found, &resolved)),
            path: resolved,
            below,
        });
    }
    Ok(Selected { roots })
}

/// What `wanted` wants below `root`, and the directories on the way to it, wanted or not.
fn pick_below(source: &MergedTree, root: &RelPath, mut wanted: impl FnMut(&RelPath) -> bool) -> Vec<Picked> {
    let picked = source.walk(root).filter_map(|found| pick(source, found, root));
    let mut all: Vec<(Picked, bool)> = picked
        .map(|picked| {
            let wanted = wanted(&picked.entry.path);
            (picked, wanted)
        })
        .collect();
    // Backwards, since what a directory holds comes right behind it: one look at the last wanted path is enough.
    let mut last: Option<RelPath> = None;
    for (picked, wanted) in all.iter_mut().rev() {
        let path = &picked.entry.path;
        picked.on_the_way = !*wanted && last.as_ref().is_some_and(|last| last.below(path).is_some());
        *wanted |= picked.on_the_way;
        if *wanted {
            last = Some(path.clone());
        }
    }
    let wanted = all.into_iter().filter(|(_, wanted)| *wanted);
    wanted.map(|(picked, _)| picked).collect()
}

fn with_parents(source: &MergedTree, pattern: &str, exclude: &Patterns) -> Result<Selected, SelectError> {
    let (pivot, rest) = pattern.split_once("/./").unwrap_or(("", pattern));
    let mut roots = Vec::new();
    for path in matches(source, pivot)? {
        let (resolved, found) = source.resolve(&path)?;
        if found.is_none() && !resolved.is_root() {
            return Err(SelectError::NotFound { path });
        }
        let below = match patterns::is_wildcard(rest) {
            true => matching_below(source, &resolved, rest, exclude)?,
            false => named_below(source, &resolved, rest, exclude)?,
        };
        roots.push(Root {
            name: Vec::new(),
            top: found.and_then(|found| pick(source, found, &resolved)),
            path: resolved,
            below,
        });
    }
    if roots.is_empty() {
        // The destination is made even so.
        roots.push(Root {
            name: Vec::new(),
            path: RelPath::root(),
            top: None,
            below: Vec::new(),
        });
    }
    Ok(Selected { roots })
}

fn matching_below(
    source: &MergedTree,
    root: &RelPath,
    pattern: &str,
    exclude: &Patterns,
) -> Result<Vec<Picked>, SelectError> {
    let malformed = |error: PatternError| SelectError::Pattern {
        pattern: pattern.to_owned(),
        problem: error.problem,
    };
    let cleaned = RelPath::clean(pattern.as_bytes());
    let include = Patterns::new(&[String::from_utf8_lossy(cleaned.as_bytes())]).map_err(malformed)?;
    Ok(pick_below(source, root, |path| {
        include.matches(path.as_bytes()) && !exclude.matches(path.as_bytes())
    }))
}

fn named_below(
    source: &MergedTree,
    root: &RelPath,
    name: &str,
    exclude: &Patterns,
) -> Result<Vec<Picked>, SelectError> {
    let named = RelPath::clean(patterns::unescape(name).as_bytes());
    let whole = root.join(&named);
    // The root of a filesystem has no entry and is there.
    if !whole.is_root() && source.get(&whole).is_none() {
        return Err(SelectError::NotFound { path: whole });
    }
    Ok(pick_below(source, root, |path| {
        path.below(&named).is_some() && !exclude.matches(path.as_bytes())
    }))
}

fn pick(source: &MergedTree, found: Located<'_>, root: &RelPath) -> Option<Picked> {
    let path = found.entry.path.below(root)?;
    let file = source.file_of(found).unwrap_or(found);
    let mut entry = found.entry.clone();
    entry.path = path;
    entry.kind = file.entry.kind.clone();
    Some(Picked {
        entry,
        content: file.entry.path.clone(),
        layer: file.layer,
        on_the_way: false,
    })
}

fn matches(source: &MergedTree, pattern: &str) -> Result<Vec<RelPath>, SelectError> {
    if !patterns::is_wildcard(pattern) {
        return Ok(vec![RelPath::clean(patterns::unescape(pattern).as_bytes())]);
    }
    let problem = |problem| SelectError::Pattern {
        pattern: pattern.to_owned(),
        problem,
    };
    patterns::check_wildcard(pattern).map_err(problem)?;
    let cleaned = RelPath::clean(pattern.as_bytes());
    let mut reached = vec![RelPath::root()];
    for segment in cleaned.components() {
        let segment = String::from_utf8_lossy(segment);
        let mut next = Vec::new();
        for directory in &reached {
            let (resolved, _) = source.resolve(directory)?;
            for child in source.children(&resolved) {
                let name = child.entry.path.name().unwrap_or_default();
                if patterns::wildcard_matches(&segment, &String::from_utf8_lossy(name)).map_err(problem)? {
                    next.push(directory.join(&RelPath::clean(name)));
                }
            }
        }
        reached = next;
    }
    reached.sort();
    Ok(reached)
}

/// What of a selection enters a key: names below the top, kinds, modes, owners, link targets, attributes and content, in
/// order; no times, and no directory part of the source.
#[must_use]
pub fn content_fields(selected: &Selected) -> Vec<Field> {
    let mut fields = Vec::new();
    for (index, root) in selected.roots.iter().enumerate() {
        fields.push(Field {
            name: format!("source {index}"),
            value: root.name.clone(),
        });
        for picked in root.top.iter().chain(&root.below) {
            let path = &picked.entry.path;
            fields.push(Field {
                name: format!("file {index}/{path}"),
                value: encode(&picked.entry),
            });
        }
    }
    fields
}

/// Length-prefixed, so that no two entries share an encoding.
fn encode(entry: &TreeEntry) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, entry.path.as_bytes());
    let (kind, detail): (u8, Vec<u8>) = match &entry.kind {
        EntryKind::File { content, .. } => (b'f', content.to_string().into_bytes()),
        EntryKind::Directory { .. } => (b'd', Vec::new()),
        EntryKind::Symlink { target } => (b'l', target.clone()),
        EntryKind::Hardlink { target } => (b'h', target.as_bytes().to_vec()),
        EntryKind::CharDevice { major, minor } => (b'c', format!("{major}:{minor}").into_bytes()),
        EntryKind::BlockDevice { major, minor } => (b'b', format!("{major}:{minor}").into_bytes()),
        EntryKind::Fifo => (b'p', Vec::new()),
        EntryKind::Whiteout => (b'w', Vec::new()),
    };
    bytes.push(kind);
    put(&mut bytes, &detail);
    for number in [entry.mode, entry.uid, entry.gid] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| counts(name)) {
        put(&mut bytes, name);
        put(&mut bytes, value);
    }
    bytes
}

/// `security.*` and `system.*` belong to the machine, file capabilities to the file.
fn counts(name: &[u8]) -> bool {
    name == b"security.capability" || !(name.starts_with(b"security.") || name.starts_with(b"system."))
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
    bytes.extend_from_slice(part);
}
