//! Files below a directory, reached by descriptors and never through a link: the paths come from another process.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::tree::RelPath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Why a path could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeneathError {
    /// Something on the way is a symbolic link, or no directory.
    #[error("`{0}` leads through a link or through something that is no directory")]
    Link(RelPath),
    /// It is no regular file.
    #[error("`{0}` is not a regular file")]
    NotAFile(RelPath),
    /// The system says no.
    #[error("`{path}`: {source}")]
    Io {
        /// The path below the root.
        path: RelPath,
        /// What the system said.
        source: std::io::Error,
    },
}

impl BeneathError {
    /// The error `errno` at `path`.
    pub(crate) fn io(path: &RelPath, errno: Errno) -> Self {
        Self::Io {
            path: path.clone(),
            source: errno.into(),
        }
    }

    /// Whether nothing is there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a directory that the user named: links in *its* path are followed.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, std::io::Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory that holds `path`, creating what is missing on the way if `create`; returns the last name too.
///
/// The root itself has no name in a directory: an empty name.
pub(crate) fn parent<'p>(
    root: BorrowedFd<'_>,
    path: &'p RelPath,
    create: bool,
) -> Result<(OwnedFd, &'p OsStr), BeneathError> {
    let failed = |errno| match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::MLINK => BeneathError::Link(path.clone()),
        errno => BeneathError::io(path, errno),
    };
    let mut directory = root.try_clone_to_owned().map_err(|source| BeneathError::Io {
        path: path.clone(),
        source,
    })?;
    let mut names: Vec<&OsStr> = path.components().map(OsStr::from_bytes).collect();
    let last = names.pop().unwrap_or_default();
    for name in names {
        directory = match rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) if create => {
                rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
                rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty()).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
    }
    Ok((directory, last))
}

/// Opens the regular file at `path` for reading. Never waits for the writer of a pipe.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &RelPath) -> Result<File, BeneathError> {
    let (directory, name) = parent(root, path, false)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP | Errno::MLINK) => return Err(BeneathError::Link(path.clone())),
        Err(errno) => return Err(BeneathError::io(path, errno)),
    };
    let metadata = file.metadata().map_err(|source| BeneathError::Io {
        path: path.clone(),
        source,
    })?;
    if !metadata.is_file() {
        return Err(BeneathError::NotAFile(path.clone()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(root: &Path, path: &str) -> Result<String, BeneathError> {
        let root = open_root(root).unwrap();
        let mut text = String::new();
        open_file(root.as_fd(), &RelPath::parse(path.as_bytes()).unwrap())?
            .read_to_string(&mut text)
            .unwrap();
        Ok(text)
    }

    #[test]
    fn files_are_read_but_links_are_never_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "inside").unwrap();
        std::fs::write(directory.path().join("secret"), "outside").unwrap();
        symlink("../secret", root.join("leaf")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("a", root.join("same")).unwrap();
        assert_eq!(read(&root, "a/b/file").unwrap(), "inside");
        for path in ["leaf", "up/secret", "same/b/file"] {
            assert!(matches!(read(&root, path), Err(BeneathError::Link(_))), "{path}");
        }
        assert!(read(&root, "a/none").unwrap_err().is_missing());
        assert!(matches!(read(&root, "a/b"), Err(BeneathError::NotAFile(_))));
    }
}
