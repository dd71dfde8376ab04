//! What a file in a directory of overlay format is, for whoever compares such directories.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, TreeEntry};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::lower::open_directory;
use super::tar::open_below;
use crate::notes;

/// The one attribute that layers keep.
pub(super) const CAPABILITY: &str = "security.capability";
/// Stands for the digest of bytes that nobody has read yet.
const UNREAD: ContentDigest = ContentDigest::from_bytes([0; 32]);

/// What `path` below `root` is, its bytes unread; nothing for a socket.
pub(super) fn read_entry(root: &OwnedFd, path: &RelPath, stat: &Stat) -> io::Result<Option<TreeEntry>> {
    let Some(kind) = kind_of(root, path, stat)? else {
        return Ok(None);
    };
    let mut entry = metadata(path, stat, kind);
    match entry.kind {
        EntryKind::File { .. } => {
            let file = open_below(root, as_path(path))?;
            let names = Names::of(&file)?;
            entry.xattrs.extend(capability(&file, &names)?);
            recall_owner(&mut entry, &file, &names)?;
        }
        EntryKind::Directory { .. } if notes::are_kept() => {
            let directory = open_directory(root, path)?;
            recall_owner(&mut entry, &directory, &Names::of(&directory)?)?;
        }
        _ => {}
    }
    Ok(Some(entry))
}

/// The kind of `path` below `root`; nothing for a socket.
pub(super) fn kind_of(root: &OwnedFd, path: &RelPath, stat: &Stat) -> io::Result<Option<EntryKind>> {
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let device = match stat.st_size == 0 && notes::are_kept() {
                true => notes::device(open_below(root, as_path(path))?)?,
                false => None,
            };
            device.unwrap_or(EntryKind::File {
                size: u64::try_from(stat.st_size).map_err(io::Error::other)?,
                content: UNREAD,
            })
        }
        FileType::Directory => EntryKind::Directory { opaque: false },
        FileType::Symlink => EntryKind::Symlink {
            target: read_link(root, path)?,
        },
        FileType::CharacterDevice => EntryKind::CharDevice {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        },
        FileType::BlockDevice => EntryKind::BlockDevice {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        },
        FileType::Fifo => EntryKind::Fifo,
        _ => return Ok(None),
    }))
}

/// Gives the entry of an open file the owner that is noted in it, if one is.
pub(super) fn recall_owner(entry: &mut TreeEntry, file: impl AsFd, names: &Names) -> io::Result<()> {
    let is_noted = notes::are_kept() && (entry.uid, entry.gid) == (0, 0) && names.has(notes::OWNER);
    if is_noted && let Some(owner) = notes::owner(file)? {
        (entry.uid, entry.gid) = owner;
    }
    Ok(())
}

/// The capability of a file, as an attribute of its entry.
pub(super) fn capability(file: impl AsFd, names: &Names) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    if !names.has(CAPABILITY) {
        return Ok(None);
    }
    let value = xattr(file, CAPABILITY)?;
    Ok(value.map(|value| (CAPABILITY.as_bytes().to_vec(), value)))
}

/// The names of a file's extended attributes: nearly always none, which takes one question instead of one for each.
pub(super) struct Names(Vec<u8>);

impl Names {
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        let mut room = 256;
        loop {
            let mut names = vec![0; room];
            match rustix::fs::flistxattr(&file, &mut names[..]) {
                Ok(length) => {
                    names.truncate(length);
                    return Ok(Self(names));
                }
                // File systems without any.
                Err(Errno::OPNOTSUPP) => return Ok(Self(Vec::new())),
                // At most 64 KiB, as the kernel has it.
                Err(Errno::RANGE) => room *= 4,
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.split(|byte| *byte == 0).any(|known| known == name.as_bytes())
    }
}

/// Space that a file takes on disk, shared by its names.
pub(super) fn disk_bytes(stat: &Stat) -> u64 {
    let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => bytes,
        _ => bytes / stat.st_nlink.max(1),
    }
}

fn read_link(root: &OwnedFd, path: &RelPath) -> io::Result<Vec<u8>> {
    let parent = open_directory(root, &path.parent().unwrap_or_default())?;
    let name = OsStr::from_bytes(path.name().unwrap_or_default());
    Ok(rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes())
}

/// An entry without attributes.
pub(super) fn metadata(path: &RelPath, stat: &Stat, kind: EntryKind) -> TreeEntry {
    TreeEntry {
        path: path.clone(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        xattrs: Vec::new(),
    }
}

/// The value of an extended attribute; nothing if it is not set or the file system has none.
pub(super) fn xattr(file: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = [0; 256];
    match rustix::fs::fgetxattr(file, name, &mut value[..]) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(Errno::RANGE) => Ok(Some(Vec::new())),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn as_path(path: &RelPath) -> &Path {
    Path::new(OsStr::from_bytes(path.as_bytes()))
}
