//! Blobs as files: `blobs/sha256/<2 hex digits>/<62 hex digits>`, their check digests as an extended attribute of the file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proto::digest::{ContentDigest, Digest};
use rustix::fs::XattrFlags;

use super::follow::Written;
use super::verified::Stored;
use super::{BlobError, BlobStore, Ingest, Sink, VerifiedReader};
use crate::durable::{Disk, Sync, Temp, WriteError};

/// Blobs in the store's directory.
#[derive(Debug, Clone)]
pub struct DiskBlobs {
    disk: Arc<Disk>,
}

/// Name of the file that holds the blob `digest`, below the root.
#[must_use]
pub fn file_name(digest: Digest) -> String {
    let hex = digest.hex();
    let (shard, rest) = hex.split_at(2);
    format!("blobs/sha256/{shard}/{rest}")
}

impl DiskBlobs {
    /// Blobs below the root of `disk`.
    #[must_use]
    pub fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }

    /// Whether bytes of that digest were found to be wrong, and nobody made the right ones since.
    #[must_use]
    pub fn was_damaged(&self, digest: Digest) -> bool {
        self.disk.is_set_aside(&file_name(digest)) && !matches!(self.file(digest), Ok(Some(_)))
    }

    /// The file of a blob, for reading pieces of it; nothing if it is not there. Nobody compares its digest: whoever reads it
    /// knows digests of the pieces.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn unverified(&self, digest: Digest) -> Result<Option<File>, BlobError> {
        Ok(self.file(digest)?.map(|(file, _)| file))
    }

    fn file(&self, digest: Digest) -> Result<Option<(File, u64)>, BlobError> {
        let name = file_name(digest);
        let file = self.disk.open_file(&name).and_then(|file| match file {
            Some(file) => file.metadata().map(|facts| Some((file, facts.len()))),
            None => Ok(None),
        });
        file.map_err(|source| BlobError::Read { digest, source })
    }
}

struct FileSink {
    disk: Arc<Disk>,
    temp: Temp,
    size_bytes: u64,
}

/// The extended attribute that holds the check digest, 32 bytes. It is part of the file: it comes with it under its name, moves with
/// it, and goes with it.
const CHECK: &str = "user.rbuild.blake3";

/// A file system without extended attributes, or without room for one, keeps none; then SHA-256 is compared at each reading.
fn keep_check(file: &File, check: ContentDigest) {
    if let Err(error) = rustix::fs::fsetxattr(file, CHECK, check.as_bytes(), XattrFlags::empty()) {
        tracing::trace!(%error, "the check digest of a blob is not kept");
    }
}

/// The file of a blob.
struct BlobFile(File);

impl Stored for BlobFile {
    fn check(&self) -> Option<ContentDigest> {
        let mut bytes = [0; 32];
        // Whatever speaks against having it, SHA-256 is compared instead.
        let length = rustix::fs::fgetxattr(&self.0, CHECK, &mut bytes).ok()?;
        (length == bytes.len()).then(|| ContentDigest::from_bytes(bytes))
    }

    fn file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn set_check(&mut self, check: ContentDigest) {
        keep_check(&self.0, check);
    }
}

impl Read for BlobFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for BlobFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Sink for FileSink {
    fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.size_bytes += bytes.len() as u64;
        let written = self.temp.write_all(bytes);
        written.map_err(|source| WriteError::new(self.temp.path(), self.size_bytes, source))
    }

    fn written(&self) -> io::Result<Box<dyn Written>> {
        Ok(Box::new(Reopened(File::open(self.temp.path())?)))
    }

    fn publish(self: Box<Self>, digest: Digest, check: ContentDigest) -> Result<(), WriteError> {
        keep_check(self.temp.file(), check);
        self.disk.publish(self.temp, &file_name(digest), Sync::Group)
    }
}

/// The file of a blob that is being written, under whatever name.
struct Reopened(File);

impl Written for Reopened {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buffer, at)
    }
}

impl BlobStore for DiskBlobs {
    fn ingest(&self) -> Result<Ingest, BlobError> {
        Ok(Ingest::new(Box::new(FileSink {
            temp: self.disk.begin()?,
            disk: Arc::clone(&self.disk),
            size_bytes: 0,
        })))
    }

    fn open(&self, digest: Digest) -> Result<Option<VerifiedReader>, BlobError> {
        let Some((file, size)) = self.file(digest)? else {
            return Ok(None);
        };
        let disk = Arc::clone(&self.disk);
        let set_aside = move || {
            let name = file_name(digest);
            if let Err(error) = disk.set_aside(&name) {
                tracing::warn!(file = name, %error, "a damaged blob cannot be set aside");
            }
        };
        Ok(Some(VerifiedReader::new(
            digest,
            size,
            Box::new(BlobFile(file)),
            Box::new(set_aside),
        )))
    }

    fn size(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        Ok(self.file(digest)?.map(|(_, size)| size))
    }

    fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        let name = file_name(digest);
        let removed = self.disk.remove(&name);
        removed.map_err(|source| WriteError::new(&self.disk.root().join(name), 0, source).into())
    }
}
