//! What servers said of files that were fetched from them, so that the next build only asks whether they are still the same.

use std::sync::Arc;

use prost::Message;
use proto::digest::{ContentDigest, Digest};
use proto::record::CacheKey;
use proto::v1;

use crate::download::Validators;
use crate::durable::{Disk, Sync, WriteError};
use crate::records::file_name;
use crate::sealed;

/// Headers are short.
const MAX_BYTES: u64 = 64 << 10;

/// The answer to an earlier request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFile {
    /// What the server compares.
    pub validators: Validators,
    /// The bytes.
    pub digest: Digest,
    /// Seconds since 1970; 0 if the server did not say.
    pub modified: i64,
    /// The record that holds the file.
    pub key: CacheKey,
}

/// Answers as files.
#[derive(Debug)]
pub struct Answers {
    disk: Arc<Disk>,
}

fn answer_name(address: CacheKey) -> String {
    file_name("answers", &address.0.hex())
}

impl Answers {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }

    /// What is known of the file behind an address; the address enters as a key. A damaged answer is none.
    #[must_use]
    pub fn known(&self, address: CacheKey) -> Option<KnownFile> {
        self.read(&answer_name(address))
    }

    /// Remembers `file`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, address: CacheKey, file: &KnownFile) -> Result<(), WriteError> {
        let message = v1::StoredAnswer {
            etag: file.validators.etag.clone(),
            last_modified: file.validators.last_modified.clone(),
            digest: file.digest.as_bytes().to_vec(),
            modified: file.modified,
            key: file.key.0.as_bytes().to_vec(),
        };
        sealed::write(&self.disk, &answer_name(address), message.encode_to_vec(), Sync::Group)
    }

    /// The record that the answer in the file `name` leads to.
    pub(crate) fn key_in(&self, name: &str) -> Option<CacheKey> {
        self.read(name).map(|file| file.key)
    }

    fn read(&self, name: &str) -> Option<KnownFile> {
        sealed::read(&self.disk, name, MAX_BYTES, |payload| parse(&payload))
    }
}

/// The answer that a file of one says; one that says something else is none.
pub(crate) fn parse(payload: &[u8]) -> Option<KnownFile> {
    let message = v1::StoredAnswer::decode(payload).ok()?;
    Some(KnownFile {
        validators: Validators {
            etag: message.etag,
            last_modified: message.last_modified,
        },
        digest: Digest::from_bytes(message.digest.try_into().ok()?),
        modified: message.modified,
        key: CacheKey(ContentDigest::from_bytes(message.key.try_into().ok()?)),
    })
}
