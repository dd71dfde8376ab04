//! One entry of a layer on its way into a tar: its metadata, and where its bytes come from.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use proto::digest::ChainId;
use proto::tree::{RelPath, TreeEntry};

/// An entry with the source of its bytes.
#[derive(Debug, Clone)]
pub struct LayerEntry {
    /// Path, kind and metadata as they will be in the layer. The content digest of a file is compared while its bytes are
    /// read, unless it is not known yet (see [`Content::Unhashed`]).
    pub entry: TreeEntry,
    /// The bytes of a regular file; [`Content::None`] for everything else.
    pub content: Content,
}

/// Where the bytes of a regular file come from.
#[derive(Clone)]
pub enum Content {
    /// No bytes: directories, links, devices, whiteouts.
    None,
    /// Bytes at hand.
    Inline(Arc<[u8]>),
    /// A file below a directory that is trusted to stay, opened without following links out of it.
    File {
        /// The directory.
        root: Arc<OwnedFd>,
        /// Path below `root`, for `openat2` with `RESOLVE_BENEATH`.
        path: PathBuf,
    },
    /// A file of a committed snapshot. If it is not what its entry says, the snapshot is damaged.
    Snapshot {
        /// The snapshot.
        directory: Arc<SnapshotDir>,
        /// Path below it.
        path: PathBuf,
    },
    /// Like [`Content::File`], but the digest in the entry is a placeholder: reading computes it.
    Unhashed {
        /// See [`Content::File`].
        root: Arc<OwnedFd>,
        /// See [`Content::File`].
        path: PathBuf,
    },
    /// Anything else that can be opened: a session transfer, a member of an archive.
    Stream(Arc<dyn Open>),
}

/// The directory of one layer's committed snapshot, open.
#[derive(Debug)]
pub struct SnapshotDir {
    /// Whose it is.
    pub chain: ChainId,
    /// For `openat2` with `RESOLVE_BENEATH`.
    pub root: OwnedFd,
}

impl SnapshotDir {
    /// The bytes of the file at `path`.
    #[must_use]
    pub fn content(self: &Arc<Self>, path: &RelPath) -> Content {
        Content::Snapshot {
            directory: Arc::clone(self),
            path: to_path(path),
        }
    }
}

/// A path below a directory descriptor.
#[must_use]
pub fn to_path(path: &RelPath) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path.as_bytes()))
}

/// Opens the bytes of one file.
pub trait Open: Send + Sync {
    /// A reader over exactly the size that the entry states.
    ///
    /// # Errors
    /// What the source reports; the message names the file.
    fn open(&self) -> io::Result<Box<dyn Read + Send>>;
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::File { path, .. } => write!(f, "File({})", path.display()),
            Self::Snapshot { directory, path } => write!(f, "Snapshot({}, {})", directory.chain, path.display()),
            Self::Unhashed { path, .. } => write!(f, "Unhashed({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}
