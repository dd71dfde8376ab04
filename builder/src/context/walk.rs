//! The walk proper: metadata of everything that is selected and not ignored, without contents.
//!
//! Directories are a queue that several threads share. What one holds is sorted by name, and put in its place at the end, so the
//! outcome is the same whichever thread was where at what time.

use std::collections::BTreeSet;

use frontend::patterns::{DirectoryState, Patterns};
use proto::tree::{EntryKind, RelPath};
use rustix::fs::{FileType, Stat};

use super::WalkError;
use super::dir::{Directory, Root, Stamp, XattrBuffer, Xattrs, file_type};
use super::queue::{self, Visited};
use super::stat_cache::{Known, StatCache};

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
    /// A regular file.
    File {
        /// Whether other names may lead to it.
        linked: bool,
        /// What the stat cache knows of it; without that its digest is still to be found.
        known: Option<Known>,
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

/// What all threads of a walk look at.
#[derive(Debug, Clone, Copy)]
struct Scanner<'a> {
    root: &'a Root,
    cache: &'a StatCache,
    ignore: &'a Patterns,
    selected: &'a BTreeSet<RelPath>,
}

/// What a directory holds and what was left out of it, of those below apart.
type Listed = (Vec<Found>, Vec<(RelPath, &'static str)>);

/// What one directory holds.
#[derive(Debug, Default)]
struct Listing {
    found: Vec<Found>,
    /// The directories among `found`, still to be read.
    entered: Vec<Pending>,
    skipped: Vec<(RelPath, &'static str)>,
}

/// Reads the metadata of `selected` and all below, as far as `ignore` lets through. What `cache` knows of files is looked up on the
/// way.
///
/// Of several errors that of the first path is returned.
pub(super) fn scan(
    root: &Root,
    ignore: &Patterns,
    selected: &BTreeSet<RelPath>,
    cache: &StatCache,
) -> Result<Scan, WalkError> {
    let scanner = Scanner {
        root,
        cache,
        ignore,
        selected,
    };
    let first = Pending {
        path: RelPath::root(),
        state: ignore.root(),
        covered: selected.contains(&RelPath::root()),
    };
    let visits = queue::visit_all(first, |pending, buffer: &mut XattrBuffer| {
        let listing = scanner.list(pending, buffer)?;
        let found = (listing.found, listing.skipped);
        Ok((found, listing.entered))
    });
    let mut scan = assemble(visits)?;
    scan.skipped.sort();
    drop_empty_ways(&mut scan.found);
    Ok(scan)
}

/// The listings of all directories, each where its directory is.
fn assemble(visits: Vec<Visited<Listed, WalkError>>) -> Result<Scan, WalkError> {
    let mut errors = Vec::new();
    let mut listings = Vec::with_capacity(visits.len());
    let mut scan = Scan::default();
    for visit in visits {
        let Visited { result, below } = visit;
        let (found, skipped) = result.unwrap_or_else(|error| {
            errors.push(error);
            Listed::default()
        });
        scan.skipped.extend(skipped);
        listings.push((found.into_iter(), below.into_iter()));
    }
    if let Some(error) = errors.into_iter().min_by(|a, b| a.path().cmp(&b.path())) {
        return Err(error);
    }
    scan.found
        .reserve_exact(listings.iter().map(|(found, _)| found.len()).sum());
    let mut open = vec![0];
    while let Some(at) = open.last() {
        let (found, below) = &mut listings[*at];
        match found.next() {
            None => drop(open.pop()),
            Some(found) => {
                if found.is_directory() {
                    open.extend(below.next());
                }
                scan.found.push(found);
            }
        }
    }
    Ok(scan)
}

/// Removes directories that were entered only for what they might hold, and hold nothing.
fn drop_empty_ways(found: &mut Vec<Found>) {
    if found.iter().all(|found| found.presence == Presence::Selected) {
        return;
    }
    let mut kept: Vec<Found> = Vec::with_capacity(found.len());
    // Backwards: whatever a directory holds comes directly behind it.
    for candidate in found.drain(..).rev() {
        let holds = |last: &Found| last.path.is_inside(&candidate.path);
        if candidate.presence == Presence::Selected || kept.last().is_some_and(holds) {
            kept.push(candidate);
        }
    }
    kept.reverse();
    *found = kept;
}

impl Found {
    fn is_directory(&self) -> bool {
        matches!(self.what, What::Other(EntryKind::Directory { .. }))
    }
}

impl Scanner<'_> {
    fn list(&self, pending: &Pending, buffer: &mut XattrBuffer) -> Result<Listing, WalkError> {
        let directory = self.root.directory(&pending.path)?;
        let mut names = if pending.covered {
            directory.names()?
        } else {
            self.names_on_the_way(&pending.path)
        };
        // Byte order: that of paths with the same directory.
        names.sort_unstable();
        let mut listing = Listing {
            found: Vec::with_capacity(names.len()),
            ..Listing::default()
        };
        for name in names {
            self.visit(&directory, &name, pending, (&mut listing, buffer))?;
        }
        Ok(listing)
    }

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

    fn visit(
        &self,
        directory: &Directory,
        name: &[u8],
        parent: &Pending,
        (listing, buffer): (&mut Listing, &mut XattrBuffer),
    ) -> Result<(), WalkError> {
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
            listing.entered.push(Pending { path, state, covered });
        } else if excluded || !covered {
            return Ok(());
        }
        let presence = if excluded || !covered {
            Presence::OnTheWay
        } else {
            Presence::Selected
        };
        let xattrs = |name: &[u8]| directory.xattrs(name, buffer);
        match self.look(directory, name, &stat, xattrs)? {
            Look::Kept(what, xattrs) => listing.found.push(Found {
                path,
                what,
                metadata: Metadata {
                    stamp: Stamp::of(&stat),
                    mode: stat.st_mode & 0o7777,
                    xattrs,
                },
                presence,
            }),
            Look::Skipped(reason) => listing.skipped.push((path, reason)),
        }
        Ok(())
    }

    /// What `name` is, with its attributes.
    fn look(
        &self,
        directory: &Directory,
        name: &[u8],
        stat: &Stat,
        xattrs: impl FnOnce(&[u8]) -> Result<Xattrs, WalkError>,
    ) -> Result<Look, WalkError> {
        let device =
            |kind: fn(u32, u32) -> EntryKind| kind(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        // Neither links nor special files can have the attributes that are kept.
        let kind = match file_type(stat) {
            FileType::RegularFile => {
                let known = self.cache.lookup(&Stamp::of(stat));
                let xattrs = match &known {
                    Some(known) if !known.has_xattrs => Vec::new(),
                    _ => xattrs(name)?,
                };
                let linked = stat.st_nlink > 1;
                return Ok(Look::Kept(What::File { linked, known }, xattrs));
            }
            FileType::Directory => {
                let kind = EntryKind::Directory { opaque: false };
                return Ok(Look::Kept(What::Other(kind), xattrs(name)?));
            }
            FileType::Symlink => EntryKind::Symlink {
                target: directory.link_target(name)?,
            },
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice => device(|major, minor| EntryKind::CharDevice { major, minor }),
            FileType::BlockDevice => device(|major, minor| EntryKind::BlockDevice { major, minor }),
            FileType::Socket => return Ok(Look::Skipped("a socket")),
            FileType::Unknown => return Ok(Look::Skipped("a file of unknown type")),
        };
        Ok(Look::Kept(What::Other(kind), Vec::new()))
    }
}

/// What becomes of a path.
enum Look {
    Kept(What, Xattrs),
    /// It has no form in an image, for this reason.
    Skipped(&'static str),
}
