//! Where the bytes of files come from: a context in place, a context over the session, the snapshots of a stage.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use proto::definition::VertexId;
use proto::digest::{ChainId, ContentDigest};
use proto::tree::{EntryKind, RelPath, TreeEntry};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::remote::Remote;
use super::work::{BuildWork, FilesOf};
use crate::event::StepNumber;
use crate::layer::entry::{Content, SnapshotDir, to_path};
use crate::layers::{Layers, is_exhaustion};
use crate::request::BuildError;
use crate::solve::Inputs;

/// Opens files of one source.
pub enum Reader {
    /// Below a directory of the client.
    Directory(Arc<OwnedFd>),
    /// Below snapshots, by layer.
    Snapshots(Vec<Arc<SnapshotDir>>),
    /// Over the session.
    Remote(Arc<Remote>),
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(_) => f.write_str("Directory"),
            Self::Snapshots(layers) => write!(f, "Snapshots({})", layers.len()),
            Self::Remote(remote) => remote.fmt(f),
        }
    }
}

impl Reader {
    /// The files behind an input. Stages are unpacked. What `known_from` had last time need not come from a client again.
    ///
    /// # Errors
    /// Layers that cannot be unpacked.
    pub async fn open(
        work: &BuildWork,
        from: VertexId,
        inputs: &Inputs,
        step: StepNumber,
        known_from: Option<VertexId>,
    ) -> Result<Self, BuildError> {
        let job = &work.job;
        match work.files_of(from, inputs)? {
            FilesOf::Context(context) => Ok(match job.session.in_place(&context.name) {
                Some(root) => Self::Directory(root),
                None => {
                    let known = known_from.and_then(|id| work.files_before(id));
                    Self::Remote(Remote::new(&job.session, &context.name, known))
                }
            }),
            FilesOf::Stack(stack) => {
                job.host.layers.unpack(&stack, job, step).await?;
                let roots = stack
                    .chains()
                    .iter()
                    .map(|chain| job.host.layers.open_layer_dir(*chain));
                Ok(Self::Snapshots(roots.collect::<Result<_, _>>()?))
            }
        }
    }

    /// The bytes of the file at `path` in `layer`, whose entry is of `kind`.
    #[must_use]
    pub fn content(&self, path: &RelPath, layer: usize, kind: &EntryKind) -> Content {
        match self {
            Self::Directory(root) => Content::File {
                root: Arc::clone(root),
                path: to_path(path),
            },
            Self::Snapshots(layers) => layers[layer].content(path),
            Self::Remote(remote) => remote.content(path, kind),
        }
    }

    /// The bytes of an entry where it is; nothing for what is no file.
    #[must_use]
    pub fn content_of(&self, entry: &TreeEntry, layer: usize) -> Content {
        match entry.kind {
            EntryKind::File { .. } => self.content(&entry.path, layer, &entry.kind),
            _ => Content::None,
        }
    }
}

/// The file `entry` whose bytes are at `content`, for readers that move about in it: what does not lie on this machine's disk is
/// copied to a file without a name in `spool_dir` first. Its bytes are those that the entry promises.
///
/// # Errors
/// Files that cannot be opened, are no regular files, changed, or do not fit. [`damaged`] tells if it was a snapshot's fault.
///
/// [`damaged`]: cache::blob::damaged
pub fn open_regular(entry: &TreeEntry, content: &Content, layers: &Layers, spool_dir: &Path) -> io::Result<File> {
    let mut file = match content {
        Content::File { root, path } | Content::Unhashed { root, path } => regular_below(root, path)?,
        Content::Snapshot { directory, path } => {
            regular_below(&directory.root, path).map_err(|error| not_there(error, directory.chain, layers))?
        }
        Content::Stream(stream) => {
            let mut spool = tempfile::tempfile_in(spool_dir)?;
            io::copy(&mut stream.open()?, &mut spool)?;
            io::Seek::rewind(&mut spool)?;
            spool
        }
        Content::None | Content::Inline(_) => return Err(io::Error::other("no regular file")),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file)?;
    io::Seek::rewind(&mut file)?;
    match (is_promised(entry, hasher.finalize().into()), content) {
        (true, _) => Ok(file),
        (false, Content::Snapshot { directory, .. }) => Err(layers.bad_file(directory.chain)),
        (false, _) => Err(io::Error::other("it changed while it was being read")),
    }
}

/// The bytes of `entry`, a file of a snapshot, opened without following links or waiting for a pipe.
///
/// # Errors
/// What is no regular file, or has more than `limit` bytes. [`damaged`] tells if it is not what the snapshot should have.
///
/// [`damaged`]: cache::blob::damaged
pub fn read_small(directory: &SnapshotDir, entry: &TreeEntry, layers: &Layers, limit: u64) -> io::Result<Vec<u8>> {
    let file = regular_below(&directory.root, &to_path(&entry.path));
    let file = file.map_err(|error| not_there(error, directory.chain, layers))?;
    if let EntryKind::File { size, .. } = entry.kind
        && size > limit
    {
        let message = format!("`/{}` is no regular file of at most {limit} bytes", entry.path);
        return Err(io::Error::other(message));
    }
    let mut bytes = Vec::new();
    // One more than it may have, so that a file that grew is seen to differ.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if is_promised(entry, ContentDigest::of(&bytes)) {
        Ok(bytes)
    } else {
        Err(layers.bad_file(directory.chain))
    }
}

fn is_promised(entry: &TreeEntry, found: ContentDigest) -> bool {
    matches!(entry.kind, EntryKind::File { content, .. } if content == found)
}

fn not_there(error: io::Error, chain: ChainId, layers: &Layers) -> io::Error {
    match is_exhaustion(&error) {
        true => error,
        false => layers.bad_file(chain),
    }
}

fn regular_below(root: &OwnedFd, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("no regular file")),
    }
}
