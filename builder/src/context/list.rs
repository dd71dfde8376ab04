//! What a context holds and what becomes of it, from metadata alone: for people who wonder why a build reads so much.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use frontend::patterns::Patterns;
use proto::tree::{RelPath, Timestamp};

use super::dir::Root;
use super::stat_cache::StatCache;
use super::walk::{Found, What};
use super::{WalkError, follow, walk};

/// One path of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where it is.
    pub path: RelPath,
    /// Size of a file; of a directory that stands for everything below, the sum.
    pub size_bytes: u64,
    /// How many files it stands for: none for a directory that is listed for itself.
    pub files: u64,
    /// Whether a build reads it.
    pub fate: Fate,
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// A build reads it.
    Sent,
    /// The ignore file keeps it out: pattern as written, and its line.
    Excluded {
        /// The pattern that decides.
        pattern: String,
        /// Its line.
        line: u32,
    },
    /// No instruction asks for it.
    Unused,
}

/// Lists the directory `root` in order of paths, as [`super::walk`] would read `include` of it, and what that leaves out. Of
/// a directory that is left out whole, only the top is listed. Without `include` everything is asked for.
///
/// # Errors
/// See [`WalkError`]; the first failure ends it.
pub fn list(root: &Path, ignore: Option<&Patterns>, include: Option<&[String]>) -> Result<Vec<Listed>, WalkError> {
    let nothing_ignored = Patterns::default();
    let ignore = ignore.unwrap_or(&nothing_ignored);
    let root = Root::open(root)?;
    let nothing_known = StatCache::load(None, Timestamp::default());
    let sent: BTreeSet<RelPath> = match include {
        Some([]) => BTreeSet::new(),
        include => {
            let selection = follow::select(&root, ignore, include.unwrap_or_default())?;
            let found = walk::scan(&root, ignore, &selection.paths, &nothing_known)?.found;
            found.into_iter().map(|found| found.path).collect()
        }
    };
    let everything = BTreeSet::from([RelPath::root()]);
    let found = walk::scan(&root, &nothing_ignored, &everything, &nothing_known)?.found;
    let mut listed: BTreeMap<RelPath, Listed> = BTreeMap::new();
    for found in &found {
        let fate = match sent.contains(&found.path) {
            true => Fate::Sent,
            false => left_out(ignore, &found.path),
        };
        match top(&listed, &found.path, &fate) {
            Some(top) => {
                if let Some(top) = listed.get_mut(&top) {
                    let (size_bytes, files) = size(found);
                    top.size_bytes += size_bytes;
                    top.files += files;
                }
            }
            None => drop(listed.insert(found.path.clone(), own(found, fate))),
        }
    }
    // Directories on the way to something say nothing by themselves.
    Ok(listed
        .into_values()
        .filter(|listed| listed.files > 0 || listed.fate == Fate::Sent)
        .collect())
}

fn left_out(ignore: &Patterns, path: &RelPath) -> Fate {
    match ignore
        .deciding(path.as_bytes())
        .filter(|_| ignore.matches(path.as_bytes()))
    {
        Some((pattern, line)) => Fate::Excluded {
            pattern: pattern.to_owned(),
            line,
        },
        None => Fate::Unused,
    }
}

/// The listed directory that speaks for `path` too: left out for the same reason.
fn top(listed: &BTreeMap<RelPath, Listed>, path: &RelPath, fate: &Fate) -> Option<RelPath> {
    if *fate == Fate::Sent {
        return None;
    }
    let mut top = None;
    let mut above = path.parent();
    while let Some(directory) = above {
        if listed.get(&directory).is_some_and(|listed| listed.fate == *fate) {
            top = Some(directory.clone());
        }
        above = directory.parent();
    }
    top
}

fn own(found: &Found, fate: Fate) -> Listed {
    let (size_bytes, files) = size(found);
    Listed {
        path: found.path.clone(),
        size_bytes,
        files,
        fate,
    }
}

/// Bytes and number of files; a link and a device count as a file of no size.
fn size(found: &Found) -> (u64, u64) {
    match &found.what {
        What::File { .. } => (found.metadata.stamp.size_bytes, 1),
        What::Other(proto::tree::EntryKind::Directory { .. }) => (0, 0),
        What::Other(_) => (0, 1),
    }
}
