//! Whether the files of an unpacked layer are what its tree says.
//!
//! Everything that the tree names is looked at: what it is, whose, with which permissions, and every byte. What a step left beside
//! it, such as mount points and sockets, is no part of the layer and not looked for; nor are times of directories, which change
//! with what lies in them.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use proto::tree::{EntryKind, RelPath, Tree, TreeEntry};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::facts::{as_path, read_entry};
use super::lower::{is_opaque, is_whiteout, stat_below};
use super::tar::open_below;

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 18;

/// Why a comparison ended before the end of the tree.
#[derive(Debug)]
pub enum Difference {
    /// Something is not what the tree says: one line about it.
    Found(String),
    /// Whoever was told of the bytes wants no more of it.
    Stopped,
}

/// Compares the directory `root` with `tree`, telling `read` how many bytes were read since it was told last. Returns the number of
/// files that were read.
///
/// # Errors
/// The first [`Difference`]; what cannot be read is one.
pub fn compare(root: &OwnedFd, tree: &Tree, read: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<u64, Difference> {
    let mut comparison = Comparison {
        root,
        read,
        buffer: vec![0; CHUNK_BYTES],
        files: 0,
    };
    for entry in tree.entries() {
        comparison.entry(entry)?;
    }
    Ok(comparison.files)
}

struct Comparison<'a> {
    root: &'a OwnedFd,
    read: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    buffer: Vec<u8>,
    files: u64,
}

fn differs(path: &RelPath, what: &str) -> Difference {
    Difference::Found(format!("`/{path}` {what}"))
}

fn unreadable(path: &RelPath) -> impl Fn(io::Error) -> Difference {
    move |error| differs(path, &format!("cannot be read: {error}"))
}

impl Comparison<'_> {
    fn entry(&mut self, wanted: &TreeEntry) -> Result<(), Difference> {
        let path = &wanted.path;
        let stat = match stat_below(self.root, path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if wanted.kind == EntryKind::Whiteout => {
                return self.is_hidden(path);
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(differs(path, "is gone")),
            Err(error) => return Err(unreadable(path)(error.into())),
        };
        if wanted.kind == EntryKind::Whiteout {
            let hides = is_whiteout(&stat) || FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
            return match hides {
                true => Ok(()),
                false => Err(differs(path, "is there, but the layer removed it")),
            };
        }
        if let EntryKind::Hardlink { target } = &wanted.kind {
            return self.link(path, &stat, target);
        }
        let found = read_entry(self.root, path, &stat).map_err(unreadable(path))?;
        let found = found.ok_or_else(|| differs(path, "is a socket"))?;
        self.metadata(wanted, &found)?;
        match &wanted.kind {
            EntryKind::File { content, .. } if self.digest(path)? != *content => Err(differs(path, "has other bytes")),
            EntryKind::Directory { opaque: true } if !is_opaque(self.root, path).map_err(unreadable(path))? => {
                Err(differs(path, "does not hide what is below it any more"))
            }
            EntryKind::Directory { .. } => Ok(()),
            _ if wanted.mtime.seconds != found.mtime.seconds => Err(differs(path, "has another time")),
            _ => Ok(()),
        }
    }

    /// A removed path needs no mark of its own below a directory that hides everything.
    fn is_hidden(&self, path: &RelPath) -> Result<(), Difference> {
        for directory in std::iter::successors(path.parent(), RelPath::parent) {
            if is_opaque(self.root, &directory).map_err(unreadable(path))? {
                return Ok(());
            }
        }
        Err(differs(path, "is not hidden any more"))
    }

    fn link(&self, path: &RelPath, stat: &Stat, target: &RelPath) -> Result<(), Difference> {
        let first = stat_below(self.root, target).map_err(|error| unreadable(target)(error.into()))?;
        match (first.st_dev, first.st_ino) == (stat.st_dev, stat.st_ino) {
            true => Ok(()),
            false => Err(differs(path, &format!("is not the same file as `/{target}` any more"))),
        }
    }

    fn metadata(&self, wanted: &TreeEntry, found: &TreeEntry) -> Result<(), Difference> {
        let path = &wanted.path;
        let is_link = matches!(wanted.kind, EntryKind::Symlink { .. });
        let same_kind = match (&wanted.kind, &found.kind) {
            (EntryKind::File { size: wanted, .. }, EntryKind::File { size: found, .. }) => wanted == found,
            (EntryKind::Directory { .. }, EntryKind::Directory { .. }) => true,
            (wanted, found) => wanted == found,
        };
        if !same_kind {
            return Err(differs(path, "is something else, or has another size"));
        }
        if (wanted.uid, wanted.gid) != (found.uid, found.gid) || !is_link && wanted.mode != found.mode {
            return Err(differs(path, "has another owner or other permissions"));
        }
        Ok(())
    }

    fn digest(&mut self, path: &RelPath) -> Result<proto::digest::ContentDigest, Difference> {
        let mut file = open_below(self.root, as_path(path)).map_err(unreadable(path))?;
        self.files += 1;
        let mut hasher = blake3::Hasher::new();
        loop {
            let count = match file.read(&mut self.buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(path)(error)),
            };
            hasher.update(&self.buffer[..count]);
            if (self.read)(count as u64).is_break() {
                return Err(Difference::Stopped);
            }
            if count == 0 {
                return Ok(hasher.finalize().into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::super::lower::open_root;
    use super::*;
    use proto::digest::ContentDigest;
    use proto::tree::Timestamp;

    fn entry(path: &str, kind: EntryKind, mode: u32) -> TreeEntry {
        TreeEntry {
            path: RelPath::clean(path.as_bytes()),
            kind,
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    fn fill(dir: &Path) -> Tree {
        std::fs::write(dir.join("file"), "bytes").unwrap();
        std::fs::set_permissions(dir.join("file"), std::fs::Permissions::from_mode(0o640)).unwrap();
        let file = std::fs::File::options().write(true).open(dir.join("file")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        std::fs::hard_link(dir.join("file"), dir.join("name")).unwrap();
        std::fs::create_dir(dir.join("sub")).unwrap();
        std::fs::set_permissions(dir.join("sub"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let content = ContentDigest::of(b"bytes");
        let target = RelPath::clean(b"file");
        Tree::new(vec![
            entry("file", EntryKind::File { size: 5, content }, 0o640),
            entry("name", EntryKind::Hardlink { target }, 0o640),
            entry("sub", EntryKind::Directory { opaque: false }, 0o755),
        ])
    }

    fn check(harm: fn(&Path), expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let tree = fill(dir.path());
        harm(dir.path());
        let root = open_root(dir.path()).unwrap();
        let found = match compare(&root, &tree, &mut |_| ControlFlow::Continue(())) {
            Ok(files) => format!("{files} files"),
            Err(Difference::Found(words)) => words,
            Err(Difference::Stopped) => panic!("nobody stopped it"),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn every_way_in_which_files_differ_is_named() {
        check(|_| {}, "1 files");
        check(
            |dir| std::fs::write(dir.join("beside"), "no part of the layer").unwrap(),
            "1 files",
        );
        check(|dir| std::fs::remove_file(dir.join("file")).unwrap(), "`/file` is gone");
        check(
            |dir| {
                let file = std::fs::File::options().write(true).open(dir.join("file")).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, b"B", 0).unwrap();
            },
            "`/file` has other bytes",
        );
        check(
            |dir| {
                let file = std::fs::File::options().write(true).open(dir.join("file")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000))
                    .unwrap();
            },
            "`/file` has another time",
        );
        check(
            |dir| std::fs::write(dir.join("file"), "more bytes").unwrap(),
            "`/file` is something else, or has another size",
        );
        check(
            |dir| std::fs::set_permissions(dir.join("sub"), std::fs::Permissions::from_mode(0o700)).unwrap(),
            "`/sub` has another owner or other permissions",
        );
        check(
            |dir| {
                std::fs::remove_file(dir.join("name")).unwrap();
                std::fs::copy(dir.join("file"), dir.join("name")).unwrap();
            },
            "`/name` is not the same file as `/file` any more",
        );
    }

    #[test]
    fn whoever_had_enough_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = fill(dir.path());
        let stopped = compare(&open_root(dir.path()).unwrap(), &tree, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(Difference::Stopped)));
    }
}
