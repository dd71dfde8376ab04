//! A tar of an exported file tree into a directory of the user. The archive comes from an image, so from strangers.
//!
//! Nothing is written through a link: directories on the way are opened one by one without following, files are written
//! under a temporary name and renamed over what is there. Files belong to the invoking user, as with other builders, unless
//! [`Owners`] say otherwise.
//! Devices are left out and counted: they need root, and nobody exports an image's `/dev` on purpose.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::tree::{PathError, RelPath};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::beneath::{self, BeneathError};

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtractError {
    /// A name is no path below the destination.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A place could not be reached or written.
    #[error(transparent)]
    Place(#[from] BeneathError),
    /// A directory is in the way of a file or link.
    #[error("`{0}` is a directory in the destination, and no directory in the result")]
    DirectoryInTheWay(RelPath),
    /// An entry of a kind that a file tree does not have.
    #[error("the entry `{0}` is of an unknown kind")]
    Kind(RelPath),
    /// The archive is damaged, or could not be read.
    #[error("the archive of the result: {0}")]
    Archive(#[from] std::io::Error),
}

/// What was unpacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extracted {
    /// Files, directories and links.
    pub(crate) entries: u64,
    /// Devices that were left out.
    pub(crate) devices_skipped: u64,
}

/// Whose the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// The user who unpacks them.
    Invoker,
    /// As the archive says, for which one must be root.
    Archive,
}

/// Unpacks `archive` into `directory`, which is created if needed. What is there and not in the archive stays.
///
/// # Errors
/// [`ExtractError`]; what was unpacked so far stays.
pub(crate) fn extract(archive: impl Read, directory: &Path, owners: Owners) -> Result<Extracted, ExtractError> {
    std::fs::create_dir_all(directory)?;
    let root = beneath::open_root(directory)?;
    let mut extracted = Extracted::default();
    // Times of directories are set last: writing into a directory changes them. Modes too: it may not be writable.
    let mut directories = Vec::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = RelPath::parse(&entry.path_bytes())?;
        let meta = Meta::of(entry.header(), owners)?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                make_directory(root.as_fd(), &path)?;
                directories.push((path, meta));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => write_file(root.as_fd(), &path, &meta, &mut entry)?,
            tar::EntryType::Symlink => make_symlink(root.as_fd(), &path, &meta, &link_name(&entry, &path)?)?,
            tar::EntryType::Link => {
                let target = RelPath::parse(&link_name(&entry, &path)?)?;
                make_hardlink(root.as_fd(), &path, &target)?;
            }
            tar::EntryType::Fifo => make_fifo(root.as_fd(), &path, &meta)?,
            tar::EntryType::Char | tar::EntryType::Block => {
                extracted.devices_skipped += 1;
                continue;
            }
            tar::EntryType::XGlobalHeader => continue,
            _ => return Err(ExtractError::Kind(path)),
        }
        extracted.entries += 1;
    }
    for (path, meta) in directories.iter().rev() {
        finish_directory(root.as_fd(), path, meta)?;
    }
    Ok(extracted)
}

fn link_name(entry: &tar::Entry<'_, impl Read>, path: &RelPath) -> Result<Vec<u8>, ExtractError> {
    let name = entry.link_name_bytes();
    name.map(std::borrow::Cow::into_owned)
        .ok_or_else(|| ExtractError::Kind(path.clone()))
}

struct Meta {
    mode: Mode,
    times: Timestamps,
    owner: Option<(Uid, Gid)>,
}

impl Meta {
    fn of(header: &tar::Header, owners: Owners) -> Result<Self, std::io::Error> {
        let id = |id: u64| u32::try_from(id).map_err(std::io::Error::other);
        let owner = match owners {
            Owners::Invoker => None,
            Owners::Archive => Some((Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?))),
        };
        let seconds = i64::try_from(header.mtime()?).map_err(std::io::Error::other)?;
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        Ok(Self {
            mode: Mode::from_raw_mode(header.mode()? & 0o7777),
            times: Timestamps {
                last_access: time,
                last_modification: time,
            },
            owner,
        })
    }

    /// Gives away what is open. Before its mode is set: giving a file away takes set-id bits from it.
    fn give(&self, fd: impl AsFd) -> rustix::io::Result<()> {
        match self.owner {
            Some((uid, gid)) => rustix::fs::fchown(fd, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Gives away what is called `name`.
    fn give_at(&self, parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        match self.owner {
            Some((uid, gid)) => rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW),
            None => Ok(()),
        }
    }
}

fn make_directory(root: BorrowedFd<'_>, path: &RelPath) -> Result<(), ExtractError> {
    if path.is_root() {
        return Ok(());
    }
    let (parent, name) = beneath::parent(root, path, true)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => open_directory(root, path).map(drop),
        Err(errno) => Err(BeneathError::io(path, errno).into()),
    }
}

fn open_directory(root: BorrowedFd<'_>, path: &RelPath) -> Result<OwnedFd, ExtractError> {
    // A component below `path` makes `path` itself a directory on the way, with the checks of one.
    let inside = path.join(&RelPath::clean(b"x"));
    Ok(beneath::parent(root, &inside, false)?.0)
}

fn finish_directory(root: BorrowedFd<'_>, path: &RelPath, meta: &Meta) -> Result<(), ExtractError> {
    // The destination itself is the user's: its mode stays.
    if path.is_root() {
        return Ok(());
    }
    let directory = open_directory(root, path)?;
    let failed = |errno| BeneathError::io(path, errno);
    meta.give(&directory).map_err(failed)?;
    rustix::fs::fchmod(&directory, meta.mode).map_err(failed)?;
    rustix::fs::futimens(&directory, &meta.times).map_err(failed)?;
    Ok(())
}

fn write_file(
    root: BorrowedFd<'_>,
    path: &RelPath,
    meta: &Meta,
    content: &mut tar::Entry<'_, impl Read>,
) -> Result<(), ExtractError> {
    let size = content.size();
    placed(root, path, |parent, name| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |errno| BeneathError::io(path, errno);
        let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?);
        // An entry of a cut archive just ends early.
        if std::io::copy(content, &mut file)? != size {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        meta.give(&file).map_err(failed)?;
        rustix::fs::fchmod(&file, meta.mode).map_err(failed)?;
        rustix::fs::futimens(&file, &meta.times).map_err(failed)?;
        Ok(())
    })
}

fn make_symlink(root: BorrowedFd<'_>, path: &RelPath, meta: &Meta, target: &[u8]) -> Result<(), ExtractError> {
    placed(root, path, |parent, name| {
        let failed = |errno| BeneathError::io(path, errno);
        rustix::fs::symlinkat(target, parent, name).map_err(failed)?;
        meta.give_at(parent, name).map_err(failed)?;
        rustix::fs::utimensat(parent, name, &meta.times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        Ok(())
    })
}

fn make_hardlink(root: BorrowedFd<'_>, path: &RelPath, target: &RelPath) -> Result<(), ExtractError> {
    // Opening checks that the target is a regular file that no link leads to.
    drop(beneath::open_file(root, target)?);
    let (target_parent, target_name) = beneath::parent(root, target, false)?;
    placed(root, path, |parent, name| {
        rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())
            .map_err(|errno| BeneathError::io(path, errno))?;
        Ok(())
    })
}

fn make_fifo(root: BorrowedFd<'_>, path: &RelPath, meta: &Meta) -> Result<(), ExtractError> {
    placed(root, path, |parent, name| {
        rustix::fs::mknodat(parent, name, rustix::fs::FileType::Fifo, meta.mode, 0)
            .map_err(|errno| BeneathError::io(path, errno))?;
        meta.give_at(parent, name)
            .map_err(|errno| BeneathError::io(path, errno))?;
        Ok(())
    })
}

/// Makes something under a temporary name beside `path`, then renames it over what is there.
fn placed(
    root: BorrowedFd<'_>,
    path: &RelPath,
    make: impl FnOnce(BorrowedFd<'_>, &str) -> Result<(), ExtractError>,
) -> Result<(), ExtractError> {
    // Several outputs may go to one directory at the same time.
    static PLACED: AtomicU64 = AtomicU64::new(0);
    let number = PLACED.fetch_add(1, Ordering::Relaxed);
    let temporary = format!(".rbuild-{}-{number}.tmp", std::process::id());
    let (parent, name) = beneath::parent(root, path, true)?;
    if name.is_empty() {
        return Err(ExtractError::Kind(path.clone()));
    }
    let renamed = make(parent.as_fd(), &temporary).and_then(|()| {
        rustix::fs::renameat(&parent, &temporary, &parent, name).map_err(|errno| match errno {
            Errno::ISDIR | Errno::NOTEMPTY => ExtractError::DirectoryInTheWay(path.clone()),
            errno => BeneathError::io(path, errno).into(),
        })
    });
    // Also after success: renaming one name of a file over another name of the same file leaves both.
    match rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => renamed,
        Err(errno) => renamed.and(Err(BeneathError::io(path, errno).into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Archive(tar::Builder<Vec<u8>>);

    impl Archive {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn add(mut self, kind: tar::EntryType, path: &str, link: &str, content: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_mtime(1_000);
            header.set_size(content.len() as u64);
            // Not through the setters, which refuse what hostile archives hold.
            let bytes = header.as_old_mut();
            bytes.name[..path.len()].copy_from_slice(path.as_bytes());
            bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            self.0.append(&header, content).unwrap();
            self
        }

        fn file(self, path: &str, content: &str) -> Self {
            self.add(tar::EntryType::Regular, path, "", content.as_bytes())
        }

        fn extract(self, directory: &Path) -> Result<Extracted, ExtractError> {
            extract(self.0.into_inner().unwrap().as_slice(), directory, Owners::Invoker)
        }
    }

    #[test]
    fn a_tree_is_unpacked_with_modes_times_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("new/out");
        let extracted = Archive::new()
            .add(tar::EntryType::Directory, "bin/", "", b"")
            .file("bin/tool", "x")
            .add(tar::EntryType::Symlink, "sh", "bin/tool", b"")
            .add(tar::EntryType::Link, "tool2", "bin/tool", b"")
            .add(tar::EntryType::Char, "null", "", b"")
            .extract(&out)
            .unwrap();
        assert_eq!(
            extracted,
            Extracted {
                entries: 4,
                devices_skipped: 1
            }
        );
        let tool = std::fs::metadata(out.join("bin/tool")).unwrap();
        assert_eq!((tool.permissions().mode() & 0o7777, tool.mtime()), (0o640, 1_000));
        assert_eq!(tool.ino(), std::fs::metadata(out.join("tool2")).unwrap().ino());
        assert_eq!(std::fs::read_link(out.join("sh")).unwrap(), Path::new("bin/tool"));
        assert_eq!(std::fs::metadata(out.join("bin")).unwrap().mtime(), 1_000);
        let names = std::fs::read_dir(&out).unwrap().count();
        assert_eq!(names, 3, "no temporary files stay");
    }

    #[test]
    fn nothing_is_written_outside_of_the_destination() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let outside = directory.path().join("outside");
        std::fs::write(&outside, "safe").unwrap();
        let up = Archive::new().file("../outside", "owned").extract(&out);
        assert!(matches!(up, Err(ExtractError::Path(_))));
        let through = Archive::new()
            .add(tar::EntryType::Symlink, "up", "..", b"")
            .file("up/outside", "owned")
            .extract(&out);
        assert!(matches!(through, Err(ExtractError::Place(BeneathError::Link(_)))));
        let hard = Archive::new()
            .add(tar::EntryType::Link, "hard", "up/outside", b"")
            .extract(&out);
        assert!(hard.is_err());
        Archive::new().file("/absolute", "inside").extract(&out).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("absolute")).unwrap(), "inside");
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "safe");
    }

    #[test]
    fn links_in_the_destination_are_replaced_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        let out = directory.path().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(&outside, "safe").unwrap();
        symlink(&outside, out.join("file")).unwrap();
        symlink(directory.path(), out.join("dir")).unwrap();
        Archive::new().file("file", "new").extract(&out).unwrap();
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "safe");
        assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), "new");
        let into = Archive::new()
            .add(tar::EntryType::Directory, "dir", "", b"")
            .extract(&out);
        assert!(matches!(into, Err(ExtractError::Place(BeneathError::Link(_)))));
    }

    #[test]
    fn a_directory_in_the_way_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        let error = Archive::new().file("a", "x").extract(directory.path()).unwrap_err();
        assert!(error.to_string().starts_with("`a` is a directory"), "{error}");
        assert!(directory.path().join("a/b").is_dir());
    }

    #[test]
    fn damaged_archives_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let archive = Archive::new().file("a", "content").0.into_inner().unwrap();
        let cut = extract(&archive[..514], directory.path(), Owners::Invoker);
        assert!(matches!(cut, Err(ExtractError::Archive(_))), "{cut:?}");
        assert!(!directory.path().join("a").exists());
    }
}
