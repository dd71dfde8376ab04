//! What takes room in a store, one name for each, whatever it is.

use proto::digest::{ChainId, DiffId, Digest};
use proto::record::{CacheKey, CacheRecord, LayerInfo};
use std::collections::HashSet;

use crate::cache_mounts::MountName;
use crate::index::Used;
use crate::lease::Held;

/// Kinds of what a store holds, as users see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The result of a step.
    Record,
    /// A layer as a file, an image config, or a manifest.
    Blob,
    /// A layer that is unpacked.
    Snapshot,
    /// The names and digests of the files of a layer.
    Tree,
    /// A directory that steps keep.
    CacheMount,
    /// A git repository, as far as it was fetched.
    GitMirror,
    /// What a failed step left.
    FailedStep,
    /// A file with wrong bytes.
    Damaged,
}

impl Kind {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Blob => "blob",
            Self::Snapshot => "snapshot",
            Self::Tree => "tree",
            Self::CacheMount => "cache-mount",
            Self::GitMirror => "git-mirror",
            Self::FailedStep => "failed-step",
            Self::Damaged => "damaged",
        }
    }

    /// The row of [`crate::usage`] that it is counted in.
    pub(super) fn row(self) -> &'static str {
        match self {
            Self::Record => "records",
            Self::Blob => "layer blobs",
            Self::Snapshot => "snapshots",
            Self::Tree => "trees",
            Self::CacheMount => "cache mounts",
            Self::GitMirror => "git mirrors",
            Self::FailedStep => "failed steps",
            Self::Damaged => "damaged",
        }
    }

    /// The kinds behind a name: one of ours, or one that BuildKit uses, some of which are nothing here.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static [Self]> {
        Some(match name {
            "record" => &[Self::Record],
            "blob" => &[Self::Blob],
            "snapshot" => &[Self::Snapshot],
            "tree" => &[Self::Tree],
            "cache-mount" | "exec.cachemount" => &[Self::CacheMount],
            "git-mirror" | "source.git.checkout" => &[Self::GitMirror],
            "failed-step" => &[Self::FailedStep],
            "damaged" => &[Self::Damaged],
            "regular" => &[Self::Record, Self::Blob, Self::Snapshot, Self::Tree],
            "source.local" | "internal" | "frontend" => &[],
            _ => return None,
        })
    }
}

/// Something beside a record: records lead to most of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    Blob(Digest),
    Tree(DiffId),
    Forms(DiffId),
    Preimage(CacheKey),
    Snapshot(ChainId),
    CacheMount(MountName),
    Mirror(CacheKey),
}

impl Thing {
    /// What holds it; mirrors have locks of their own.
    pub(super) fn held(self) -> Option<Held> {
        Some(match self {
            Self::Blob(digest) => Held::Blob(digest),
            Self::Tree(diff_id) | Self::Forms(diff_id) => Held::Layer(diff_id),
            Self::Preimage(key) => Held::Record(key),
            Self::Snapshot(chain) => Held::Chain(chain),
            Self::CacheMount(name) => Held::CacheMount(name),
            Self::Mirror(_) => return None,
        })
    }

    /// What its use is noted as; mirrors note it themselves.
    pub(super) fn used(self) -> Option<Used> {
        Some(match self {
            Self::Blob(digest) => Used::Blob(digest),
            Self::Tree(diff_id) | Self::Forms(diff_id) => Used::Blob(diff_id.0),
            Self::Preimage(key) => Used::Record(key),
            Self::Snapshot(chain) => Used::Chain(chain),
            Self::CacheMount(name) => Used::CacheMount(name),
            Self::Mirror(_) => return None,
        })
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Blob(_) => Kind::Blob,
            Self::Tree(_) | Self::Forms(_) => Kind::Tree,
            Self::Preimage(_) => Kind::Record,
            Self::Snapshot(_) => Kind::Snapshot,
            Self::CacheMount(_) => Kind::CacheMount,
            Self::Mirror(_) => Kind::GitMirror,
        }
    }

    /// The row that it is counted in: files lie with others of another kind.
    pub(super) fn row(self) -> &'static str {
        match self {
            Self::Forms(_) => "records",
            other => other.kind().row(),
        }
    }

    pub(super) fn id(self) -> String {
        match self {
            Self::Blob(digest) => digest.to_string(),
            Self::Tree(diff_id) | Self::Forms(diff_id) => diff_id.to_string(),
            Self::Preimage(key) | Self::Mirror(key) => key.to_string(),
            Self::Snapshot(chain) => chain.to_string(),
            Self::CacheMount(name) => name.to_string(),
        }
    }
}

pub(super) fn things_of(record: &CacheRecord) -> Vec<Thing> {
    let mut things = things_of_layer(&record.layer);
    things.push(Thing::Preimage(record.key));
    things.push(Thing::Snapshot(record.chain));
    things
}

pub(super) fn things_of_layer(layer: &LayerInfo) -> Vec<Thing> {
    // A set first: one blob under two media types must not count twice.
    let blobs: HashSet<Digest> = layer.forms.iter().map(|form| form.digest).collect();
    let mut things: Vec<Thing> = blobs.into_iter().map(Thing::Blob).collect();
    things.extend([Thing::Tree(layer.diff_id), Thing::Forms(layer.diff_id)]);
    things
}
