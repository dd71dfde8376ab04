//! Keys, and the records they lead to.

use std::fmt;

use crate::digest::{ChainId, ContentDigest, DiffId};
use crate::oci::Descriptor;

pub use crate::miss::MissReason;

/// Names the work of one vertex on exactly these inputs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub ContentDigest);

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({self})")
    }
}

/// What a key was computed from: named fields in order. Equal fields, equal key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preimage {
    /// The fields, in the order in which they are hashed.
    pub fields: Vec<Field>,
    /// What is behind fields that are digests themselves: the files one by one. Never hashed, only to say which of them differ, so
    /// it is made when a step runs and not when it is looked up.
    pub listing: Vec<Field>,
}

/// One named part of a key: `argument 2`, `variable PATH`, `root`; or of a listing: `file 0.0 src/main.c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Unique within its list.
    pub name: String,
    /// Any bytes.
    pub value: Vec<u8>,
}

impl Preimage {
    /// Appends a field.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.fields.push(Field {
            name: name.into(),
            value: value.into(),
        });
    }
}

/// The content key that a definition key led to, and when that holds: as long as the inputs whose files it was computed from are
/// what they were. The definition key names the *vertices* that made these files, and a vertex that runs again may make others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The content key.
    pub key: CacheKey,
    /// For each input whose files were read, in the order of the vertex: the chains of its layers, base first.
    pub inputs: Vec<Vec<ChainId>>,
}

/// The result of a vertex: durable, immutable, found by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// The key it answers.
    pub key: CacheKey,
    /// The layer this vertex added on top of its root.
    pub layer: LayerInfo,
    /// The whole stack that the layer ends, for the search of a snapshot.
    pub chain: ChainId,
    /// When the step ended: milliseconds since 1970.
    pub created_ms: u64,
    /// How long it took: what losing the record costs.
    pub duration_ms: u64,
    /// The step's name at that time, for people.
    pub step: String,
}

/// A layer by its uncompressed identity, with the compressed forms that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Size of the uncompressed tar in bytes; 0 if not known (a base image that was never unpacked).
    pub size_bytes: u64,
    /// Blobs that hold this layer: plain, gzip, zstd. May be empty: a snapshot can stand in for them.
    pub forms: Vec<Descriptor>,
}

impl LayerInfo {
    /// What there is to say about its size: that of the tar, or, while nobody knows that, of a compressed form. Bytes.
    #[must_use]
    pub fn known_size_bytes(&self) -> u64 {
        let form = self.forms.first().map_or(0, |form| form.size);
        if self.size_bytes == 0 { form } else { self.size_bytes }
    }
}
