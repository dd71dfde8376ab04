//! A tree, directory by directory: two sides that have nearly the same tree need to send only what differs.
//!
//! A *node* is what one directory holds itself, under its names alone, so a directory that moved is the node that it was. Its
//! digest is BLAKE3 over the ASCII bytes `rbuild tree node 1` and each entry as [`crate::tree_digest`] puts it. The nodes of a tree
//! stand in the order of their directories, that of the root first. Nothing of this is stored.

use crate::digest::ContentDigest;
use crate::tree::{EntryKind, RelPath, Tree, TreeEntry};
use crate::tree_digest::put_entry;

/// Entries of a tree that is put together: some millions, as many as other limits let through.
const MOST_ENTRIES: usize = 4 << 20;

/// What one directory holds, in order of the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// Where the directory is.
    pub directory: RelPath,
    /// The entries as they are in the tree.
    pub entries: Vec<&'a TreeEntry>,
}

impl Node<'_> {
    /// The digest of the node.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        let mut bytes = b"rbuild tree node 1".to_vec();
        for entry in &self.entries {
            put_entry(&mut bytes, entry.path.name().unwrap_or_default(), entry);
        }
        ContentDigest::of(&bytes)
    }
}

/// The nodes of `tree`; nothing for a tree with a path whose directory is not in it.
#[must_use]
pub fn nodes(tree: &Tree) -> Option<Vec<Node<'_>>> {
    let node = |directory| Node {
        directory,
        entries: Vec::new(),
    };
    let mut nodes = vec![node(RelPath::root())];
    // Positions of the directories on the way to the entry at hand.
    let mut open = vec![0];
    for entry in tree.entries() {
        let parent = entry.path.parent()?;
        while open.last().is_some_and(|at| nodes[*at].directory != parent) {
            open.pop();
        }
        nodes[*open.last()?].entries.push(entry);
        if matches!(entry.kind, EntryKind::Directory { .. }) {
            open.push(nodes.len());
            nodes.push(node(entry.path.clone()));
        }
    }
    Some(nodes)
}

/// Puts a tree together; paths of entries are taken for their last name. Nothing if these are not the nodes of one tree.
#[must_use]
pub fn assemble(nodes: &[Vec<&TreeEntry>]) -> Option<Vec<TreeEntry>> {
    let (first, mut rest) = nodes.split_first()?;
    let mut whole = Vec::new();
    let mut open = vec![(RelPath::root(), first.iter())];
    while let Some((directory, entries)) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let path = directory.child(entry.path.name()?);
        if whole.len() == MOST_ENTRIES {
            return None;
        }
        whole.push(TreeEntry {
            path: path.clone(),
            ..(*entry).clone()
        });
        if matches!(entry.kind, EntryKind::Directory { .. }) {
            let (node, others) = rest.split_first()?;
            rest = others;
            open.push((path, node.iter()));
        }
    }
    rest.is_empty().then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Timestamp;

    fn tree(paths: &[&str]) -> Tree {
        let entry = |path: &&str| TreeEntry {
            path: RelPath::clean(path.as_bytes()),
            kind: match path.ends_with('/') {
                true => EntryKind::Directory { opaque: false },
                false => EntryKind::Fifo,
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        Tree::new(paths.iter().map(entry).collect())
    }

    fn together(nodes: &[Node<'_>]) -> Option<Vec<TreeEntry>> {
        let entries: Vec<Vec<&TreeEntry>> = nodes.iter().map(|node| node.entries.clone()).collect();
        assemble(&entries)
    }

    #[test]
    fn the_nodes_of_a_tree_make_the_tree() {
        for paths in [
            &[][..],
            &["a"],
            &["a/", "b/", "c"],
            &["a/", "a/b/", "a/b/c/", "a/b/d", "a/z", "b/", "b/b/", "b/b/x"],
            &["a/", "a/x", "a.b", "a.c/", "a.c/x"],
        ] {
            let tree = tree(paths);
            let nodes = nodes(&tree).unwrap();
            let directories = paths.iter().filter(|path| path.ends_with('/')).count();
            assert_eq!(nodes.len(), directories + 1);
            assert_eq!(together(&nodes).unwrap(), tree.entries(), "{paths:?}");
        }
        assert_eq!(nodes(&tree(&["a/b"])), None, "the directory is missing");
    }

    #[test]
    fn a_change_touches_the_node_of_its_directory_alone() {
        let digests = |paths: &[&str]| -> Vec<ContentDigest> {
            let tree = tree(paths);
            nodes(&tree).unwrap().iter().map(Node::digest).collect()
        };
        let before = digests(&["a/", "a/x", "b/", "b/c/", "b/c/y"]);
        let after = digests(&["a/", "a/x", "b/", "b/c/", "b/c/z"]);
        assert_eq!(before[..3], after[..3]);
        assert_ne!(before[3], after[3]);
        let moved = digests(&["a/", "a/x", "b/", "b/d/", "b/d/y"]);
        assert_eq!(before[3], moved[3]);
        assert_ne!(before[2], moved[2]);
    }

    #[test]
    fn nodes_of_no_tree_make_none() {
        let tree = tree(&["a/", "a/b/", "a/b/c"]);
        let nodes = nodes(&tree).unwrap();
        assert_eq!(together(&nodes[..2]), None);
        assert_eq!(together(&[nodes.clone(), nodes[2..].to_vec()].concat()), None);
        assert_eq!(together(&[]), None);
        // Half a kilobyte of nodes that say themselves twice each must not become a tree of millions.
        let bushy = |count: usize| (0..count).map(|_| nodes[0].entries[0]).collect::<Vec<_>>();
        let many = vec![bushy(3000); 3000];
        assert_eq!(assemble(&many), None);
    }
}
