//! What a step changed: the upper directory of an overlay against the layers below it.
//!
//! overlayfs copies a file up before it may change, so being in the upper directory proves nothing: what equals the layer below is
//! left out. Since a layer knows whole seconds only, equal times and sizes prove nothing either, and then the bytes decide.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, TreeEntry};
use rustix::fs::{FileType, Stat};

use super::entry::{Content, LayerEntry};
use super::facts::{CAPABILITY, Names, as_path, capability, disk_bytes, kind_of, metadata, recall_owner};
use super::lower::{Lower, default_directory, is_opaque, is_whiteout, list, open_directory, open_root, stat_below};
use super::tar::open_below;
use crate::ids::Ids;

/// What overlayfs leaves when it was mounted with `redirect_dir` or `metacopy`.
const FEATURES: [&str; 4] = [
    "trusted.overlay.redirect",
    "trusted.overlay.metacopy",
    "user.overlay.redirect",
    "user.overlay.metacopy",
];
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
    /// Space that the upper directory takes on disk. A file with several names counts once, by shares.
    pub disk_bytes: u64,
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
        disk_bytes: 0,
    };
    let stat = stat_below(&walk.upper, &root).map_err(|error| read_error(&root, error.into()))?;
    let before = lower.entry(&root).map_err(|source| read_error(&root, source))?;
    let before = before.unwrap_or_else(|| default_directory(&root));
    let mut now = metadata(&root, &stat, EntryKind::Directory { opaque: false });
    Names::of(&walk.upper)
        .and_then(|names| recall_owner(&mut now, &walk.upper, &names))
        .map_err(|source| read_error(&root, source))?;
    // Every file made in `/` touches its time, which no builder keeps; who may enter is another matter.
    if (now.mode, now.uid, now.gid) != (before.mode, before.uid, before.gid) {
        walk.push(now, Content::None);
    }
    walk.disk_bytes += disk_bytes(&stat);
    walk.directory(&root, Past::Merged)?;
    Ok(Changes {
        entries: walk.changes,
        sockets: walk.sockets,
        disk_bytes: walk.disk_bytes,
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
    disk_bytes: u64,
}

/// What the layers below have in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Past {
    /// Something that shines through, maybe.
    Merged,
    /// Something that is gone as a whole: whatever is not here again needs a whiteout of its own.
    Replaced,
    /// Nothing: they have no such directory.
    Nothing,
}

impl Walk<'_> {
    /// Adds what changed inside `path`.
    fn directory(&mut self, path: &RelPath, past: Past) -> Result<(), DiffError> {
        let failed = |source| read_error(path, source);
        let mut found = list(&self.upper, path).map_err(failed)?;
        if past == Past::Replaced {
            for name in self.lower.children(path).map_err(failed)? {
                if found.binary_search_by(|(there, _)| there.cmp(&name)).is_err() {
                    self.whiteout(child(path, &name));
                }
            }
        }
        for (name, stat) in found.drain(..) {
            let path = child(path, &name);
            self.disk_bytes += disk_bytes(&stat);
            let before = match past {
                Past::Nothing => None,
                Past::Merged | Past::Replaced => self.below(&path)?,
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket => self.socket(path, before.is_some()),
                _ if is_whiteout(&stat) => {
                    if before.is_some() {
                        self.whiteout(path);
                    }
                }
                _ if self.is_empty_stub(&path, &stat)? => {}
                FileType::Directory => self.subdirectory(path, &stat, before, past)?,
                _ => self.file(path, &stat, before)?,
            }
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        path: RelPath,
        stat: &Stat,
        before: Option<TreeEntry>,
        past: Past,
    ) -> Result<(), DiffError> {
        let failed = |source| read_error(&path, source);
        let opened = open_directory(&self.upper, &path).map_err(|error| failed(error.into()))?;
        let names = Names::of(&opened).map_err(failed)?;
        refuse_features(&path, &names)?;
        let mut now = metadata(&path, stat, EntryKind::Directory { opaque: false });
        recall_owner(&mut now, &opened, &names).map_err(failed)?;
        drop(opened);
        let inside = match (&before, past) {
            (None, _) => Past::Nothing,
            (Some(_), Past::Replaced) => Past::Replaced,
            (Some(_), _) if is_opaque(&self.upper, &path).map_err(failed)? => Past::Replaced,
            (Some(_), _) => Past::Merged,
        };
        let at = self.changes.len();
        self.push(now.clone(), Content::None);
        self.directory(&path, inside)?;
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

    fn file(&mut self, path: RelPath, stat: &Stat, before: Option<TreeEntry>) -> Result<(), DiffError> {
        let failed = |source| read_error(&path, source);
        let Some(kind) = kind_of(&self.upper, &path, stat).map_err(failed)? else {
            return Ok(());
        };
        let mut now = metadata(&path, stat, kind);
        let mut content = Content::None;
        if matches!(now.kind, EntryKind::File { .. }) {
            let file = open_below(&self.upper, as_path(&path)).map_err(failed)?;
            let names = Names::of(&file).map_err(failed)?;
            refuse_features(&path, &names)?;
            now.xattrs.extend(capability(&file, &names).map_err(failed)?);
            recall_owner(&mut now, &file, &names).map_err(failed)?;
            content = Content::Unhashed {
                root: Arc::clone(&self.upper),
                path: as_path(&path).to_owned(),
            };
        } else if let Some(before) = before.as_ref().filter(|before| before.kind == now.kind) {
            keep_owner(&mut now, before);
        }
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

    fn socket(&mut self, path: RelPath, hides: bool) {
        if hides {
            self.whiteout(path.clone());
        }
        self.sockets.push(Socket { path, hides });
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

/// What is no file and no directory carries no note of its owner. Where there is only one, nobody can have changed it.
fn keep_owner(now: &mut TreeEntry, before: &TreeEntry) {
    if Ids::of_process() == Ids::One {
        (now.uid, now.gid) = (before.uid, before.gid);
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

/// With these marks, content or children would have to be looked for at another place of the lower layers.
fn refuse_features(path: &RelPath, names: &Names) -> Result<(), DiffError> {
    match FEATURES.into_iter().find(|mark| names.has(mark)) {
        Some(xattr) => Err(DiffError::Feature {
            path: path.clone(),
            xattr,
        }),
        None => Ok(()),
    }
}

fn child(directory: &RelPath, name: &[u8]) -> RelPath {
    directory.join(&RelPath::clean(name))
}
