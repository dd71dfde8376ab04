//! The walk proper: metadata of everything that is selected and not ignored, without contents.

use std::collections::BTreeSet;

use frontend::patterns::{DirectoryState, Patterns};
use proto::tree::{EntryKind, RelPath};
use rustix::fs::{FileType, Stat};

use super::WalkError;
use super::dir::{Directory, Root, Stamp, XattrBuffer, Xattrs, file_type};
use super::stat_cache::StatCache;

/// What a walk finds, in order of paths.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) found: Vec<Found>,
    pub(super) skipped: Vec<(RelPath, &'static str)>,
}

/// One path.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: RelPath,
    pub(super) what: What,
    pub(super) metadata: Metadata,
    presence: Presence,
}

/// What every entry has.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) stamp: Stamp,
    /// 0 to 0o7777.
    pub(super) mode: u32,
    pub(super) xattrs: Xattrs,
}

/// What a path is, as far as metadata say.
#[derive(Debug)]
pub(super) enum What {
    /// A regular file; its digest is still to be found.
    File {
        /// Whether other names may lead to it.
        linked: bool,
    },
    /// Anything else.
    Other(EntryKind),
}

#[derive(Debug, PartialEq, Eq)]
enum Presence {
    Selected,
    /// A directory that is there only for what it holds.
    OnTheWay,
}

/// A directory to be read.
#[derive(Debug)]
struct Pending {
    path: RelPath,
    state: DirectoryState,
    /// Whether everything below is selected, or only what the selection names.
    covered: bool,
}

#[derive(Debug)]
struct Scanner<'a> {
    cache: &'a StatCache,
    ignore: &'a Patterns,
    selected: &'a BTreeSet<RelPath>,
    pending: Vec<Pending>,
    scan: Scan,
    xattrs: XattrBuffer,
}

/// Reads the metadata of `selected` and all below, as far as `ignore` lets through, and `cache` does not know of them.
pub(super) fn scan(
    root: &Root,
    ignore: &Patterns,
    selected: &BTreeSet<RelPath>,
    cache: &StatCache,
) -> Result<Scan, WalkError> {
    let mut scanner = Scanner {
        cache,
        ignore,
        selected,
        pending: vec![Pending {
            path: RelPath::root(),
            state: ignore.root(),
            covered: selected.contains(&RelPath::root()),
        }],
        scan: Scan::default(),
        xattrs: XattrBuffer::default(),
    };
    while let Some(next) = scanner.pending.pop() {
        let directory = root.directory(&next.path)?;
        let names = if next.covered {
            directory.names()?
        } else {
            scanner.names_on_the_way(&next.path)
        };
        for name in names {
            scanner.visit(&directory, &name, &next)?;
        }
    }
    let mut scan = scanner.scan;
    scan.found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    scan.skipped.sort();
    drop_empty_ways(&mut scan.found);
    Ok(scan)
}

/// Removes directories that were entered only for what they might hold, and hold nothing.
fn drop_empty_ways(found: &mut Vec<Found>) {
    let mut kept: Vec<Found> = Vec::with_capacity(found.len());
    // Backwards: whatever a directory holds comes directly behind it.
    for candidate in found.drain(..).rev() {
        let holds = |last: &Found| last.path.below(&candidate.path).is_some();
        if candidate.presence == Presence::Selected || kept.last().is_some_and(holds) {
            kept.push(candidate);
        }
    }
    kept.reverse();
    *found = kept;
}

impl Scanner<'_> {
    /// The entries of `directory` that lead to something selected.
    fn names_on_the_way(&self, directory: &RelPath) -> Vec<Vec<u8>> {
        let below = self.selected.range(directory.clone()..);
        let below = below.map_while(|path| path.below(directory));
        let mut names: Vec<Vec<u8>> = below
            .filter_map(|path| path.components().next().map(<[u8]>::to_vec))
            .collect();
        names.dedup();
        names
    }

    fn visit(&mut self, directory: &Directory, name: &[u8], parent: &Pending) -> Result<(), WalkError> {
        let path = directory.child(name);
        let state = self.ignore.descend(&parent.state, path.as_bytes());
        let excluded = self.ignore.excludes(&state);
        if excluded && !self.ignore.may_match_below(path.as_bytes()) {
            return Ok(());
        }
        let Some(stat) = directory.stat(name)? else {
            // A temporary file of an editor that is gone by now might as well never have been listed; one that an include
            // led to was there a moment ago and is missed.
            return if parent.covered {
                Ok(())
            } else {
                Err(WalkError::Changed { path })
            };
        };
        let is_directory = file_type(&stat) == FileType::Directory;
        let covered = parent.covered || self.selected.contains(&path);
        if is_directory {
            let path = path.clone();
            self.pending.push(Pending { path, state, covered });
        } else if excluded || !covered {
            return Ok(());
        }
        let presence = if excluded || !covered {
            Presence::OnTheWay
        } else {
            Presence::Selected
        };
        self.record(directory, path, &stat, presence)
    }

    fn record(
        &mut self,
        directory: &Directory,
        path: RelPath,
        stat: &Stat,
        presence: Presence,
    ) -> Result<(), WalkError> {
        let name = path.name().unwrap_or_default();
        let mut xattrs = Vec::new();
        let what = match file_type(stat) {
            FileType::RegularFile => {
                if !self.cache.has_no_xattrs(&Stamp::of(stat)) {
                    xattrs = directory.xattrs(name, &mut self.xattrs)?;
                }
                What::File {
                    linked: stat.st_nlink > 1,
                }
            }
            FileType::Directory => {
                xattrs = directory.xattrs(name, &mut self.xattrs)?;
                What::Other(EntryKind::Directory { opaque: false })
            }
            // Neither links nor special files can have the attributes that are kept.
            FileType::Symlink => What::Other(EntryKind::Symlink {
                target: directory.link_target(name)?,
            }),
            FileType::Fifo => What::Other(EntryKind::Fifo),
            FileType::CharacterDevice => What::Other(EntryKind::CharDevice {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            }),
            FileType::BlockDevice => What::Other(EntryKind::BlockDevice {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            }),
            FileType::Socket => {
                self.scan.skipped.push((path, "a socket"));
                return Ok(());
            }
            FileType::Unknown => {
                self.scan.skipped.push((path, "a file of unknown type"));
                return Ok(());
            }
        };
        let metadata = Metadata {
            stamp: Stamp::of(stat),
            mode: stat.st_mode & 0o7777,
            xattrs,
        };
        self.scan.found.push(Found {
            path,
            what,
            metadata,
            presence,
        });
        Ok(())
    }
}
