//! Trees of layers that are kept in memory, up to so many bytes: one of a large base image weighs as much as thousands of others.

use std::sync::Arc;

use proto::digest::DiffId;
use proto::tree::{EntryKind, Tree, TreeEntry};

use crate::recent::Recent;

/// Most bytes of all trees together; more are read from the store again when they are needed.
const LIMIT_BYTES: usize = 8 << 20;
/// What an allocation costs beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// The trees that were used last.
#[derive(Debug)]
pub(super) struct TreeCache(Recent<DiffId, Arc<Tree>>);

impl Default for TreeCache {
    fn default() -> Self {
        Self(Recent::new(LIMIT_BYTES))
    }
}

impl TreeCache {
    /// The tree of a layer, if it is kept. From now on it is the one that was used last.
    pub(super) fn get(&mut self, diff_id: DiffId) -> Option<Arc<Tree>> {
        self.0.get(&diff_id)
    }

    /// Keeps a tree, unless it is too large for itself; others go for it.
    pub(super) fn put(&mut self, diff_id: DiffId, tree: &Arc<Tree>) {
        self.0.keep(diff_id, Arc::clone(tree), weight(tree));
    }
}

/// About how much memory a tree takes.
fn weight(tree: &Tree) -> usize {
    tree.entries().iter().map(entry_weight).sum::<usize>() + size_of::<Tree>()
}

fn entry_weight(entry: &TreeEntry) -> usize {
    let target = match &entry.kind {
        EntryKind::Symlink { target } => target.len() + ALLOCATION_BYTES,
        EntryKind::Hardlink { target } => target.as_bytes().len() + ALLOCATION_BYTES,
        _ => 0,
    };
    let xattrs = entry.xattrs.iter().map(|(name, value)| name.len() + value.len());
    let xattrs: usize = xattrs
        .map(|bytes| bytes + 2 * (ALLOCATION_BYTES + size_of::<Vec<u8>>()))
        .sum();
    size_of::<TreeEntry>() + entry.path.as_bytes().len() + ALLOCATION_BYTES + target + xattrs
}

#[cfg(test)]
mod tests {
    use proto::digest::Digest;
    use proto::tree::{RelPath, Timestamp};

    use super::*;

    /// A tree of about so many bytes.
    fn tree(bytes: usize) -> Arc<Tree> {
        Arc::new(Tree::new(vec![TreeEntry {
            path: RelPath::clean(&vec![b'x'; bytes]),
            kind: EntryKind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }]))
    }

    fn name(number: u8) -> DiffId {
        DiffId(Digest::of(&[number]))
    }

    #[test]
    fn bytes_are_counted_and_the_longest_unused_goes_first() {
        let mut cache = TreeCache::default();
        let third = LIMIT_BYTES / 3 - 1000;
        for number in 0..3 {
            cache.put(name(number), &tree(third));
        }
        assert!(cache.get(name(0)).is_some());
        cache.put(name(3), &tree(third));
        assert!(cache.get(name(1)).is_none(), "longest unused");
        assert!([0, 2, 3].iter().all(|number| cache.get(name(*number)).is_some()));
        cache.put(name(4), &tree(LIMIT_BYTES));
        assert!(cache.get(name(4)).is_none(), "too large to be kept");
        for number in 10..200 {
            cache.put(name(number), &tree(1000));
        }
        assert!(
            (10..200).all(|number| cache.get(name(number)).is_some()),
            "small ones have no limit of number"
        );
        let all: usize = cache.0.values().map(|tree| weight(tree)).sum();
        assert!(all <= LIMIT_BYTES);
    }
}
