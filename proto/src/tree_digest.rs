//! One digest for all that a tree says, so that two sides which both have a tree need not send it.
//!
//! It is BLAKE3 over the ASCII bytes `rbuild whole tree 1` and each entry in order: its path, a byte for the kind, mode, owner and group
//! in 4 bytes each, seconds in 8 and nanoseconds in 4, the number of extended attributes in 4 and each of them as two texts, and
//! what the kind has: size in 8 bytes and digest of a file, one byte for an opaque directory, the target of a link, the numbers of a
//! device in 4 bytes each. Numbers are little-endian, a text is its length in 8 bytes and its bytes.
//!
//! It is never stored and no part of a key: a change only costs builds between two versions a tree that is sent.

use crate::digest::ContentDigest;
use crate::tree::{EntryKind, Tree, TreeEntry};

/// The digest of everything that `tree` says, times included.
#[must_use]
pub fn digest(tree: &Tree) -> ContentDigest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"rbuild whole tree 1");
    // Larger pieces than one entry: hashing is several times faster then.
    let mut bytes = Vec::with_capacity(PIECE_BYTES * 2);
    for entry in tree.entries() {
        put_entry(&mut bytes, entry.path.as_bytes(), entry);
        if bytes.len() >= PIECE_BYTES {
            hasher.update(&bytes);
            bytes.clear();
        }
    }
    hasher.update(&bytes);
    hasher.finalize().into()
}

const PIECE_BYTES: usize = 32 << 10;

/// An entry under `path`, whatever it is called itself.
pub(crate) fn put_entry(bytes: &mut Vec<u8>, path: &[u8], entry: &TreeEntry) {
    put_text(bytes, path);
    bytes.push(entry.kind.letter());
    put_numbers(bytes, &[entry.mode, entry.uid, entry.gid]);
    bytes.extend_from_slice(&entry.mtime.seconds.to_le_bytes());
    // A number that does not fit could not be in memory.
    let xattrs = u32::try_from(entry.xattrs.len()).unwrap_or(u32::MAX);
    put_numbers(bytes, &[entry.mtime.nanoseconds, xattrs]);
    for (name, value) in &entry.xattrs {
        put_text(bytes, name);
        put_text(bytes, value);
    }
    match &entry.kind {
        EntryKind::File { size, content } => {
            bytes.extend_from_slice(&size.to_le_bytes());
            bytes.extend_from_slice(content.as_bytes());
        }
        EntryKind::Directory { opaque } => bytes.push(u8::from(*opaque)),
        EntryKind::Symlink { target } => put_text(bytes, target),
        EntryKind::Hardlink { target } => put_text(bytes, target.as_bytes()),
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            put_numbers(bytes, &[*major, *minor]);
        }
        EntryKind::Fifo | EntryKind::Whiteout => {}
    }
}

fn put_numbers(bytes: &mut Vec<u8>, numbers: &[u32]) {
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tree::{RelPath, Timestamp};

    #[test]
    fn whatever_a_tree_says_changes_its_digest() {
        let with = |change: fn(&mut TreeEntry)| {
            let mut entry = TreeEntry {
                path: RelPath::clean(b"f"),
                kind: EntryKind::File {
                    size: 1,
                    content: ContentDigest::of(b"x"),
                },
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: Timestamp::default(),
                xattrs: Vec::new(),
            };
            change(&mut entry);
            digest(&Tree::new(vec![entry]))
        };
        let changes: [fn(&mut TreeEntry); 20] = [
            |_| {},
            |e| e.path = RelPath::clean(b"g"),
            |e| e.mode = 0o600,
            |e| e.uid = 1,
            |e| e.gid = 1,
            |e| e.mtime.seconds = -1,
            |e| e.mtime.nanoseconds = 1,
            |e| e.xattrs.push((b"a".to_vec(), b"b".to_vec())),
            |e| e.xattrs.push((b"ab".to_vec(), Vec::new())),
            |e| {
                let content = ContentDigest::of(b"x");
                e.kind = EntryKind::File { size: 2, content };
            },
            |e| {
                let content = ContentDigest::of(b"y");
                e.kind = EntryKind::File { size: 1, content };
            },
            |e| e.kind = EntryKind::Directory { opaque: false },
            |e| e.kind = EntryKind::Directory { opaque: true },
            |e| e.kind = EntryKind::Symlink { target: b"t".to_vec() },
            |e| e.kind = EntryKind::Symlink { target: b"u".to_vec() },
            |e| {
                let target = RelPath::clean(b"t");
                e.kind = EntryKind::Hardlink { target };
            },
            |e| e.kind = EntryKind::CharDevice { major: 1, minor: 2 },
            |e| e.kind = EntryKind::BlockDevice { major: 1, minor: 2 },
            |e| e.kind = EntryKind::Fifo,
            |e| e.kind = EntryKind::Whiteout,
        ];
        let digests: BTreeSet<ContentDigest> = changes.into_iter().map(with).collect();
        assert_eq!(digests.len(), changes.len());
    }

    #[test]
    fn a_large_tree_is_digested_in_pieces_and_as_one() {
        let entry = |number: u32| TreeEntry {
            path: RelPath::clean(format!("{number:05}").as_bytes()),
            kind: EntryKind::Fifo,
            mode: number & 0o777,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        let entries: Vec<TreeEntry> = (0..2000).map(entry).collect();
        let mut bytes = b"rbuild whole tree 1".to_vec();
        entries
            .iter()
            .for_each(|entry| put_entry(&mut bytes, entry.path.as_bytes(), entry));
        assert!(bytes.len() > PIECE_BYTES);
        assert_eq!(digest(&Tree::new(entries)), ContentDigest::of(&bytes));
    }
}
