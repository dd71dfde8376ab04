//! Random trees under a stat cache: what is remembered never hides an edit, and digests differ exactly where trees do.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail the test as the tests do")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use builder::context::{WalkRequest, walk, walk_at};
use builder::tree::MergedTree;
use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Timestamp, Tree, TreeEntry};
use rustix::time::{ClockId, clock_gettime};
use testdata::trees::Trees;

const TREES: u64 = 200;
const EDITS: usize = 5;

/// A minute from now: every file is old enough to be believed.
fn later() -> Timestamp {
    Timestamp {
        seconds: clock_gettime(ClockId::Realtime).tv_sec + 60,
        nanoseconds: 0,
    }
}

/// The entries without what is in no key; a further name of a file is a file.
fn without_times(tree: &Tree) -> Vec<TreeEntry> {
    let plain = |entry: &TreeEntry| {
        let mut plain = entry.clone();
        plain.mtime = Timestamp::default();
        if let EntryKind::Hardlink { target } = &entry.kind {
            plain.kind = tree.get(target).unwrap().kind.clone();
        }
        plain
    };
    tree.entries().iter().map(plain).collect()
}

/// Walks `root` with and without a cache, which must agree.
fn walked(root: &Path, cache: &Path) -> Tree {
    let request = WalkRequest::default();
    let cached = walk_at(root, &request, Some(cache), later()).unwrap();
    let fresh = walk(root, &request, None).unwrap();
    assert_eq!(cached.tree, fresh.tree, "{}", root.display());
    fresh.tree
}

#[test]
fn no_edit_is_hidden_by_what_is_remembered_and_each_has_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let mut digests: HashMap<ContentDigest, Vec<TreeEntry>> = HashMap::new();
    for seed in 0..TREES {
        let (root, cache) = (folder.path().join("tree"), folder.path().join("cache"));
        let mut trees = Trees::new(seed);
        trees.make(&root);
        for _ in 0..EDITS {
            let tree = walked(&root, &cache);
            let entries = without_times(&tree);
            let digest = MergedTree::new(vec![Arc::new(tree)]).digest(&RelPath::root());
            let same = digests.entry(digest).or_insert_with(|| entries.clone());
            assert_eq!(*same, entries, "seed {seed}");
            trees.edit(&root);
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
    let mut different: Vec<&Vec<TreeEntry>> = digests.values().collect();
    let count = different.len();
    different.sort_by_key(|entries| format!("{entries:?}"));
    different.dedup();
    assert_eq!(different.len(), count, "equal trees with different digests");
    assert!(count > 300, "{count}");
}
