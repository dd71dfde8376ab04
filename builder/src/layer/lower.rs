//! The layers below, as one merged view: from their trees, or from their directories in overlay format.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::tar::open_below;
use super::{facts, whiteout};
use crate::ids::opaque_mark;

/// What is visible below a layer.
pub trait Lower {
    /// The metadata of `path`, links not followed, nothing if it is not there. The digest of a file may be a placeholder: see
    /// [`Lower::content`]. A hard link appears as the file that it is.
    ///
    /// # Errors
    /// What reading the layers reports.
    fn entry(&self, path: &RelPath) -> io::Result<Option<TreeEntry>>;

    /// The digest of the regular file at `path`.
    ///
    /// # Errors
    /// What reading the layers reports; there being no such file.
    fn content(&self, path: &RelPath) -> io::Result<ContentDigest>;

    /// The names in the directory `path`, in byte order; none if it is no directory.
    ///
    /// # Errors
    /// What reading the layers reports.
    fn children(&self, path: &RelPath) -> io::Result<Vec<Vec<u8>>>;
}

/// The layers below by their trees alone, topmost first: nothing needs to be unpacked.
#[derive(Debug, Clone, Default)]
pub struct LowerTrees<'a>(pub Vec<&'a Tree>);

impl LowerTrees<'_> {
    fn find(&self, path: &RelPath) -> Option<TreeEntry> {
        let mut implied = false;
        for tree in &self.0 {
            if let Some(entry) = tree.get(path) {
                return match &entry.kind {
                    EntryKind::Whiteout => implied.then(|| default_directory(path)),
                    EntryKind::Hardlink { target } => tree.get(target).map(|file| TreeEntry {
                        path: path.clone(),
                        ..file.clone()
                    }),
                    _ if implied && !matches!(entry.kind, EntryKind::Directory { .. }) => Some(default_directory(path)),
                    _ => Some(entry.clone()),
                };
            }
            implied |= !tree.subtree(path).is_empty();
            if hides_below(tree, path.parent()) {
                break;
            }
        }
        implied.then(|| default_directory(path))
    }
}

/// Whether `directory`, or one above it, hides in `tree` what lower layers have inside.
fn hides_below(tree: &Tree, directory: Option<RelPath>) -> bool {
    std::iter::successors(directory, RelPath::parent).any(|ancestor| {
        tree.get(&ancestor)
            .is_some_and(|entry| !matches!(entry.kind, EntryKind::Directory { opaque: false }))
    })
}

impl Lower for LowerTrees<'_> {
    fn entry(&self, path: &RelPath) -> io::Result<Option<TreeEntry>> {
        Ok(self.find(path))
    }

    fn content(&self, path: &RelPath) -> io::Result<ContentDigest> {
        match self.find(path).map(|entry| entry.kind) {
            Some(EntryKind::File { content, .. }) => Ok(content),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn children(&self, path: &RelPath) -> io::Result<Vec<Vec<u8>>> {
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for tree in &self.0 {
            for entry in tree.subtree(path) {
                let Some(below) = entry.path.below(path).filter(|below| !below.is_root()) else {
                    continue;
                };
                let mut components = below.components();
                let name = components.next().unwrap_or_default().to_vec();
                let there = components.next().is_some() || entry.kind != EntryKind::Whiteout;
                names.entry(name).or_insert(there);
            }
            if hides_below(tree, Some(path.clone())) {
                break;
            }
        }
        Ok(names
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| name)
            .collect())
    }
}

/// A directory that a layer needs and nobody describes.
pub(super) fn default_directory(path: &RelPath) -> TreeEntry {
    TreeEntry {
        path: path.clone(),
        kind: EntryKind::Directory { opaque: false },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

/// The layers below as directories in overlay format, topmost first.
#[derive(Debug)]
pub struct LowerDirs {
    roots: Vec<OwnedFd>,
    /// Which directories of which layer are opaque; asked again and again for the parents of neighbours.
    opaque: RefCell<HashMap<(usize, RelPath), bool>>,
}

/// Where a lower file was found.
pub(super) struct Found {
    layer: usize,
    stat: Stat,
}

impl LowerDirs {
    /// Opens the directories.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn open(dirs: &[PathBuf]) -> io::Result<Self> {
        Ok(Self {
            roots: dirs.iter().map(|dir| open_root(dir)).collect::<io::Result<_>>()?,
            opaque: RefCell::default(),
        })
    }

    /// The topmost visible thing at `path`.
    pub(super) fn find(&self, path: &RelPath) -> io::Result<Option<Found>> {
        for (layer, root) in self.roots.iter().enumerate() {
            match stat_below(root, path) {
                Ok(stat) if is_whiteout(&stat) => return Ok(None),
                Ok(stat) => return Ok(Some(Found { layer, stat })),
                // Something that is no directory, or a whiteout, stands where the path needs a directory.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(Errno::NOENT) if self.hides_below(layer, path.parent())? => return Ok(None),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The bytes of the regular file at `path`.
    pub(super) fn open_file(&self, path: &RelPath) -> io::Result<File> {
        let found = self.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        open_below(&self.roots[found.layer], facts::as_path(path))
    }

    fn hides_below(&self, layer: usize, directory: Option<RelPath>) -> io::Result<bool> {
        for ancestor in std::iter::successors(directory, RelPath::parent) {
            let key = (layer, ancestor);
            let known = self.opaque.borrow().get(&key).copied();
            let opaque = match known {
                Some(opaque) => opaque,
                None => is_opaque(&self.roots[layer], &key.1)?,
            };
            self.opaque.borrow_mut().insert(key, opaque);
            if opaque {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Lower for LowerDirs {
    fn entry(&self, path: &RelPath) -> io::Result<Option<TreeEntry>> {
        let Some(found) = self.find(path)? else {
            return Ok(None);
        };
        facts::read_entry(&self.roots[found.layer], path, &found.stat)
    }

    fn content(&self, path: &RelPath) -> io::Result<ContentDigest> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(self.open_file(path)?)?;
        Ok(hasher.finalize().into())
    }

    fn children(&self, path: &RelPath) -> io::Result<Vec<Vec<u8>>> {
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for (layer, root) in self.roots.iter().enumerate() {
            match stat_below(root, path) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    for (name, stat) in list(root, path)? {
                        names.entry(name).or_insert(!is_whiteout(&stat));
                    }
                }
                Ok(_) | Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            if self.hides_below(layer, Some(path.clone()))? {
                break;
            }
        }
        Ok(names
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| name)
            .collect())
    }
}

/// A directory of ours, by its path.
pub(crate) fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Opens a directory below `root` through no link; the empty path is the root itself.
pub(crate) fn open_directory(root: &OwnedFd, path: &RelPath) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_root() {
        Path::new(".")
    } else {
        facts::as_path(path)
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), RESOLVE)
}

/// The metadata of `path` below `root`, no link followed anywhere.
pub(crate) fn stat_below(root: &OwnedFd, path: &RelPath) -> rustix::io::Result<Stat> {
    let path = if path.is_root() {
        Path::new(".")
    } else {
        facts::as_path(path)
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = rustix::fs::fstat(rustix::fs::openat2(root, path, flags, Mode::empty(), RESOLVE)?)?;
    // No link was met on the way, so none is when the same path is opened again.
    whiteout::seen(root, path.as_os_str(), stat)
}

/// The names in a directory with their metadata, in byte order.
pub(crate) fn list(root: &OwnedFd, path: &RelPath) -> io::Result<Vec<(Vec<u8>, Stat)>> {
    let directory = open_directory(root, path)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let stat = whiteout::seen(&directory, OsStr::from_bytes(name.to_bytes()), stat)?;
            names.push((name.to_bytes().to_vec(), stat));
        }
    }
    // Byte order, not the order of the disk: it decides which name of a hard-linked file comes first.
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// Whether this is how overlayfs notes a removed name.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory hides what lower layers have in it. What is missing or no directory hides nothing by itself.
pub(crate) fn is_opaque(root: &OwnedFd, path: &RelPath) -> io::Result<bool> {
    let directory = match open_directory(root, path) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    Ok(facts::xattr(&directory, opaque_mark())?.is_some_and(|value| value == b"y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn entry(text: &str, kind: EntryKind) -> TreeEntry {
        TreeEntry {
            kind,
            ..default_directory(&path(text))
        }
    }

    fn names(lower: &LowerTrees<'_>, text: &str) -> Vec<String> {
        let children = lower.children(&path(text)).unwrap();
        children
            .into_iter()
            .map(|name| String::from_utf8(name).unwrap())
            .collect()
    }

    #[test]
    fn merged_trees_show_what_is_on_top() {
        let directory = |opaque| EntryKind::Directory { opaque };
        let base = Tree::new(vec![
            entry("a", directory(false)),
            entry("a/old", EntryKind::Fifo),
            entry("a/kept", EntryKind::Fifo),
            entry("b", directory(false)),
            entry("b/x", EntryKind::Fifo),
            entry("c/deep/x", EntryKind::Fifo),
        ]);
        let top = Tree::new(vec![
            entry("a/new", EntryKind::Fifo),
            entry("a/old", EntryKind::Whiteout),
            entry("b", directory(true)),
            entry("c", EntryKind::Symlink { target: b"a".to_vec() }),
        ]);
        let lower = LowerTrees(vec![&top, &base]);
        assert_eq!(names(&lower, ""), ["a", "b", "c"]);
        assert_eq!(names(&lower, "a"), ["kept", "new"]);
        assert_eq!(names(&lower, "b"), [""; 0]);
        assert_eq!(names(&lower, "c"), [""; 0]);
        for gone in ["a/old", "b/x", "c/deep", "c/deep/x", "nowhere"] {
            assert_eq!(lower.entry(&path(gone)).unwrap(), None, "{gone}");
        }
        assert!(matches!(
            lower.entry(&path("c")).unwrap().unwrap().kind,
            EntryKind::Symlink { .. }
        ));
        assert_eq!(lower.entry(&path("a/kept")).unwrap().unwrap().kind, EntryKind::Fifo);
    }
}
