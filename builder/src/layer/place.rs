//! Puts a layer's entries into its directory in overlay format.
//!
//! The directory is new and ours alone, and paths come resolved: every parent is a directory that was made here. The kernel is
//! asked to hold us to that (no links, nothing outside), names are created exclusively, and metadata is set on descriptors.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::tree::{EntryKind, RelPath, TreeEntry};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::lower::{open_directory, open_root};
use super::whiteout;
use crate::ids::opaque_mark;
use crate::notes;

/// A layer directory being filled.
pub(super) struct Place {
    root: OwnedFd,
    /// The directory used last: neighbours come one after the other.
    parent: Option<(RelPath, OwnedFd)>,
}

impl Place {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            root: open_root(dir)?,
            parent: None,
        })
    }

    /// A new, empty directory, for nobody else to enter until it is finished.
    pub(super) fn directory(&mut self, path: &RelPath) -> io::Result<()> {
        let (parent, name) = self.at(path)?;
        Ok(rustix::fs::mkdirat(parent, name, Mode::RWXU)?)
    }

    /// A new, empty file.
    pub(super) fn file(&mut self, path: &RelPath) -> io::Result<File> {
        let (parent, name) = self.at(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// A link, device or pipe with its metadata.
    pub(super) fn special(&mut self, entry: &TreeEntry) -> io::Result<()> {
        let (parent, name) = self.at(&entry.path)?;
        let node =
            |kind, major, minor| rustix::fs::mknodat(parent, name, kind, Mode::RUSR, rustix::fs::makedev(major, minor));
        let made = match &entry.kind {
            EntryKind::Symlink { target } => rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name),
            EntryKind::CharDevice { major, minor } => node(FileType::CharacterDevice, *major, *minor),
            EntryKind::BlockDevice { major, minor } => node(FileType::BlockDevice, *major, *minor),
            EntryKind::Fifo => node(FileType::Fifo, 0, 0),
            EntryKind::Whiteout => return Ok(whiteout::make(parent, name)?),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        match made {
            Err(Errno::PERM) if notes::are_kept() => return self.stand_in(entry),
            made => made?,
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        match rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            // Such a file can carry no note either.
            Err(Errno::INVAL) if notes::are_kept() => {}
            given => given?,
        }
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            // The name was made above in a directory that only we can enter: it is no link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(
            parent,
            name,
            &times(entry),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// An empty file in place of a device that cannot be made.
    fn stand_in(&mut self, entry: &TreeEntry) -> io::Result<()> {
        tracing::warn!(path = %entry.path, "a device of a layer is kept in the image, but steps cannot use it: only root can make it");
        let file = self.file(&entry.path)?;
        notes::stand_in_for(&file, &entry.kind)?;
        finish(&file, entry)
    }

    /// A further name of the file `target`.
    pub(super) fn link(&mut self, target: &RelPath, path: &RelPath) -> io::Result<()> {
        let from = open_directory(&self.root, &target.parent().unwrap_or_default())?;
        let (parent, name) = self.at(path)?;
        Ok(rustix::fs::linkat(
            from,
            name_of(target),
            parent,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Takes back one path; a directory must be empty.
    pub(super) fn remove(&mut self, path: &RelPath, directory: bool) -> io::Result<()> {
        self.parent = None;
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let (parent, name) = self.at(path)?;
        Ok(rustix::fs::unlinkat(parent, name, flags)?)
    }

    /// Gives a directory its metadata. Nothing may be created in it any more, or its time changes.
    pub(super) fn finish_directory(&mut self, entry: &TreeEntry) -> io::Result<()> {
        let directory = open_directory(&self.root, &entry.path)?;
        if entry.kind == (EntryKind::Directory { opaque: true }) {
            rustix::fs::fsetxattr(&directory, opaque_mark(), b"y", XattrFlags::empty())?;
        }
        finish(&directory, entry)
    }

    fn at<'a>(&mut self, path: &'a RelPath) -> io::Result<(&OwnedFd, &'a OsStr)> {
        let wanted = path.parent().unwrap_or_default();
        if self.parent.as_ref().is_none_or(|(known, _)| *known != wanted) {
            self.parent = None;
        }
        let (_, directory) = match self.parent.take() {
            Some(known) => self.parent.insert(known),
            None => {
                let directory = open_directory(&self.root, &wanted)?;
                self.parent.insert((wanted, directory))
            }
        };
        Ok((directory, name_of(path)))
    }
}

/// Gives an open file or directory its owner, mode, attributes and times.
pub(super) fn finish(file: impl AsFd, entry: &TreeEntry) -> io::Result<()> {
    // In this order: a new owner takes setuid bits and capabilities away, and everything touches the times.
    notes::give_to(&file, entry.uid, entry.gid)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in &entry.xattrs {
        rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(&file, &times(entry))?)
}

fn times(entry: &TreeEntry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime.seconds,
        tv_nsec: entry.mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn name_of(path: &RelPath) -> &OsStr {
    OsStr::from_bytes(path.name().unwrap_or(b"."))
}
