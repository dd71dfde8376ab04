//! Blobs in memory: the second implementation, for tests and for work that must leave nothing.

use std::collections::HashMap;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use proto::digest::{ContentDigest, Digest};

use super::follow::Written;
use super::verified::Stored;
use super::{BlobError, BlobStore, Ingest, Sink, VerifiedReader};
use crate::durable::{WriteError, lock};

type Blobs = Arc<Mutex<HashMap<Digest, Kept>>>;

#[derive(Debug, Clone)]
struct Kept {
    bytes: Arc<[u8]>,
    check: Option<ContentDigest>,
}

/// Blobs that end with the process.
#[derive(Debug, Clone, Default)]
pub struct MemoryBlobs {
    blobs: Blobs,
}

impl MemoryBlobs {
    /// Puts `bytes` where the blob `digest` is, true or not, and leaves its check digest as it was: how tests damage a blob.
    pub fn overwrite(&self, digest: Digest, bytes: &[u8]) {
        let mut blobs = lock(&self.blobs);
        let check = blobs.get(&digest).and_then(|kept| kept.check);
        let bytes = bytes.into();
        blobs.insert(digest, Kept { bytes, check });
    }
}

struct MemorySink {
    blobs: Blobs,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Sink for MemorySink {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        lock(&self.bytes).extend_from_slice(bytes);
        Ok(())
    }

    fn written(&self) -> io::Result<Box<dyn Written>> {
        Ok(Box::new(Shared(Arc::clone(&self.bytes))))
    }

    fn publish(self: Box<Self>, digest: Digest, check: ContentDigest) -> Result<(), WriteError> {
        let bytes = lock(&self.bytes).as_slice().into();
        let check = Some(check);
        lock(&self.blobs).insert(digest, Kept { bytes, check });
        Ok(())
    }
}

/// The bytes of a blob that is being written.
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Written for Shared {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = lock(&self.0);
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }
}

/// A blob as it was when it was opened.
struct Opened {
    bytes: Cursor<Arc<[u8]>>,
    check: Option<ContentDigest>,
    digest: Digest,
    blobs: Blobs,
}

impl Stored for Opened {
    fn check(&self) -> Option<ContentDigest> {
        self.check
    }

    fn file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn set_check(&mut self, check: ContentDigest) {
        self.check = Some(check);
        if let Some(kept) = lock(&self.blobs).get_mut(&self.digest) {
            kept.check = Some(check);
        }
    }
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl Seek for Opened {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

impl BlobStore for MemoryBlobs {
    fn ingest(&self) -> Result<Ingest, BlobError> {
        Ok(Ingest::new(Box::new(MemorySink {
            blobs: Arc::clone(&self.blobs),
            bytes: Arc::default(),
        })))
    }

    fn open(&self, digest: Digest) -> Result<Option<VerifiedReader>, BlobError> {
        let Some(Kept { bytes, check }) = lock(&self.blobs).get(&digest).cloned() else {
            return Ok(None);
        };
        let blobs = Arc::clone(&self.blobs);
        let set_aside = move || {
            lock(&blobs).remove(&digest);
        };
        let size = bytes.len() as u64;
        let opened = Opened {
            bytes: Cursor::new(bytes),
            check,
            digest,
            blobs: Arc::clone(&self.blobs),
        };
        Ok(Some(VerifiedReader::new(
            digest,
            size,
            Box::new(opened),
            Box::new(set_aside),
        )))
    }

    fn size(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        Ok(lock(&self.blobs).get(&digest).map(|kept| kept.bytes.len() as u64))
    }

    fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(lock(&self.blobs).remove(&digest).is_some())
    }
}
