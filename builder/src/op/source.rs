//! Where the bytes of files come from: a context in place, a context over the session, the snapshots of a stage.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use proto::definition::VertexId;
use proto::tree::{EntryKind, RelPath, TreeEntry};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::runtime::Handle;

use super::work::{BuildWork, FilesOf};
use crate::event::StepNumber;
use crate::layer::entry::{Content, Open};
use crate::layers::to_path;
use crate::request::BuildError;
use crate::session::{FileAnswers, Session};
use crate::solve::Inputs;

/// Opens files of one source.
pub enum Reader {
    /// Below directories, by layer.
    Directories(Vec<Arc<OwnedFd>>),
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
            Self::Directories(roots) => write!(f, "Directories({})", roots.len()),
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
                Some(root) => Self::Directories(vec![root]),
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
                Ok(Self::Directories(roots.collect::<Result<_, _>>()?))
            }
        }
    }

    /// The bytes of the file at `path` in `layer`.
    #[must_use]
    pub fn content(&self, path: &RelPath, layer: usize) -> Content {
        match self {
            Self::Directories(roots) => Content::File {
                root: Arc::clone(&roots[layer]),
                path: to_path(path),
            },
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

/// A file whose bytes are at `content`, for readers that move about in it: what does not lie on this machine's disk is copied to
/// a file without a name in `spool_dir` first.
///
/// # Errors
/// Files that cannot be opened, are no regular files, or do not fit.
pub fn open_regular(content: &Content, spool_dir: &Path) -> io::Result<File> {
    match content {
        Content::File { root, path } | Content::Unhashed { root, path } => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let file = File::from(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?);
            if file.metadata()?.is_file() {
                Ok(file)
            } else {
                Err(io::Error::other("no regular file"))
            }
        }
        Content::Stream(stream) => {
            let mut spool = tempfile::tempfile_in(spool_dir)?;
            io::copy(&mut stream.open()?, &mut spool)?;
            io::Seek::rewind(&mut spool)?;
            Ok(spool)
        }
        Content::None | Content::Inline(_) => Err(io::Error::other("no regular file")),
    }
}

/// A regular file below `root`, opened without following links or waiting for a pipe.
///
/// # Errors
/// What is no regular file, or has more than `limit` bytes.
pub fn read_small(root: &OwnedFd, path: &RelPath, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(root, to_path(path), flags, Mode::empty(), resolve)?);
    let facts = file.metadata()?;
    if !facts.is_file() || facts.len() > limit {
        return Err(io::Error::other(format!(
            "`/{path}` is no regular file of at most {limit} bytes"
        )));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
