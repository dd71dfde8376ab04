//! A layer that a stranger made, into a directory in overlay format, or into its tree alone. Every entry is hostile.
//!
//! One pass: decompression runs on a thread of its own, and so does the digest of the uncompressed bytes; here they are parsed,
//! judged and written. The result counts only when the whole stream has the expected diff ID.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use proto::digest::{ContentDigest, DiffId, Digest, Hasher};
use proto::oci::Compression;
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};

use super::compress::decompress;
use super::early::{self, Link, TakesLinks};
use super::limits::{LimitExceeded, Limits};
use super::lower::{Lower, LowerDirs};
use super::merge::{EntryError, Merged};
use super::place::{self, Place};
use super::read::{Archive, Member, read_error};
use super::tar::WHITEOUT;
use crate::notes;

pub use super::merge::Refusal;
pub use super::read::TarError;

const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that are decompressed and wait, for each of those who read them.
const CHUNKS_AHEAD: usize = 8;

/// The bytes of a layer and what they claim to be.
#[derive(Debug)]
pub struct LayerSource<R> {
    /// The blob.
    pub reader: R,
    /// How it is compressed.
    pub compression: Compression,
    /// Digest of its uncompressed bytes, from the image config.
    pub expected: DiffId,
}

/// A layer that was what it claimed to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// What the layer says. Paths through links of the image are those that the links lead to.
    pub tree: Tree,
    /// Size of the uncompressed tar in bytes.
    pub size_bytes: u64,
}

/// Why a layer is not taken. What is in the destination is useless then.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The bytes are no tar that we take, or cannot be had.
    #[error(transparent)]
    Tar(TarError),
    /// A limit.
    #[error(transparent)]
    Limit(LimitExceeded),
    /// An entry that no layer may have.
    #[error("the layer's entry `{name}` is refused: {refusal}")]
    Refused {
        /// The entry's name, escaped.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// The layers below cannot be read.
    #[error("the layers below `{name}` cannot be read")]
    Lower {
        /// The entry at hand, escaped.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The entry cannot be written.
    #[error("`{name}` cannot be unpacked")]
    Write {
        /// The entry, escaped.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The layer is not the one that the image names.
    #[error("the layer unpacks to {found}, but the image says {expected}")]
    DiffId {
        /// By the image config.
        expected: DiffId,
        /// What the bytes are.
        found: DiffId,
    },
}

impl From<TarError> for UnpackError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Limit(limit) => Self::Limit(limit),
            other => Self::Tar(other),
        }
    }
}

/// Unpacks a layer into `dest`, a new and empty directory, in overlay format. `lowers` are the layers below, topmost first.
///
/// Needs the right to make device nodes and to give files away, as root or inside a user namespace.
///
/// # Errors
/// See [`UnpackError`]; `dest` must be removed then.
///
/// Source: OCI image-spec 1.1, `layer.md`, "Applying Changesets".
pub fn unpack(
    source: LayerSource<impl Read + Send>,
    dest: &Path,
    lowers: &[PathBuf],
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let lower = LowerDirs::open(lowers).map_err(|source| UnpackError::Lower {
        name: String::new(),
        source,
    })?;
    let place = Place::open(dest).map_err(|source| UnpackError::Write {
        name: String::new(),
        source,
    })?;
    run(source, &lower, Some((place, &lower)), limits)
}

/// Reads a layer with all checks of [`unpack`] and writes nothing.
///
/// # Errors
/// See [`UnpackError`].
pub fn scan(
    source: LayerSource<impl Read + Send>,
    lower: &dyn Lower,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    run(source, lower, None, limits)
}

fn run(
    source: LayerSource<impl Read + Send>,
    lower: &dyn Lower,
    place: Option<(Place, &LowerDirs)>,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let LayerSource {
        reader,
        compression,
        expected,
    } = source;
    let (place, lower_files) = place.map_or((None, None), |(place, lower)| (Some(place), Some(lower)));
    let merged = Merged::new(lower, limits, place).map_err(|error| named(b"/", error))?;
    let mut layer = Layer {
        merged,
        lower,
        lower_files,
        early_links: Vec::new(),
        buffer: vec![0; CHUNK_BYTES],
    };
    let (digest, size_bytes) = thread::scope(|scope| {
        let (sender, receiver) = sync_channel(CHUNKS_AHEAD);
        let (to_hash, from_producer) = sync_channel(CHUNKS_AHEAD);
        scope.spawn(move || produce(reader, compression, limits, &sender, &to_hash));
        let digest = scope.spawn(move || digest(&from_producer));
        let mut archive = Archive::new(Chunks::new(receiver), limits);
        while let Some(member) = archive.next()? {
            let name = member.name.clone();
            layer.take(member, &mut archive).map_err(|error| error.named(&name))?;
        }
        archive.drain()?;
        match digest.join() {
            Ok(digest) => Ok::<_, UnpackError>(digest),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    let found = DiffId(digest);
    if found != expected {
        return Err(UnpackError::DiffId { expected, found });
    }
    let tree = layer.finish()?;
    Ok(Unpacked { tree, size_bytes })
}

fn escape(name: &[u8]) -> String {
    RelPath::clean(name).to_string()
}

fn named(name: &[u8], error: EntryError) -> UnpackError {
    let name = escape(name);
    match error {
        EntryError::Refused(refusal) => UnpackError::Refused { name, refusal },
        EntryError::Limit(limit) => UnpackError::Limit(limit),
        EntryError::Lower(source) => UnpackError::Lower { name, source },
        EntryError::Write(source) => UnpackError::Write { name, source },
    }
}

enum TakeError {
    Entry(EntryError),
    Tar(TarError),
}

impl TakeError {
    fn named(self, name: &[u8]) -> UnpackError {
        match self {
            Self::Entry(error) => named(name, error),
            Self::Tar(error) => error.into(),
        }
    }
}

impl From<EntryError> for TakeError {
    fn from(error: EntryError) -> Self {
        Self::Entry(error)
    }
}

impl From<Refusal> for TakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Entry(refusal.into())
    }
}

struct Layer<'a> {
    merged: Merged<'a>,
    lower: &'a dyn Lower,
    lower_files: Option<&'a LowerDirs>,
    /// Hard links whose target has not come yet.
    early_links: Vec<Link>,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    fn take<R: Read>(&mut self, member: Member, archive: &mut Archive<'_, R>) -> Result<(), TakeError> {
        let named = RelPath::parse(&member.name).map_err(|_| Refusal::Name)?;
        if member.link.contains(&0) {
            return Err(Refusal::Name.into());
        }
        self.merged.check_link(&member.link)?;
        if self.take_mark(&named)? {
            return Ok(());
        }
        let path = self.merged.locate(&named)?;
        if let b'1' = member.typeflag {
            let target = RelPath::parse(&member.link).map_err(|_| Refusal::HardLink)?;
            let link = early::take_or_keep(self, (entry(&member, path, EntryKind::Fifo), target))?;
            self.early_links.extend(link);
            return Ok(());
        }
        let (major, minor) = member.device;
        let kind = match member.typeflag {
            0 | b'0' if member.name.ends_with(b"/") => EntryKind::Directory { opaque: false },
            0 | b'0' | b'7' => EntryKind::File {
                size: member.size,
                content: ContentDigest::from_bytes([0; 32]),
            },
            b'2' => EntryKind::Symlink {
                target: member.link.clone(),
            },
            b'3' if (major, minor) == (0, 0) => return Err(Refusal::Device.into()),
            b'3' => EntryKind::CharDevice { major, minor },
            b'4' => EntryKind::BlockDevice { major, minor },
            b'5' => EntryKind::Directory { opaque: false },
            b'6' => EntryKind::Fifo,
            _ => return Err(Refusal::Type.into()),
        };
        let entry = entry(&member, path, kind);
        match entry.kind {
            EntryKind::File { size, .. } => self.take_file(entry, size, archive),
            _ => Ok(self.take_special(entry)?),
        }
    }

    /// Whiteouts and opaque marks. Returns false for entries that are none.
    fn take_mark(&mut self, path: &RelPath) -> Result<bool, EntryError> {
        let Some(name) = path.name() else {
            return Ok(false);
        };
        let parent = path.parent().unwrap_or_default();
        // What an old storage driver keeps for itself, and whatever is inside, is nothing of the image.
        if parent.components().any(|name| name.starts_with(b".wh..wh.")) {
            return Ok(true);
        }
        if parent.components().any(|name| name.starts_with(WHITEOUT)) {
            return Err(Refusal::Whiteout.into());
        }
        let Some(removed) = name.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        if matches!(removed, b"" | b"." | b"..") {
            return Err(Refusal::Whiteout.into());
        }
        if removed == b".wh..opq" {
            // Located through a name that cannot be there, so that a directory that is a link is followed.
            let inside = self.merged.locate(&parent.join(&RelPath::clean(b".wh.")))?;
            self.merged.add_opaque(inside.parent().unwrap_or_default())?;
        } else if !removed.starts_with(WHITEOUT) {
            let target = parent.join(&RelPath::clean(removed));
            let target = self.merged.locate(&target)?;
            self.merged.add_whiteout(target)?;
        }
        Ok(true)
    }

    fn take_file<R: Read>(
        &mut self,
        entry: TreeEntry,
        size: u64,
        archive: &mut Archive<'_, R>,
    ) -> Result<(), TakeError> {
        self.merged.add(entry.clone())?;
        let mut file = match &mut self.merged.place {
            Some(place) => Some(place.file(&entry.path).map_err(EntryError::Write)?),
            None => None,
        };
        let mut hasher = blake3::Hasher::new();
        loop {
            let length = match archive.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TakeError::Tar(read_error(error))),
            };
            hasher.update(&self.buffer[..length]);
            if let Some(file) = &mut file {
                file.write_all(&self.buffer[..length]).map_err(EntryError::Write)?;
            }
        }
        if let Some(file) = &file {
            place::finish(file, &entry).map_err(EntryError::Write)?;
        }
        let content = hasher.finalize().into();
        self.merged.set_kind(&entry.path, EntryKind::File { size, content });
        Ok(())
    }

    /// Directories, links, devices, pipes.
    fn take_special(&mut self, entry: TreeEntry) -> Result<(), EntryError> {
        self.merged.add(entry.clone())?;
        match (&mut self.merged.place, &entry.kind) {
            (None, _) | (_, EntryKind::Directory { .. }) => Ok(()),
            (Some(place), _) => place.special(&entry).map_err(EntryError::Write),
        }
    }

    /// A layer cannot hold a name of a file below it, only a copy.
    fn copy_from_below(&mut self, entry: TreeEntry, from: &RelPath) -> Result<(), EntryError> {
        let EntryKind::File { size, .. } = entry.kind else {
            return Err(Refusal::HardLink.into());
        };
        self.merged.add(entry.clone())?;
        let content = match (&mut self.merged.place, self.lower_files) {
            (Some(place), Some(lower)) => {
                let mut source = lower.open_file(from).map_err(EntryError::Lower)?;
                let mut file = place.file(&entry.path).map_err(EntryError::Write)?;
                io::copy(&mut source, &mut file).map_err(EntryError::Write)?;
                place::finish(&file, &entry).map_err(EntryError::Write)?;
                self.lower.content(from).map_err(EntryError::Lower)?
            }
            _ => self.lower.content(from).map_err(EntryError::Lower)?,
        };
        self.merged.set_kind(&entry.path, EntryKind::File { size, content });
        Ok(())
    }

    fn finish(mut self) -> Result<Tree, UnpackError> {
        let waiting = std::mem::take(&mut self.early_links);
        let finished = early::take_all(&mut self, waiting).and_then(|()| self.merged.finish());
        finished.map_err(|(path, error)| named(path.as_bytes(), error))
    }
}

impl TakesLinks for Layer<'_> {
    fn merged(&self) -> &Merged<'_> {
        &self.merged
    }

    fn keep(&mut self, bytes: usize) -> Result<(), EntryError> {
        self.merged.keep(bytes)
    }

    fn make_link(&mut self, link: TreeEntry, found: TreeEntry, from_below: bool) -> Result<(), EntryError> {
        let mut entry = TreeEntry {
            path: link.path.clone(),
            ..found.clone()
        };
        if matches!(found.kind, EntryKind::Symlink { .. }) {
            return self.take_special(entry);
        }
        if !from_below && found.path.below(&link.path).is_some() {
            // To make room for the link would remove its target.
            return Err(Refusal::HardLink.into());
        }
        if from_below {
            return self.copy_from_below(entry, &found.path);
        }
        entry.kind = EntryKind::Hardlink {
            target: found.path.clone(),
        };
        self.merged.add(entry)?;
        match &mut self.merged.place {
            Some(place) => place.link(&found.path, &link.path).map_err(EntryError::Write),
            None => Ok(()),
        }
    }
}

fn entry(member: &Member, path: RelPath, kind: EntryKind) -> TreeEntry {
    let can_carry = matches!(kind, EntryKind::File { .. } | EntryKind::Directory { .. });
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in &member.xattrs {
        match allowed_xattr(name, value) {
            Some(value) if can_carry => xattrs.push((name.clone(), value)),
            _ => tracing::warn!(path = %path, xattr = %escape(name), "extended attribute of a layer is dropped"),
        }
    }
    xattrs.sort();
    TreeEntry {
        path,
        mode: if matches!(kind, EntryKind::Symlink { .. }) {
            0o777
        } else {
            member.mode
        },
        kind,
        uid: member.uid,
        gid: member.gid,
        mtime: Timestamp {
            seconds: member.mtime,
            nanoseconds: 0,
        },
        xattrs,
    }
}

/// The value to set; nothing for attributes that would speak to overlayfs or to the kernel's security modules.
pub(crate) fn allowed_xattr(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    if name == b"security.capability" {
        // Version 2, or version 3 of the root user, which says the same with four bytes more.
        return match (value.len(), value.get(3)?, value.get(20..)) {
            (20, 2, _) => Some(value.to_vec()),
            (24, 3, Some([0, 0, 0, 0])) => {
                let mut value = value[..20].to_vec();
                value[3] = 2;
                Some(value)
            }
            _ => None,
        };
    }
    let ours = ["user.overlay.", notes::PREFIX];
    let theirs = name.starts_with(b"user.") && !ours.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    (theirs && name.len() <= 255 && !name.contains(&0)).then(|| value.to_vec())
}

/// The first thread: decompresses until the end, an error, or nobody listening.
fn produce(
    reader: impl Read + Send,
    compression: Compression,
    limits: &Limits,
    chunks: &SyncSender<io::Result<Bytes>>,
    to_hash: &SyncSender<Bytes>,
) {
    let mut plain = match decompress(reader, compression, limits) {
        Ok(plain) => plain,
        Err(error) => {
            // Nobody listens: the layer has failed already.
            drop(chunks.send(Err(error)));
            return;
        }
    };
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = plain.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        let chunk = Bytes::from(chunk);
        let end = read.is_err() || chunk.is_empty();
        let given = chunk.is_empty() || chunks.send(Ok(chunk.clone())).is_ok() && to_hash.send(chunk).is_ok();
        if end || !given {
            if let Err(error) = read {
                drop(chunks.send(Err(error)));
            }
            return;
        }
    }
}

/// The second thread: digest and number of all bytes.
fn digest(chunks: &Receiver<Bytes>) -> (Digest, u64) {
    let mut hasher = Hasher::new();
    let mut size_bytes = 0;
    for chunk in chunks {
        hasher.update(&chunk);
        size_bytes += chunk.len() as u64;
    }
    (hasher.finish(), size_bytes)
}

/// Reads what the first thread sends.
struct Chunks {
    receiver: Receiver<io::Result<Bytes>>,
    chunk: io::Cursor<Bytes>,
}

impl Chunks {
    fn new(receiver: Receiver<io::Result<Bytes>>) -> Self {
        Self {
            receiver,
            chunk: io::Cursor::default(),
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.chunk.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.receiver.recv() {
                Ok(chunk) => self.chunk = io::Cursor::new(chunk?),
                // The sender is gone: the end.
                Err(_) => return Ok(0),
            }
        }
    }
}
