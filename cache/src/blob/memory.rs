//! Blobs in memory: the second implementation, for tests and for work that must leave nothing.

use std::collections::HashMap;
use std::io::{self, Cursor};
use std::sync::{Arc, Mutex};

use proto::digest::Digest;

use super::follow::Written;
use super::{BlobError, BlobStore, Ingest, Sink, VerifiedReader};
use crate::durable::{WriteError, lock};

type Blobs = Arc<Mutex<HashMap<Digest, Arc<[u8]>>>>;

/// Blobs that end with the process.
#[derive(Debug, Clone, Default)]
pub struct MemoryBlobs {
    blobs: Blobs,
}

impl MemoryBlobs {
    /// Puts `bytes` where the blob `digest` is, true or not: how tests damage a blob.
    pub fn overwrite(&self, digest: Digest, bytes: &[u8]) {
        lock(&self.blobs).insert(digest, bytes.into());
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

    fn publish(self: Box<Self>, digest: Digest) -> Result<(), WriteError> {
        let bytes = lock(&self.bytes).as_slice().into();
        lock(&self.blobs).insert(digest, bytes);
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

impl BlobStore for MemoryBlobs {
    fn ingest(&self) -> Result<Ingest, BlobError> {
        Ok(Ingest::new(Box::new(MemorySink {
            blobs: Arc::clone(&self.blobs),
            bytes: Arc::default(),
        })))
    }

    fn open(&self, digest: Digest) -> Result<Option<VerifiedReader>, BlobError> {
        let Some(bytes) = lock(&self.blobs).get(&digest).cloned() else {
            return Ok(None);
        };
        let blobs = Arc::clone(&self.blobs);
        let set_aside = move || {
            lock(&blobs).remove(&digest);
        };
        let size = bytes.len() as u64;
        Ok(Some(VerifiedReader::new(
            digest,
            size,
            Box::new(Cursor::new(bytes)),
            Box::new(set_aside),
        )))
    }

    fn size(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        Ok(lock(&self.blobs).get(&digest).map(|bytes| bytes.len() as u64))
    }

    fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(lock(&self.blobs).remove(&digest).is_some())
    }
}
