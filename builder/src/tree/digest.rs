//! One digest for all that a `COPY` or a bind mount can see of a tree: what of files enters a key.
//!
//! Like a directory on disk: each has a digest over what it holds, so a subtree that two selections have in common is digested
//! once, see [`MergedTree::digest`](super::MergedTree::digest). Nothing of it depends on where the tree hangs, on the pattern that
//! led to it, on times, or on how layers are cut.
//!
//! # The bytes
//!
//! The digest of a directory is BLAKE3 over the ASCII bytes `rbuild tree 1` and what it holds, in byte order of the names. Numbers are
//! little-endian, a *text* is its length in 8 bytes and its bytes.
//!
//! | part | bytes |
//! |---|---|
//! | name | text |
//! | kind | 1: `f` file, `d` directory, `l` symbolic link, `c` and `b` devices, `p` pipe, `h` a hard link whose file is not there, `w` removed, `i` a directory that nothing says more of than what it holds |
//! | mode, owner, group | 4 each; 0 for `i` |
//! | number of extended attributes that count | 4; see [`counts`] |
//! | each of them, in byte order of the names | name and value, a text each |
//! | of `f` | 32: BLAKE3 of its bytes |
//! | of `d` and `i` | 32: the digest of that directory |
//! | of `l` and `h` | the target, a text |
//! | of `c` and `b` | major and minor number, 4 each |
//!
//! The digest of a root is that of a directory which holds the root alone, under the empty name; the root of a filesystem without an
//! entry is `i`. Further names of a file are files. No two trees share bytes: all parts have a fixed length or say theirs.

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, TreeEntry};

/// Beginning of the bytes of a directory: raise the number with every change, and `proto::canonical::SCHEMA` with it.
const VERSION: &[u8] = b"rbuild tree 1";

/// Digests what comes in order of the paths, parents first.
#[derive(Debug)]
pub struct TreeDigester {
    /// Path of the innermost directory that is open, below the root.
    path: Vec<u8>,
    /// Directories that may hold what comes next, outermost first. The first holds the root.
    open: Vec<Open>,
    /// Directories whose end has come, with the digest of what they hold.
    closed: Vec<(RelPath, ContentDigest)>,
}

/// A directory, or a root that is none, whose end has not come yet.
#[derive(Debug)]
struct Open {
    /// Length of the path of the directory that holds it.
    parent_bytes: usize,
    /// Its own entry, without what it holds.
    head: Vec<u8>,
    /// What it holds so far.
    held: Vec<u8>,
    is_directory: bool,
}

impl Open {
    fn new(parent_bytes: usize, head: Vec<u8>, is_directory: bool) -> Self {
        Self {
            parent_bytes,
            head,
            held: VERSION.to_vec(),
            is_directory,
        }
    }
}

impl TreeDigester {
    /// Begins with the entry of the root; its kind is that of the file if it is a hard link. Nothing for the root of a filesystem.
    #[must_use]
    pub fn new(root: Option<(&TreeEntry, &EntryKind)>) -> Self {
        let is_directory = root.is_none_or(|(_, kind)| matches!(kind, EntryKind::Directory { .. }));
        Self {
            path: Vec::new(),
            open: vec![Open::new(0, head_of(root), is_directory)],
            closed: Vec::new(),
        }
    }

    /// The next entry, at `path` below the root.
    pub fn add(&mut self, path: &RelPath, entry: &TreeEntry, kind: &EntryKind) {
        let name = self.open_parents(path.as_bytes());
        let mut bytes = Vec::new();
        if matches!(kind, EntryKind::Directory { .. }) {
            put_entry(&mut bytes, name, entry, kind);
            self.enter(path.as_bytes(), bytes);
        } else {
            put_entry(self.innermost(), name, entry, kind);
        }
    }

    /// As [`TreeDigester::add`], for a directory whose digest is known: nothing that it holds is to come.
    pub fn add_whole(&mut self, path: &RelPath, entry: &TreeEntry, kind: &EntryKind, held: &ContentDigest) {
        let name = self.open_parents(path.as_bytes());
        let innermost = self.innermost();
        put_entry(innermost, name, entry, kind);
        innermost.extend_from_slice(held.as_bytes());
    }

    /// The digest of the root, and of every directory that was added entry by entry: the paths are below the root, which is among
    /// them if it is a directory.
    #[must_use]
    pub fn finish(mut self) -> (ContentDigest, Vec<(RelPath, ContentDigest)>) {
        while self.open.len() > 1 {
            self.close();
        }
        let Some(root) = self.open.pop() else {
            return (ContentDigest::of(VERSION), self.closed);
        };
        if !root.is_directory {
            return (of_root(root.head, None), self.closed);
        }
        let held = ContentDigest::of(&root.held);
        self.closed.push((RelPath::root(), held));
        (of_root(root.head, Some(&held)), self.closed)
    }

    /// What the directory that is open innermost holds so far.
    fn innermost(&mut self) -> &mut Vec<u8> {
        let last = self.open.len() - 1;
        &mut self.open[last].held
    }

    /// Closes what does not hold `path` and opens what is missing on the way to it. The rest is its name.
    fn open_parents<'p>(&mut self, path: &'p [u8]) -> &'p [u8] {
        while self.open.len() > 1 && !self.holds(path) {
            self.close();
        }
        let from = |digester: &Self| match digester.path.len() {
            0 => 0,
            length => length + 1,
        };
        let mut start = from(self);
        while let Some(length) = path[start..].iter().position(|byte| *byte == b'/') {
            let mut head = Vec::new();
            put_implicit(&mut head, &path[start..start + length]);
            self.enter(&path[..start + length], head);
            start = from(self);
        }
        &path[start..]
    }

    /// Whether the innermost directory is above `path`.
    fn holds(&self, path: &[u8]) -> bool {
        let below = path.strip_prefix(self.path.as_slice());
        below.is_some_and(|below| self.path.is_empty() || below.first() == Some(&b'/'))
    }

    fn enter(&mut self, path: &[u8], head: Vec<u8>) {
        let directory = Open::new(self.path.len(), head, true);
        self.open.push(directory);
        self.path.clear();
        self.path.extend_from_slice(path);
    }

    fn close(&mut self) {
        let Some(directory) = self.open.pop() else { return };
        let held = ContentDigest::of(&directory.held);
        let innermost = self.innermost();
        innermost.extend_from_slice(&directory.head);
        innermost.extend_from_slice(held.as_bytes());
        self.closed.push((RelPath::clean(&self.path), held));
        self.path.truncate(directory.parent_bytes);
    }
}

/// The digest of a root whose entry is `root`, given that of what it holds.
#[must_use]
pub fn of_whole(root: Option<(&TreeEntry, &EntryKind)>, held: &ContentDigest) -> ContentDigest {
    of_root(head_of(root), Some(held))
}

fn of_root(head: Vec<u8>, held: Option<&ContentDigest>) -> ContentDigest {
    let held = held.map(|held| held.as_bytes().as_slice()).unwrap_or_default();
    ContentDigest::of(&[VERSION, &head, held].concat())
}

fn head_of(root: Option<(&TreeEntry, &EntryKind)>) -> Vec<u8> {
    let mut head = Vec::new();
    match root {
        None => put_implicit(&mut head, b""),
        Some((entry, kind)) => put_entry(&mut head, b"", entry, kind),
    }
    head
}

/// All of an entry but, for a directory, the digest of what it holds.
fn put_entry(bytes: &mut Vec<u8>, name: &[u8], entry: &TreeEntry, kind: &EntryKind) {
    put_text(bytes, name);
    bytes.push(kind.letter());
    for number in [entry.mode, entry.uid, entry.gid] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    put_xattrs(bytes, &entry.xattrs);
    match kind {
        EntryKind::File { content, .. } => bytes.extend_from_slice(content.as_bytes()),
        EntryKind::Symlink { target } => put_text(bytes, target),
        EntryKind::Hardlink { target } => put_text(bytes, target.as_bytes()),
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            bytes.extend_from_slice(&major.to_le_bytes());
            bytes.extend_from_slice(&minor.to_le_bytes());
        }
        EntryKind::Directory { .. } | EntryKind::Fifo | EntryKind::Whiteout => {}
    }
}

fn put_xattrs(bytes: &mut Vec<u8>, xattrs: &[(Vec<u8>, Vec<u8>)]) {
    let at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    let mut number: u32 = 0;
    for (name, value) in xattrs.iter().filter(|(name, _)| counts(name)) {
        put_text(bytes, name);
        put_text(bytes, value);
        number += 1;
    }
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// A directory on the way to something, which no layer has an entry for.
fn put_implicit(bytes: &mut Vec<u8>, name: &[u8]) {
    put_text(bytes, name);
    bytes.push(b'i');
    bytes.extend_from_slice(&[0; 16]);
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text);
}

/// Whether an extended attribute is part of a file: `security.*` and `system.*` belong to the machine, but file capabilities do.
#[must_use]
pub fn counts(name: &[u8]) -> bool {
    name == b"security.capability" || !(name.starts_with(b"security.") || name.starts_with(b"system."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proto::tree::Timestamp;

    use super::*;

    fn entry(path: &str, kind: EntryKind) -> TreeEntry {
        TreeEntry {
            path: RelPath::clean(path.as_bytes()),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    fn file(path: &str, content: &str) -> TreeEntry {
        let content = ContentDigest::of(content.as_bytes());
        entry(path, EntryKind::File { size: 0, content })
    }

    fn directory(path: &str) -> TreeEntry {
        entry(path, EntryKind::Directory { opaque: false })
    }

    fn link(path: &str, target: &str) -> TreeEntry {
        let target = target.as_bytes().to_vec();
        entry(path, EntryKind::Symlink { target })
    }

    fn digest(root: Option<&TreeEntry>, below: &[TreeEntry]) -> ContentDigest {
        let mut digester = TreeDigester::new(root.map(|root| (root, &root.kind)));
        for entry in below {
            digester.add(&entry.path, entry, &entry.kind);
        }
        digester.finish().0
    }

    #[test]
    fn golden_digests() {
        // A change here is a change of the bytes above: raise the version and the schema of keys.
        assert_eq!(
            digest(None, &[]).hex(),
            "289a94819f8663a9eb7cb31d290d2974f7ba6295e52326a96a671d1671b336a1"
        );
        let root = directory("");
        let below = [directory("a"), file("a/f", "x"), link("l", "a")];
        assert_eq!(
            digest(Some(&root), &below).hex(),
            "779145ccae2dc193057d843857c7e0e9b36ad0cb25974658de4aa5bc0ff5470f"
        );
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let name = |name: &str| [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
        let numbers = |mode: u32| [&mode.to_le_bytes()[..], &[0; 12]].concat();
        let held = |bytes: Vec<u8>| ContentDigest::of(&[b"rbuild tree 1".to_vec(), bytes].concat());
        let file_bytes = [
            name("f"),
            b"f".to_vec(),
            numbers(0o644),
            ContentDigest::of(b"x").as_bytes().to_vec(),
        ];
        let below = held(file_bytes.concat());
        let root_bytes = [name(""), b"d".to_vec(), numbers(0o644), below.as_bytes().to_vec()];
        let root = directory("");
        assert_eq!(digest(Some(&root), &[file("f", "x")]), held(root_bytes.concat()));
    }

    #[test]
    fn each_part_of_a_tree_changes_the_digest() {
        let with = |change: fn(&mut TreeEntry)| {
            let mut changed = file("d/f", "x");
            change(&mut changed);
            vec![directory("d"), changed]
        };
        let capability: fn(&mut TreeEntry) = |f| f.xattrs.push((b"security.capability".to_vec(), vec![1]));
        let trees = [
            vec![],
            vec![directory("d")],
            vec![directory("e")],
            vec![file("d/f", "x")],
            with(|_| {}),
            with(|f| f.mode = 0o600),
            with(|f| f.uid = 1),
            with(|f| f.gid = 1),
            with(|f| f.xattrs.push((b"user.a".to_vec(), vec![]))),
            with(|f| f.xattrs.push((b"user.a".to_vec(), vec![0]))),
            with(capability),
            with(|f| f.path = RelPath::clean(b"d/g")),
            with(|f| f.path = RelPath::clean(b"f")),
            vec![directory("d"), file("d/f", "y")],
            vec![directory("d"), link("d/f", "x")],
            vec![directory("d"), link("d/f", "y")],
            vec![directory("d"), directory("d/f")],
            vec![directory("d"), entry("d/f", EntryKind::Fifo)],
            vec![
                directory("d"),
                entry("d/f", EntryKind::CharDevice { major: 1, minor: 2 }),
            ],
            vec![
                directory("d"),
                entry("d/f", EntryKind::CharDevice { major: 2, minor: 1 }),
            ],
            vec![
                directory("d"),
                entry("d/f", EntryKind::BlockDevice { major: 1, minor: 2 }),
            ],
        ];
        let root = directory("");
        let digests = trees
            .iter()
            .flat_map(|tree| [digest(None, tree), digest(Some(&root), tree)]);
        let digests: BTreeSet<ContentDigest> = digests.collect();
        assert_eq!(digests.len(), 2 * trees.len());
    }

    #[test]
    fn times_and_attributes_of_the_machine_do_not_change_the_digest() {
        let mut other = file("f", "x");
        other.mtime.seconds = 7;
        other.xattrs.push((b"security.selinux".to_vec(), vec![1]));
        assert_eq!(digest(None, &[file("f", "x")]), digest(None, &[other]));
    }

    #[test]
    fn a_directory_is_digested_alike_wherever_it_hangs() {
        let below = |prefix: &str| [directory(&format!("{prefix}d")), file(&format!("{prefix}d/f"), "x")];
        let mut digester = TreeDigester::new(None);
        for entry in [vec![directory("a")], below("a/").to_vec(), below("").to_vec()].concat() {
            digester.add(&entry.path, &entry, &entry.kind);
        }
        let (root, directories) = digester.finish();
        let of = |path: &str| {
            let path = RelPath::clean(path.as_bytes());
            directories.iter().find(|(at, _)| *at == path).map(|(_, held)| *held)
        };
        assert_eq!(of("a/d"), of("d"));
        assert_ne!(of("a"), of("d"));
        let mut again = TreeDigester::new(None);
        let (a, d) = (directory("a"), directory("d"));
        again.add_whole(&a.path, &a, &a.kind, &of("a").unwrap());
        again.add_whole(&d.path, &d, &d.kind, &of("d").unwrap());
        assert_eq!(again.finish().0, root);
        assert_eq!(of_whole(None, &of("").unwrap()), root);
    }
}
