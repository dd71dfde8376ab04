//! What a step changed: the upper directory of an overlay against the layers below it.
//!
//! overlayfs copies a file up before it may change, so being in the upper directory proves nothing: what equals the layer below is
//! left out. Since a layer knows whole seconds only, equal times and sizes prove nothing either, and then the bytes decide.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, TreeEntry};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::entry::{Content, LayerEntry};
use super::lower::{Lower, default_directory, is_opaque, is_whiteout, list, open_directory, open_root, stat_below};
use super::tar::open_below;

const CAPABILITY: &str = "security.capability";
/// What overlayfs leaves when it was mounted with `redirect_dir` or `metacopy`.
const FEATURES: [&str; 4] = [
    "trusted.overlay.redirect",
    "trusted.overlay.metacopy",
    "user.overlay.redirect",
    "user.overlay.metacopy",
];
/// Stands for the digest of bytes that nobody has read yet.
const UNREAD: ContentDigest = ContentDigest::from_bytes([0; 32]);

/// Why the changes of a step cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// Something in the upper directory or below cannot be read.
    #[error("`{path}` cannot be read")]
    Read {
        /// Its path in the root filesystem.
        path: RelPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// overlayfs was mounted with features that keep part of the truth elsewhere.
    #[error("`{path}` carries `{xattr}`: the overlay was mounted with an option that snapshots do not support")]
    Feature {
        /// Its path in the root filesystem.
        path: RelPath,
        /// The mark that was found.
        xattr: &'static str,
    },
}

/// What a step changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// The layer, each entry preceded by its parent directories.
    pub entries: Vec<LayerEntry>,
    /// Sockets in the upper directory, which no layer can hold.
    pub sockets: Vec<Socket>,
}

/// A socket that a step left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its path in the root filesystem.
    pub path: RelPath,
    /// Whether it took the place of something below; then the layer says that this is gone.
    pub hides: bool,
}

/// The changes in `upper` against `lower`, in layer order.
///
/// `stubs` are files and directories that had to exist only to mount something there; they are left out while they are empty and
/// nothing below has them. Sockets are named apart.
///
/// # Errors
/// See [`DiffError`].
pub fn diff(upper: &Path, lower: &dyn Lower, stubs: &BTreeSet<RelPath>) -> Result<Changes, DiffError> {
    let root = RelPath::root();
    let opened = open_root(upper).map_err(|source| read_error(&root, source))?;
    let mut walk = Walk {
        upper: Arc::new(opened),
        lower,
        stubs,
        links: HashMap::new(),
        changes: Vec::new(),
        sockets: Vec::new(),
    };
    let stat = stat_below(&walk.upper, &root).map_err(|error| read_error(&root, error.into()))?;
    let before = lower.entry(&root).map_err(|source| read_error(&root, source))?;
    let before = before.unwrap_or_else(|| default_directory(&root));
    let now = metadata(&root, &stat, EntryKind::Directory { opaque: false });
    // Every file made in `/` touches its time, which no builder keeps; who may enter is another matter.
    if (now.mode, now.uid, now.gid) != (before.mode, before.uid, before.gid) {
        walk.push(now, Content::None);
    }
    walk.directory(&root, false)?;
    Ok(Changes {
        entries: walk.changes,
        sockets: walk.sockets,
    })
}

fn read_error(path: &RelPath, source: io::Error) -> DiffError {
    DiffError::Read {
        path: path.clone(),
        source,
    }
}

struct Walk<'a> {
    upper: Arc<OwnedFd>,
    lower: &'a dyn Lower,
    stubs: &'a BTreeSet<RelPath>,
    /// First changed path of each file with several names, by device and inode.
    links: HashMap<(u64, u64), RelPath>,
    changes: Vec<LayerEntry>,
    sockets: Vec<Socket>,
}

impl Walk<'_> {
    /// Adds what changed inside `path`. `replaced`: what was here before is gone as a whole, so whatever is not here again needs a
    /// whiteout of its own.
    fn directory(&mut self, path: &RelPath, replaced: bool) -> Result<(), DiffError> {
        let failed = |source| read_error(path, source);
        let mut found = list(&self.upper, path).map_err(failed)?;
        if replaced {
            for name in self.lower.children(path).map_err(failed)? {
                if found.binary_search_by(|(there, _)| there.cmp(&name)).is_err() {
                    self.whiteout(child(path, &name));
                }
            }
        }
        for (name, stat) in found.drain(..) {
            let path = child(path, &name);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket => self.socket(path)?,
                _ if is_whiteout(&stat) => {
                    if self.below(&path)?.is_some() {
                        self.whiteout(path);
                    }
                }
                _ if self.is_empty_stub(&path, &stat)? => {}
                FileType::Directory => self.subdirectory(path, &stat, replaced)?,
                _ => self.file(path, &stat)?,
            }
        }
        Ok(())
    }

    fn subdirectory(&mut self, path: RelPath, stat: &Stat, replaced: bool) -> Result<(), DiffError> {
        let failed = |source| read_error(&path, source);
        self.refuse_features(&path)?;
        let replaced = replaced || is_opaque(&self.upper, &path).map_err(failed)?;
        let now = metadata(&path, stat, EntryKind::Directory { opaque: false });
        let before = self.below(&path)?;
        let at = self.changes.len();
        self.push(now.clone(), Content::None);
        self.directory(&path, replaced)?;
        let only_entry = self.changes.len() == at + 1;
        let unchanged = before.is_some_and(|mut before| {
            // A time alone is no change: a file that came and went leaves it behind, and so does a mount point.
            before.mtime = now.mtime;
            same_metadata(&before, &now)
        });
        if only_entry && unchanged {
            self.changes.pop();
        } else {
            // Whiteouts of vanished children were found before the other children: bring them to their places.
            self.changes[at..].sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        }
        Ok(())
    }

    fn file(&mut self, path: RelPath, stat: &Stat) -> Result<(), DiffError> {
        let failed = |source| read_error(&path, source);
        let Some(mut now) = read_entry(&self.upper, &path, stat).map_err(failed)? else {
            return Ok(());
        };
        if matches!(now.kind, EntryKind::File { .. }) {
            self.refuse_features(&path)?;
        }
        let before = self.below(&path)?;
        let mut content = match now.kind {
            EntryKind::File { .. } => Content::Unhashed {
                root: Arc::clone(&self.upper),
                path: as_path(&path).to_owned(),
            },
            _ => Content::None,
        };
        if before.is_some_and(|before| same_metadata(&before, &now)) {
            let EntryKind::File { size, .. } = now.kind else {
                return Ok(());
            };
            let digest = self.digest(&path).map_err(failed)?;
            if self.lower.content(&path).map_err(failed)? == digest {
                return Ok(());
            }
            now.kind = EntryKind::File { size, content: digest };
            content = Content::File {
                root: Arc::clone(&self.upper),
                path: as_path(&path).to_owned(),
            };
        }
        if stat.st_nlink > 1 && matches!(now.kind, EntryKind::File { .. }) {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                now.kind = EntryKind::Hardlink { target: first.clone() };
                content = Content::None;
            } else {
                self.links.insert((stat.st_dev, stat.st_ino), path);
            }
        }
        self.push(now, content);
        Ok(())
    }

    fn digest(&self, path: &RelPath) -> io::Result<ContentDigest> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(open_below(&self.upper, as_path(path))?)?;
        Ok(hasher.finalize().into())
    }

    fn below(&self, path: &RelPath) -> Result<Option<TreeEntry>, DiffError> {
        self.lower.entry(path).map_err(|source| read_error(path, source))
    }

    fn is_empty_stub(&self, path: &RelPath, stat: &Stat) -> Result<bool, DiffError> {
        if !self.stubs.contains(path) || self.below(path)?.is_some() {
            return Ok(false);
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(stat.st_size == 0),
            FileType::Directory => {
                let inside = list(&self.upper, path).map_err(|source| read_error(path, source))?;
                for (name, stat) in inside {
                    if !self.is_empty_stub(&child(path, &name), &stat)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// With these marks, content or children would have to be looked for at another place of the lower layers.
    fn refuse_features(&self, path: &RelPath) -> Result<(), DiffError> {
        let failed = |source| read_error(path, source);
        let opened: OwnedFd = match open_directory(&self.upper, path) {
            Ok(directory) => directory,
            Err(Errno::NOTDIR) => open_below(&self.upper, as_path(path)).map_err(failed)?.into(),
            Err(error) => return Err(failed(error.into())),
        };
        for mark in FEATURES {
            if xattr(&opened, mark).map_err(failed)?.is_some() {
                return Err(DiffError::Feature {
                    path: path.clone(),
                    xattr: mark,
                });
            }
        }
        Ok(())
    }

    fn socket(&mut self, path: RelPath) -> Result<(), DiffError> {
        let hides = self.below(&path)?.is_some();
        if hides {
            self.whiteout(path.clone());
        }
        self.sockets.push(Socket { path, hides });
        Ok(())
    }

    fn whiteout(&mut self, path: RelPath) {
        let entry = TreeEntry {
            kind: EntryKind::Whiteout,
            mode: 0,
            ..default_directory(&path)
        };
        self.push(entry, Content::None);
    }

    fn push(&mut self, entry: TreeEntry, content: Content) {
        self.changes.push(LayerEntry { entry, content });
    }
}

/// Whether everything but the bytes is as it was, as far as a layer can tell.
fn same_metadata(before: &TreeEntry, now: &TreeEntry) -> bool {
    let same_kind = match (&before.kind, &now.kind) {
        (EntryKind::File { size: before, .. }, EntryKind::File { size: now, .. }) => before == now,
        (EntryKind::Directory { .. }, EntryKind::Directory { .. }) => true,
        (before, now) => before == now,
    };
    // Other attributes are not kept in layers, so only this one can differ in the result.
    let capability = |entry: &TreeEntry| {
        let found = entry.xattrs.iter().find(|(name, _)| name == CAPABILITY.as_bytes());
        found.map(|(_, value)| value.clone())
    };
    same_kind
        && (before.mode, before.uid, before.gid) == (now.mode, now.uid, now.gid)
        && before.mtime.seconds == now.mtime.seconds
        && capability(before) == capability(now)
}

/// What `path` below `root` is, its bytes unread; nothing for a socket.
pub(super) fn read_entry(root: &OwnedFd, path: &RelPath, stat: &Stat) -> io::Result<Option<TreeEntry>> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File {
            size: u64::try_from(stat.st_size).map_err(io::Error::other)?,
            content: UNREAD,
        },
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
    };
    let mut entry = metadata(path, stat, kind);
    if matches!(entry.kind, EntryKind::File { .. }) {
        let file = open_below(root, as_path(path))?;
        if let Some(value) = xattr(&file, CAPABILITY)? {
            entry.xattrs.push((CAPABILITY.as_bytes().to_vec(), value));
        }
    }
    Ok(Some(entry))
}

fn read_link(root: &OwnedFd, path: &RelPath) -> io::Result<Vec<u8>> {
    let parent = open_directory(root, &path.parent().unwrap_or_default())?;
    let name = OsStr::from_bytes(path.name().unwrap_or_default());
    Ok(rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes())
}

fn metadata(path: &RelPath, stat: &Stat, kind: EntryKind) -> TreeEntry {
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

fn child(directory: &RelPath, name: &[u8]) -> RelPath {
    directory.join(&RelPath::clean(name))
}

pub(super) fn as_path(path: &RelPath) -> &Path {
    Path::new(OsStr::from_bytes(path.as_bytes()))
}
