//! What one source of a `COPY` names, and its digest.
//!
//! Roots are resolved: a symlink named as a source is followed, inside its filesystem. Links met below a root stay links.

use frontend::patterns::{self, PatternError, PatternProblem, Patterns};
use proto::digest::ContentDigest;
use proto::tree::{RelPath, TreeEntry};

use crate::tree::digest::TreeDigester;
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
    let root = |named: Named| {
        let below = pick_below(source, &named.path, |path| !exclude.matches(path.as_bytes()));
        Root {
            name: named.name,
            top: source
                .get(&named.path)
                .and_then(|found| pick(source, found, &named.path)),
            path: named.path,
            below,
        }
    };
    let roots = named(source, selection.pattern)?.into_iter().map(root).collect();
    Ok(Selected { roots })
}

/// A root by its name and what is selected of it, both as they enter a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDigest {
    /// See [`Root`].
    pub name: Vec<u8>,
    /// See [`crate::tree::digest`].
    pub files: ContentDigest,
}

/// The digests of what [`select`] selects, without a list of it: of whole directories `source` may know them already.
///
/// # Errors
/// As [`select`].
pub fn digests(source: &MergedTree, selection: &Selection<'_>) -> Result<Vec<RootDigest>, SelectError> {
    if selection.exclude.is_empty() && !selection.parents {
        let whole = |named: Named| RootDigest {
            files: source.digest(&named.path),
            name: named.name,
        };
        return Ok(named(source, selection.pattern)?.into_iter().map(whole).collect());
    }
    let selected = select(source, selection)?;
    let digest = |root: Root| {
        let top = root.top.as_ref().map(|top| (&top.entry, &top.entry.kind));
        let mut digester = TreeDigester::new(top);
        for Picked { entry, .. } in &root.below {
            digester.add(&entry.path, entry, &entry.kind);
        }
        RootDigest {
            files: digester.finish().0,
            name: root.name,
        }
    };
    Ok(selected.roots.into_iter().map(digest).collect())
}

/// What a pattern leads to.
struct Named {
    /// The last part of the path that matched.
    name: Vec<u8>,
    /// Links followed; it has an entry or is the root of the filesystem.
    path: RelPath,
}

fn named(source: &MergedTree, pattern: &str) -> Result<Vec<Named>, SelectError> {
    let named = |path: RelPath| {
        let (resolved, found) = source.resolve(&path)?;
        if found.is_none() && !resolved.is_root() {
            return Err(SelectError::NotFound { path });
        }
        Ok(Named {
            name: path.name().unwrap_or_default().to_vec(),
            path: resolved,
        })
    };
    matches(source, pattern)?.into_iter().map(named).collect()
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
        picked.on_the_way = !*wanted && last.as_ref().is_some_and(|last| last.is_inside(path));
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
    for Named { path, .. } in named(source, pivot)? {
        let below = match patterns::is_wildcard(rest) {
            true => matching_below(source, &path, rest, exclude)?,
            false => named_below(source, &path, rest, exclude)?,
        };
        roots.push(Root {
            name: Vec::new(),
            top: source.get(&path).and_then(|found| pick(source, found, &path)),
            path,
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
        path.is_inside(&named) && !exclude.matches(path.as_bytes())
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
