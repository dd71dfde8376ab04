//! Trees of build contexts that are kept in memory from build to build, so that a context which did not change is neither sent again
//! nor digested again.
//!
//! Whoever names a tree by its digest knows all that it says: the digest covers each file's. So naming one gives a client no
//! more than sending it would.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::digest::ContentDigest;
use proto::tree::{Tree, TreeEntry};
use proto::tree_nodes;

use crate::recent::Recent;
use crate::tree::MergedTree;

/// Entries of all trees together that are kept: some 25 MB.
const ENTRIES_KEPT: usize = 100_000;

/// The trees of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ContextTrees(Arc<Mutex<Recent<ContentDigest, Arc<MergedTree>>>>);

impl Default for ContextTrees {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Recent::new(ENTRIES_KEPT))))
    }
}

impl ContextTrees {
    /// The tree with this digest, if it is kept. It is the last to go then.
    #[must_use]
    pub fn get(&self, digest: &ContentDigest) -> Option<Arc<MergedTree>> {
        self.kept().get(digest)
    }

    /// What directories of any tree hold that has one of these digests; also an empty one, which every tree could have.
    #[must_use]
    pub fn nodes(&self, wanted: &[ContentDigest]) -> HashMap<ContentDigest, Vec<TreeEntry>> {
        let wanted: HashSet<&ContentDigest> = wanted.iter().collect();
        let trees: Vec<Arc<MergedTree>> = self.kept().values().cloned().collect();
        let empty = Tree::default();
        let trees = trees.iter().flat_map(|tree| tree.layers()).map(Arc::as_ref);
        let nodes = trees.chain([&empty]).filter_map(tree_nodes::nodes).flatten();
        let found = nodes
            .map(|node| (node.digest(), node))
            .filter(|(digest, _)| wanted.contains(digest));
        found
            .map(|(digest, node)| (digest, node.entries.into_iter().cloned().collect()))
            .collect()
    }

    /// Keeps a tree under its digest, and no more others than there is room for. One that is too large by itself is not kept.
    pub fn keep(&self, digest: ContentDigest, tree: &Arc<MergedTree>) {
        let entries = tree.layers().iter().map(|tree| tree.entries().len()).sum();
        self.kept().keep(digest, Arc::clone(tree), entries);
    }

    fn kept(&self) -> MutexGuard<'_, Recent<ContentDigest, Arc<MergedTree>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proto::tree::{EntryKind, RelPath, Timestamp};

    use super::*;

    fn tree(entries: usize) -> Arc<MergedTree> {
        let entry = |number: usize| TreeEntry {
            path: RelPath::clean(format!("{number:06}").as_bytes()),
            kind: EntryKind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        let entries = (0..entries).map(entry).collect();
        Arc::new(MergedTree::new(vec![Arc::new(Tree::new(entries))]))
    }

    #[test]
    fn trees_are_kept_until_others_need_the_room() {
        let trees = ContextTrees::default();
        let name = |name: &str| ContentDigest::of(name.as_bytes());
        let half = tree(ENTRIES_KEPT / 2);
        trees.keep(name("a"), &half);
        trees.keep(name("b"), &half);
        assert!(trees.get(&name("a")).is_some_and(|tree| Arc::ptr_eq(&tree, &half)));
        trees.keep(name("c"), &tree(1));
        // `b` was not asked for the longest.
        assert!(trees.get(&name("b")).is_none());
        assert!(trees.get(&name("a")).is_some() && trees.get(&name("c")).is_some());
        trees.keep(name("c"), &tree(1));
        assert!(trees.get(&name("a")).is_some());
        trees.keep(name("large"), &tree(ENTRIES_KEPT + 1));
        assert!(trees.get(&name("large")).is_none() && trees.get(&name("a")).is_some());
    }
}
