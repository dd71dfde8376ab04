//! Blobs in memory: the second implementation, for tests and for work that must leave nothing.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex};

use proto::digest::Digest;

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
    bytes: Vec<u8>,
}

impl Sink for MemorySink {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn publish(self: Box<Self>, digest: Digest) -> Result<(), WriteError> {
        lock(&self.blobs).insert(digest, self.bytes.into());
        Ok(())
    }
}

impl BlobStore for MemoryBlobs {
    fn ingest(&self) -> Result<Ingest, BlobError> {
        Ok(Ingest::new(Box::new(MemorySink {
            blobs: Arc::clone(&self.blobs),
            bytes: Vec::new(),
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
