//! Archives that `ADD` unpacks: what is in a tar, compressed or not, as a tree, and the bytes of its files.
//!
//! An archive is known by its content alone. Its names are hostile: `..` is refused, a leading `/` is dropped, links are
//! followed in the archive's own tree only and everything is limited. Nothing is unpacked to disk: a compressed tar is
//! decompressed once, into a file without a name, and its members are read from there.

mod decode;
mod members;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Tree};

use crate::layer::apply::Refusal;
use crate::layer::entry::{Content, Open};
use crate::layer::limits::{LimitExceeded, Limits};
use crate::layer::read::TarError;

/// A tar, read and judged.
#[derive(Debug, Clone)]
pub struct Archive {
    /// What it holds: owners, modes and times as stated, of the extended attributes file capabilities alone. Directories as
    /// far as the archive names them; the root is there if it is named. Names that begin with `.wh.` are ordinary.
    pub tree: Arc<Tree>,
    spool: Arc<File>,
    /// Where bytes are in the spool.
    bodies: HashMap<ContentDigest, Body>,
}

#[derive(Debug, Clone, Copy)]
struct Body {
    offset: u64,
    size: u64,
}

/// Why a file that is an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file, or what it decompresses to, cannot be read to its end.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// There is no room for the decompressed archive.
    #[error("the decompressed archive cannot be kept")]
    Spool(#[source] io::Error),
    /// A limit.
    #[error("the archive is too much: {0}")]
    Limit(LimitExceeded),
    /// A header is broken.
    #[error("entry {entry} of the archive is broken: {problem}")]
    Broken {
        /// Its number, from 1.
        entry: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry that no archive may have.
    #[error("the archive's entry `{name}` is refused: {refusal}")]
    Refused {
        /// The entry's name, escaped.
        name: String,
        /// Why.
        refusal: Refusal,
    },
}

impl From<TarError> for ArchiveError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(error) => Self::Read(error),
            TarError::Limit(limit) => Self::Limit(limit),
            TarError::Broken { entry, problem } => Self::Broken { entry, problem },
        }
    }
}

/// Reads the archive in the regular file `file`, from its start; nothing if it is none: a tar, plain or compressed with gzip,
/// bzip2, xz or zstd, whose first block is a header.
///
/// A compressed one is decompressed into a nameless file in `spool_dir`; of a plain one `file` itself is kept open. The bytes
/// are those that were hashed as long as nobody changes `file`; whoever writes them compares.
///
/// # Errors
/// See [`ArchiveError`]: a file that begins as an archive and does not go on as one.
pub fn open(file: File, spool_dir: &Path) -> Result<Option<Archive>, ArchiveError> {
    open_limited(file, spool_dir, &Limits::default())
}

/// Like [`open`], with limits of the caller.
///
/// # Errors
/// As [`open`].
pub fn open_limited(file: File, spool_dir: &Path, limits: &Limits) -> Result<Option<Archive>, ArchiveError> {
    let Some(tar) = decode::tar_in(&file, limits)? else {
        return Ok(None);
    };
    let spool = match tar.plain {
        true => None,
        false => Some(tempfile::tempfile_in(spool_dir).map_err(ArchiveError::Spool)?),
    };
    let (tree, bodies) = members::read(tar.reader, spool.as_ref(), limits)?;
    Ok(Some(Archive {
        tree: Arc::new(tree),
        spool: Arc::new(spool.unwrap_or(file)),
        bodies,
    }))
}

/// The plain tar in the regular file `file`, from its start; nothing if there is none.
///
/// # Errors
/// As [`open`], as far as the start of the file tells.
pub fn tar_in(file: &File) -> Result<Option<Box<dyn Read + Send>>, ArchiveError> {
    Ok(decode::tar_in(file, &Limits::default())?.map(|tar| tar.reader))
}

impl Archive {
    /// The bytes of the regular file at `path` of the tree; none for everything else.
    #[must_use]
    pub fn content(&self, path: &RelPath) -> Content {
        let Some(EntryKind::File { content, .. }) = self.tree.get(path).map(|entry| &entry.kind) else {
            return Content::None;
        };
        // Equal digests are equal bytes, so it does not matter whose they are.
        match self.bodies.get(content) {
            Some(body) => Content::Stream(Arc::new(Member {
                spool: Arc::clone(&self.spool),
                body: *body,
            })),
            None => Content::None,
        }
    }
}

/// One file of the archive.
struct Member {
    spool: Arc<File>,
    body: Body,
}

impl Open for Member {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(MemberReader {
            spool: Arc::clone(&self.spool),
            left: self.body,
        }))
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({:?})", self.body)
    }
}

struct MemberReader {
    spool: Arc<File>,
    left: Body,
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left.size).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = self.spool.read_at(&mut buffer[..most], self.left.offset)?;
        if length == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive has become shorter",
            ));
        }
        self.left.offset += length as u64;
        self.left.size -= length as u64;
        Ok(length)
    }
}
