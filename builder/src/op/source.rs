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
use tokio::runtime::Handle;

use super::work::{BuildWork, FilesOf};
use crate::event::StepNumber;
use crate::layer::entry::{Content, Open, SnapshotDir, to_path};
use crate::layers::{Layers, is_exhaustion};
use crate::request::BuildError;
use crate::session::{FileAnswers, Session};
use crate::solve::Inputs;

/// Opens files of one source.
pub enum Reader {
    /// Below a directory of the client.
    Directory(Arc<OwnedFd>),
    /// Below snapshots, by layer.
    Snapshots(Vec<Arc<SnapshotDir>>),
    /// Over the session.
    Session {
        /// The client.
        session: Arc<Session>,
        /// Name of the context.
        context: Arc<str>,
        /// For threads that wait for the client.
        runtime: Handle,
    },
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(_) => f.write_str("Directory"),
            Self::Snapshots(layers) => write!(f, "Snapshots({})", layers.len()),
            Self::Session { context, .. } => write!(f, "Session({context})"),
        }
    }
}

impl Reader {
    /// The files behind an input. Stages are unpacked.
    ///
    /// # Errors
    /// Layers that cannot be unpacked.
    pub async fn open(work: &BuildWork, from: VertexId, inputs: &Inputs, step: StepNumber) -> Result<Self, BuildError> {
        let job = &work.job;
        match work.files_of(from, inputs)? {
            FilesOf::Context(context) => Ok(match job.session.in_place(&context.name) {
                Some(root) => Self::Directory(root),
                None => Self::Session {
                    session: Arc::clone(&job.session),
                    context: context.name.as_str().into(),
                    runtime: Handle::current(),
                },
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

    /// The bytes of the file at `path` in `layer`.
    #[must_use]
    pub fn content(&self, path: &RelPath, layer: usize) -> Content {
        match self {
            Self::Directory(root) => Content::File {
                root: Arc::clone(root),
                path: to_path(path),
            },
            Self::Snapshots(layers) => layers[layer].content(path),
            Self::Session {
                session,
                context,
                runtime,
            } => Content::Stream(Arc::new(SessionFile {
                session: Arc::clone(session),
                context: Arc::clone(context),
                runtime: runtime.clone(),
                path: path.clone(),
            })),
        }
    }

    /// The bytes of an entry where it is; nothing for what is no file.
    #[must_use]
    pub fn content_of(&self, entry: &TreeEntry, layer: usize) -> Content {
        match entry.kind {
            EntryKind::File { .. } => self.content(&entry.path, layer),
            _ => Content::None,
        }
    }
}

/// A file of the client.
struct SessionFile {
    session: Arc<Session>,
    context: Arc<str>,
    runtime: Handle,
    path: RelPath,
}

impl Open for SessionFile {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let answers = self
            .runtime
            .block_on(self.session.read_file(&self.context, self.path.as_bytes()));
        let answers = answers.map_err(io::Error::other)?;
        Ok(Box::new(SessionReader {
            answers,
            piece: Vec::new(),
            given: 0,
        }))
    }
}

struct SessionReader {
    answers: FileAnswers,
    piece: Vec<u8>,
    given: usize,
}

impl Read for SessionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.piece.len() {
            match self.answers.blocking_next().map_err(io::Error::other)? {
                None => return Ok(0),
                Some(piece) => (self.piece, self.given) = (piece, 0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.given);
        buffer[..count].copy_from_slice(&self.piece[self.given..self.given + count]);
        self.given += count;
        Ok(count)
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
