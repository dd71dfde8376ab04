//! Entries to one uncompressed layer. Equal entries give equal bytes: nothing of this machine gets in, not even the order in
//! which they were found.
//!
//! Order: by components of the path, so a directory comes directly before what it holds, and a whiteout stands where the removed
//! name stood. Times are whole seconds, since older readers know no others, and the tree that is returned says what an unpacker
//! will see, not what the source had.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use proto::digest::{ContentDigest, DiffId, Digest, Hasher};
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::ahead::{self, Ahead};
use super::entry::{Content, LayerEntry};
use super::header::{self, BLOCK};

/// Bytes that are read, hashed and written at once.
const CHUNK_BYTES: usize = 256 << 10;
/// What marks a removed name.
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// A finished layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenLayer {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Size of the tar in bytes.
    pub size_bytes: u64,
    /// What the tar says, with the digest of every file.
    pub tree: Tree,
}

/// Why a layer could not be written. What is in the sink is useless then.
#[derive(Debug, thiserror::Error)]
pub enum LayerWriteError {
    /// A file cannot be read.
    #[error("`{path}` cannot be read")]
    Read {
        /// Its path in the layer.
        path: RelPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file's bytes are not those that its digest or size promise: it changed while it was read.
    #[error("`{0}` changed while it was being read")]
    Changed(RelPath),
    /// Two entries have one path.
    #[error("`{0}` is in the layer twice")]
    Duplicate(RelPath),
    /// A hard link whose target is no regular file before it.
    #[error("`{path}` is a hard link to `{target}`, which is no earlier file of the layer")]
    LinkTarget {
        /// The link.
        path: RelPath,
        /// Where it points.
        target: RelPath,
    },
    /// A name that would mean a whiteout to whoever unpacks the layer.
    #[error("`{0}` cannot be in a layer: names that begin with `.wh.` mark removed files")]
    ReservedName(RelPath),
    /// An entry that the format cannot say: an opaque directory, a device number beyond 21 bits, a root that is no directory.
    #[error("`{0}` cannot be expressed in a layer")]
    Unrepresentable(RelPath),
    /// The sink refused.
    #[error("the layer cannot be written")]
    Write(#[source] io::Error),
}

/// Writes `entries` as one uncompressed layer.
///
/// Entries may come in any order. Times later than `clamp_mtime` (seconds since 1970) are lowered to it. Of the extended
/// attributes only `security.capability` is kept. The bytes of each file are compared with the digest of its entry, and digested
/// where it is not known yet.
///
/// # Errors
/// See [`LayerWriteError`].
///
/// Source: OCI image-spec 1.1, `layer.md`; POSIX.1-2017, `pax`.
pub fn write(
    entries: &[LayerEntry],
    clamp_mtime: Option<i64>,
    sink: &mut dyn Write,
) -> Result<WrittenLayer, LayerWriteError> {
    let mut sorted: Vec<&LayerEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].entry.path == pair[1].entry.path) {
        return Err(LayerWriteError::Duplicate(pair[0].entry.path.clone()));
    }
    ahead::with(&sorted, |small| assemble(&sorted, small, clamp_mtime, sink))
}

fn assemble(
    sorted: &[&LayerEntry],
    small: &mut Ahead<'_>,
    clamp_mtime: Option<i64>,
    sink: &mut dyn Write,
) -> Result<WrittenLayer, LayerWriteError> {
    let mut out = Output::new(sink);
    let mut tree: Vec<TreeEntry> = Vec::with_capacity(sorted.len());
    for (index, source) in sorted.iter().enumerate() {
        let mut entry = as_unpacked(&source.entry, clamp_mtime);
        check(&entry, &tree)?;
        if let EntryKind::Hardlink { target } = &entry.kind
            && let Ok(at) = tree.binary_search_by(|earlier| earlier.path.cmp(target))
        {
            // All names of a file share its metadata.
            entry = TreeEntry {
                path: entry.path,
                kind: entry.kind,
                ..tree[at].clone()
            };
        }
        if !header::append(&mut out.chunk, &entry, &name_in_tar(&entry)) {
            return Err(LayerWriteError::Unrepresentable(entry.path));
        }
        out.push(&[])?;
        if let EntryKind::File { size, content } = &mut entry.kind {
            *content = match small.take(index) {
                Some(body) => {
                    let body = body?;
                    out.push(&body.bytes)?;
                    out.pad()?;
                    body.digest
                }
                None => write_body(source, *size, &mut out)?,
            };
        }
        tree.push(entry);
    }
    out.push(&[0; 2 * BLOCK])?;
    let (digest, size_bytes) = out.finish()?;
    Ok(WrittenLayer {
        diff_id: DiffId(digest),
        size_bytes,
        tree: Tree::new(tree),
    })
}

/// Where the body of each entry of a layer begins, in bytes from its start. `tree` is that of a layer which [`write`] made; of
/// other layers this says nothing.
pub fn body_starts(tree: &Tree) -> impl Iterator<Item = (&TreeEntry, u64)> {
    let mut at = 0;
    let mut header = Vec::new();
    tree.entries().iter().map(move |entry| {
        header.clear();
        // An entry that fits in no tar is in none.
        if !header::append(&mut header, entry, &name_in_tar(entry)) {
            return (entry, u64::MAX);
        }
        let start = at + header.len() as u64;
        let size = match entry.kind {
            EntryKind::File { size, .. } => size,
            _ => 0,
        };
        at = start + size.next_multiple_of(BLOCK as u64);
        (entry, start)
    })
}

/// The entry as whoever unpacks the layer will have it.
fn as_unpacked(entry: &TreeEntry, clamp_mtime: Option<i64>) -> TreeEntry {
    let mut entry = entry.clone();
    let seconds = entry.mtime.seconds;
    entry.mtime = Timestamp {
        seconds: clamp_mtime.map_or(seconds, |latest| seconds.min(latest)),
        nanoseconds: 0,
    };
    entry.mode &= 0o7777;
    if matches!(entry.kind, EntryKind::Symlink { .. }) {
        // Links have no permissions of their own.
        entry.mode = 0o777;
    }
    entry.xattrs.retain(|(name, _)| name == b"security.capability");
    if entry.kind == EntryKind::Whiteout {
        (entry.mode, entry.uid, entry.gid) = (0, 0, 0);
        entry.mtime = Timestamp::default();
        entry.xattrs.clear();
    }
    entry
}

fn check(entry: &TreeEntry, before: &[TreeEntry]) -> Result<(), LayerWriteError> {
    if entry.path.components().any(|name| name.starts_with(WHITEOUT)) {
        return Err(LayerWriteError::ReservedName(entry.path.clone()));
    }
    let bad = match &entry.kind {
        EntryKind::Directory { opaque } => *opaque,
        EntryKind::CharDevice { major: 0, minor: 0 } => true,
        EntryKind::Hardlink { target } => {
            let at = before.binary_search_by(|earlier| earlier.path.cmp(target));
            if !at.is_ok_and(|at| matches!(before[at].kind, EntryKind::File { .. })) {
                return Err(LayerWriteError::LinkTarget {
                    path: entry.path.clone(),
                    target: target.clone(),
                });
            }
            entry.path.is_root()
        }
        _ => entry.path.is_root(),
    };
    match bad {
        true => Err(LayerWriteError::Unrepresentable(entry.path.clone())),
        false => Ok(()),
    }
}

fn name_in_tar(entry: &TreeEntry) -> Vec<u8> {
    let mut name = entry.path.as_bytes().to_vec();
    match entry.kind {
        EntryKind::Directory { .. } if name.is_empty() => name.extend_from_slice(b"./"),
        EntryKind::Directory { .. } => name.push(b'/'),
        EntryKind::Whiteout => {
            let start = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            name.splice(start..start, WHITEOUT.iter().copied());
        }
        _ => {}
    }
    name
}

/// Copies exactly `size` bytes and the padding, and returns their digest, compared where it was known before.
fn write_body(source: &LayerEntry, size: u64, out: &mut Output<'_>) -> Result<ContentDigest, LayerWriteError> {
    let path = &source.entry.path;
    let failed = |error: io::Error| LayerWriteError::Read {
        path: path.clone(),
        source: error,
    };
    let changed = || LayerWriteError::Changed(path.clone());
    let mut reader = open(&source.content).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut left = size;
    while left > 0 {
        let length = match reader.read(out.room(left)?) {
            Ok(0) => return Err(changed()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        hasher.update(out.filled(length));
        left -= length as u64;
    }
    if reader.read(&mut [0]).map_err(failed)? != 0 {
        return Err(changed());
    }
    out.pad()?;
    same_digest(source, hasher.finalize().into())
}

/// The digest that was found, if it is the one that the entry says, or if that says none.
pub(super) fn same_digest(source: &LayerEntry, found: ContentDigest) -> Result<ContentDigest, LayerWriteError> {
    match (&source.content, &source.entry.kind) {
        (Content::Unhashed { .. }, _) => Ok(found),
        (_, EntryKind::File { content, .. }) if *content == found => Ok(found),
        _ => Err(LayerWriteError::Changed(source.entry.path.clone())),
    }
}

pub(super) fn open(content: &Content) -> io::Result<Box<dyn Read + '_>> {
    match content {
        Content::None => Ok(Box::new(io::empty())),
        Content::Inline(bytes) => Ok(Box::new(&bytes[..])),
        Content::File { root, path } | Content::Unhashed { root, path } => Ok(Box::new(open_below(root, path)?)),
        Content::Snapshot { directory, path } => Ok(Box::new(open_below(&directory.root, path)?)),
        Content::Stream(stream) => Ok(stream.open()?),
    }
}

/// Opens a regular file below `root`, through no link at all: the tree was walked without following any.
pub(super) fn open_below(root: &OwnedFd, path: &Path) -> io::Result<std::fs::File> {
    // Not blocking: a file that became a pipe since it was looked at must not hold the build.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Only the owner may leave the time of the last access as it is, which spares the disk a write for each file.
    let opened = match openat2(root, path, flags | OFlags::NOATIME, Mode::empty(), resolve) {
        Err(Errno::PERM) => openat2(root, path, flags, Mode::empty(), resolve),
        opened => opened,
    };
    let file = std::fs::File::from(opened?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file any more")),
    }
}

/// Collects bytes into chunks. Full chunks go to the sink here and to SHA-256, the slowest part, on a thread of its own; small
/// layers never start the thread.
struct Output<'a> {
    sink: &'a mut dyn Write,
    /// The chunk being filled. A header may take it a little beyond [`CHUNK_BYTES`].
    chunk: Vec<u8>,
    size_bytes: u64,
    hashing: Option<(SyncSender<Bytes>, JoinHandle<Digest>)>,
    /// What [`Output::room`] added behind the bytes that count.
    spare: usize,
}

impl<'a> Output<'a> {
    fn new(sink: &'a mut dyn Write) -> Self {
        Self {
            sink,
            chunk: Vec::with_capacity(2 * CHUNK_BYTES),
            size_bytes: 0,
            hashing: None,
            spare: 0,
        }
    }

    /// A non-empty piece of the chunk to read into, no longer than `most`; [`Output::filled`] says how much of it counts.
    fn room(&mut self, most: u64) -> Result<&mut [u8], LayerWriteError> {
        self.filled(0);
        if self.chunk.len() >= CHUNK_BYTES {
            self.pass_on()?;
        }
        let start = self.chunk.len();
        let free = CHUNK_BYTES - start;
        self.spare = usize::try_from(most).map_or(free, |most| most.min(free));
        self.chunk.resize(start + self.spare, 0);
        Ok(&mut self.chunk[start..])
    }

    /// Keeps the first `length` bytes of the room and returns them.
    fn filled(&mut self, length: usize) -> &[u8] {
        let start = self.chunk.len() - self.spare;
        self.chunk.truncate(start + length);
        self.spare = 0;
        &self.chunk[start..]
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), LayerWriteError> {
        self.chunk.extend_from_slice(bytes);
        match self.chunk.len() >= CHUNK_BYTES {
            true => self.pass_on(),
            false => Ok(()),
        }
    }

    fn pad(&mut self) -> Result<(), LayerWriteError> {
        let total = self.size_bytes + self.chunk.len() as u64;
        let missing = total.next_multiple_of(BLOCK as u64) - total;
        self.push(&[0; BLOCK][..usize::try_from(missing).unwrap_or(0)])
    }

    fn pass_on(&mut self) -> Result<(), LayerWriteError> {
        let chunk = Bytes::from(std::mem::replace(&mut self.chunk, Vec::with_capacity(2 * CHUNK_BYTES)));
        self.size_bytes += chunk.len() as u64;
        let (sender, _) = self.hashing.get_or_insert_with(start_hashing);
        sender
            .send(chunk.clone())
            .map_err(|_| LayerWriteError::Write(hashing_stopped()))?;
        self.sink.write_all(&chunk).map_err(LayerWriteError::Write)
    }

    fn finish(mut self) -> Result<(Digest, u64), LayerWriteError> {
        if self.hashing.is_none() {
            self.sink.write_all(&self.chunk).map_err(LayerWriteError::Write)?;
            return Ok((Digest::of(&self.chunk), self.chunk.len() as u64));
        }
        self.pass_on()?;
        let Some((sender, thread)) = self.hashing else {
            return Err(LayerWriteError::Write(hashing_stopped()));
        };
        drop(sender);
        let digest = thread.join().map_err(|_| LayerWriteError::Write(hashing_stopped()))?;
        Ok((digest, self.size_bytes))
    }
}

fn start_hashing() -> (SyncSender<Bytes>, JoinHandle<Digest>) {
    let (sender, chunks) = sync_channel::<Bytes>(16);
    let thread = thread::spawn(move || {
        let mut hasher = Hasher::new();
        for chunk in chunks {
            hasher.update(&chunk);
        }
        hasher.finish()
    });
    (sender, thread)
}

fn hashing_stopped() -> io::Error {
    io::Error::other("the hashing thread has stopped")
}
