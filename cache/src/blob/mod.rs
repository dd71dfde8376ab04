//! Blobs: immutable bytes found by their digest.
//!
//! Nobody sees a blob before its digest was compared, and nobody reads one to its end without it being compared again: with the
//! check digest that was computed of the same bytes when they came, which is several times faster than SHA-256 ([`verified`]). The
//! places where bytes are kept ([`disk`], [`memory`]) only keep them; hashing and comparing is here, once.

pub mod disk;
pub mod follow;
pub mod memory;
pub mod verified;

use std::fmt;
use std::io::{self, Read, Write};

use proto::digest::{ContentDigest, Digest, Hasher};

pub use self::disk::DiskBlobs;
use self::follow::{Follower, Told, Written};
pub use self::memory::MemoryBlobs;
pub use self::verified::VerifiedReader;
use crate::durable::WriteError;

/// Why a blob was not kept or not found.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The bytes are not those that were promised.
    #[error("expected `{expected}` with {expected_bytes} bytes, got `{found}` with {found_bytes} bytes")]
    Mismatch {
        /// The digest that was promised.
        expected: Digest,
        /// The size that was promised.
        expected_bytes: u64,
        /// Digest of what came.
        found: Digest,
        /// Size of what came.
        found_bytes: u64,
    },
    /// Bytes could not be written; full disks are told apart inside.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The place where blobs are kept cannot be read.
    #[error("cannot read blob `{digest}`")]
    Read {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A blob that is read whole is larger than its reader allows.
    #[error("blob `{digest}` has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// What was allowed.
        limit_bytes: u64,
    },
}

/// A stored blob whose bytes are not those of its digest; inside the [`io::Error`] that ends reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("blob `{0}` is damaged and was set aside")]
pub struct Damaged(pub Digest);

/// The damaged blob that `error` tells of, if that is what it is.
#[must_use]
pub fn damaged(error: &io::Error) -> Option<Digest> {
    error.get_ref()?.downcast_ref::<Damaged>().map(|damaged| damaged.0)
}

/// Where blobs are.
pub trait BlobStore: fmt::Debug + Send + Sync {
    /// Starts a blob. Nobody sees it before it is committed.
    ///
    /// # Errors
    /// When nothing can be written.
    fn ingest(&self) -> Result<Ingest, BlobError>;

    /// Opens a blob for reading, or nothing if it is not there.
    ///
    /// # Errors
    /// When the place cannot be read; absence is no error.
    fn open(&self, digest: Digest) -> Result<Option<VerifiedReader>, BlobError>;

    /// Size in bytes, or nothing if the blob is not there.
    ///
    /// # Errors
    /// As for [`BlobStore::open`].
    fn size(&self, digest: Digest) -> Result<Option<u64>, BlobError>;

    /// Removes a blob. Returns whether it was there.
    ///
    /// # Errors
    /// When it is there and stays.
    fn remove(&self, digest: Digest) -> Result<bool, BlobError>;

    /// Whether the blob is there. Its bytes are compared when they are read.
    ///
    /// # Errors
    /// As for [`BlobStore::open`].
    fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(self.size(digest)?.is_some())
    }

    /// The bytes of a small blob, such as a manifest or a config. A damaged one is set aside and is not there.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`], and when it cannot be read.
    fn read(&self, digest: Digest, limit_bytes: u64) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(mut reader) = self.open(digest)? else {
            return Ok(None);
        };
        let size_bytes = reader.size_bytes();
        if size_bytes > limit_bytes {
            return Err(BlobError::TooLarge {
                digest,
                size_bytes,
                limit_bytes,
            });
        }
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if damaged(&error).is_some() => Ok(None),
            Err(source) => Err(BlobError::Read { digest, source }),
        }
    }

    /// Keeps `bytes` and returns their digest.
    ///
    /// # Errors
    /// When they cannot be written.
    fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let mut ingest = self.ingest()?;
        ingest.append(bytes)?;
        ingest.commit(None)
    }
}

/// What a place for blobs does with the bytes of one; dropped, it forgets them.
pub trait Sink: Send {
    /// Takes further bytes, all of them.
    ///
    /// # Errors
    /// When they cannot be written.
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError>;

    /// Reads the bytes that were taken so far, and those that will be.
    ///
    /// # Errors
    /// When they cannot be read.
    fn written(&self) -> io::Result<Box<dyn Written>>;

    /// Makes the bytes the blob `digest`. `check` is BLAKE3 of the same bytes; a place that cannot keep it may lose it.
    ///
    /// # Errors
    /// When they cannot be kept.
    fn publish(self: Box<Self>, digest: Digest, check: ContentDigest) -> Result<(), WriteError>;
}

/// Bytes on their way to a place, counted, with their check digest.
struct Checked {
    sink: Box<dyn Sink>,
    check: blake3::Hasher,
    size_bytes: u64,
}

impl Checked {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.sink.append(bytes)?;
        self.check.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    fn publish(self, digest: Digest) -> Result<(), WriteError> {
        self.sink.publish(digest, self.check.finalize().into())
    }
}

/// A blob that is being written; dropped, it never was.
pub struct Ingest {
    bytes: Checked,
    hasher: Hasher,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest")
            .field("size_bytes", &self.bytes.size_bytes)
            .finish_non_exhaustive()
    }
}

impl Ingest {
    /// A blob whose bytes go to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self {
            bytes: Checked {
                sink,
                check: blake3::Hasher::new(),
                size_bytes: 0,
            },
            hasher: Hasher::new(),
        }
    }

    /// Adds `bytes`, with a typed error where [`Write`] has an [`io::Error`].
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.bytes.append(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// How many bytes it has by now.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.bytes.size_bytes
    }

    /// The digest of the bytes that it has by now.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Makes it a blob, if digest and size are as `expected`. What was there under the same digest is replaced: a new copy
    /// was compared just now, an old one may be damaged.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`], or when the bytes cannot be kept; then nothing was added.
    pub fn commit(self, expected: Option<(Digest, u64)>) -> Result<Digest, BlobError> {
        let found = self.hasher.finish();
        if let Some((digest, size)) = expected
            && (digest, size) != (found, self.bytes.size_bytes)
        {
            return Err(BlobError::Mismatch {
                expected: digest,
                expected_bytes: size,
                found,
                found_bytes: self.bytes.size_bytes,
            });
        }
        self.bytes.publish(found)?;
        Ok(found)
    }

    /// The same for whoever digests the bytes anyway, on their way here: they are not digested twice.
    #[must_use]
    pub fn digested_by_writer(self) -> DigestedIngest {
        DigestedIngest {
            bytes: self.bytes,
            told: Told::default(),
        }
    }
}

/// A blob whose writer says what its digest is; dropped, it never was.
pub struct DigestedIngest {
    bytes: Checked,
    told: Told,
}

impl fmt::Debug for DigestedIngest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestedIngest")
            .field("size_bytes", &self.bytes.size_bytes)
            .finish_non_exhaustive()
    }
}

impl DigestedIngest {
    /// Reads the blob while it is written.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    pub fn follow(&mut self) -> io::Result<Follower> {
        Ok(Follower::new(
            self.bytes.sink.written()?,
            self.told.progress(self.bytes.size_bytes),
        ))
    }

    /// Makes it the blob `digest` of `size_bytes` bytes: the writer's word for what it digested on the way.
    ///
    /// # Errors
    /// [`BlobError::Mismatch`] if other than that many bytes came, and when they cannot be kept; then nothing was added.
    pub fn commit(self, digest: Digest, size_bytes: u64) -> Result<(), BlobError> {
        if size_bytes != self.bytes.size_bytes {
            return Err(BlobError::Mismatch {
                expected: digest,
                expected_bytes: size_bytes,
                found: digest,
                found_bytes: self.bytes.size_bytes,
            });
        }
        self.bytes.publish(digest)?;
        self.told.committed();
        Ok(())
    }
}

impl Write for DigestedIngest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes
            .append(bytes)
            .map_err(|error| io::Error::from(BlobError::from(error)))?;
        self.told.wrote(self.bytes.size_bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(io::Error::from)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<BlobError> for io::Error {
    fn from(error: BlobError) -> Self {
        let kind = match &error {
            BlobError::Write(WriteError::NoSpace { .. } | WriteError::OverLimit { .. }) => io::ErrorKind::StorageFull,
            BlobError::Mismatch { .. } | BlobError::TooLarge { .. } => io::ErrorKind::InvalidData,
            BlobError::Write(WriteError::Io { source, .. }) | BlobError::Read { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}
