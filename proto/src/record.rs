//! Keys, the records they lead to, and what explains a miss.

use std::fmt;

use crate::digest::{ChainId, ContentDigest, DiffId};
use crate::oci::Descriptor;

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
}

/// One named part of a key: `arg 2`, `env PATH`, `file src/main.c`, `input root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Unique within a preimage.
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

/// Why a step ran although a cache exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// No earlier build had this step.
    NeverSeen,
    /// The user asked for it.
    NoCache,
    /// The text of the instruction is another one.
    InstructionChanged {
        /// What it was.
        old: String,
        /// What it is.
        new: String,
    },
    /// A build argument or environment variable has another value, is new, or is gone.
    VariableChanged {
        /// Its name.
        name: String,
    },
    /// The base image has other layers.
    BaseImageChanged {
        /// Its reference.
        reference: String,
    },
    /// Files that are copied or mounted differ: up to three of them, and how many more.
    FilesChanged {
        /// Each with what happened to it: `changed`, `added`, `removed`, `mode or owner changed`.
        files: Vec<(String, String)>,
        /// Further files beyond those named.
        more: u64,
    },
    /// An earlier step of the same stage ran, so this one had to.
    ParentRan {
        /// Its name.
        step: String,
    },
    /// Something else in the key is different.
    OptionChanged {
        /// Which part of the key.
        name: String,
    },
    /// The record was there, its bytes were collected.
    Evicted,
    /// The record was there, its bytes did not match their digest and were set aside.
    Damaged,
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverSeen => f.write_str("never built before"),
            Self::NoCache => f.write_str("--no-cache"),
            Self::InstructionChanged { old, new } => write!(f, "instruction changed: `{old}` → `{new}`"),
            Self::VariableChanged { name } => write!(f, "`{name}` has another value"),
            Self::BaseImageChanged { reference } => write!(f, "base image `{reference}` has other layers"),
            Self::FilesChanged { files, more } => {
                for (index, (path, what)) in files.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}`{path}` {what}")?;
                }
                if *more > 0 {
                    write!(f, " and {more} more")
                } else {
                    Ok(())
                }
            }
            Self::ParentRan { step } => write!(f, "an earlier step ran: {step}"),
            Self::OptionChanged { name } => write!(f, "{name} changed"),
            Self::Evicted => f.write_str("its result was collected"),
            Self::Damaged => f.write_str("its result was damaged and set aside"),
        }
    }
}
