//! Contents of stores, told apart by a name.

use proto::digest::{ChainId, ContentDigest, DiffId, Digest};
use proto::oci::{Descriptor, media_type};
use proto::record::{Alias, CacheKey, CacheRecord, LayerInfo};
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};

/// The layer whose bytes are its name.
pub(crate) fn layer(name: &str) -> DiffId {
    DiffId(Digest::of(name.as_bytes()))
}

/// A key that nobody else has.
pub(crate) fn key(name: &str) -> CacheKey {
    CacheKey(ContentDigest::of(name.as_bytes()))
}

/// What the layer holds: one directory.
pub(crate) fn tree(name: &str) -> Tree {
    Tree::new(vec![TreeEntry {
        path: RelPath::clean(name.as_bytes()),
        kind: EntryKind::Directory { opaque: false },
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    }])
}

/// The record of a step that made the layer.
pub(crate) fn record(name: &str) -> CacheRecord {
    let diff_id = layer(name);
    CacheRecord {
        key: key(name),
        layer: LayerInfo {
            diff_id,
            size_bytes: name.len() as u64,
            forms: vec![Descriptor::new(media_type::LAYER, diff_id.0, name.len() as u64)],
        },
        chain: ChainId(diff_id.0),
        created_ms: 1,
        duration_ms: 2,
        step: name.to_owned(),
    }
}

/// Where the layer was found under another key.
pub(crate) fn alias(name: &str) -> Alias {
    Alias {
        key: key(name),
        inputs: vec![vec![record(name).chain]],
    }
}
