//! File trees as metadata: what a layer changes, what a build context holds.
//!
//! A tree knows everything about its files but their bytes, and of these the BLAKE3 digest. Keys of `COPY` are computed from
//! trees alone, so no layer is fetched or mounted to learn that nothing changed.

use std::cmp::Ordering;
use std::fmt;

use crate::digest::ContentDigest;

/// A path below a root: components joined by `/`, bytes as on disk. The root itself is the empty path.
///
/// No component is empty, `.` or `..`, and none has a NUL, so joining it to a directory descriptor cannot leave the root
/// (symlinks apart). Ordered by components: `a`, `a/b`, `a.b`; a directory comes directly before what it holds.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Vec<u8>);

/// Why bytes are no [`RelPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is `..`.
    #[error("`{0}` has a `..` component")]
    Parent(String),
    /// There is a NUL byte.
    #[error("`{0}` has a NUL byte")]
    Nul(String),
}

impl RelPath {
    /// The root.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Parses a path as archives spell it: leading `/` and `./`, empty and `.` components are dropped.
    ///
    /// # Errors
    /// `..` components and NUL bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        let shown = || String::from_utf8_lossy(bytes).escape_debug().to_string();
        if bytes.contains(&0) {
            return Err(PathError::Nul(shown()));
        }
        let mut path = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&b| b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(PathError::Parent(shown())),
                _ => push(&mut path, component),
            }
        }
        Ok(Self(path))
    }

    /// Like [`RelPath::parse`], but `..` goes up and stops at the root, as a chrooted process sees it.
    #[must_use]
    pub fn clean(bytes: &[u8]) -> Self {
        let mut path = Vec::with_capacity(bytes.len());
        for component in bytes.split(|&b| b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    let end = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    path.truncate(end);
                }
                _ => push(&mut path, component),
            }
        }
        Self(path)
    }

    /// The path without leading `/`; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components from the root downwards.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|component| !component.is_empty())
    }

    /// The last component; nothing for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory that holds this path; nothing for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// `self` and `below` as one path.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        if below.is_root() {
            return self.clone();
        }
        self.child(&below.0)
    }

    /// The path of what is called `name` in this directory. `name` is clean: what listing a directory gives, but `.` and `..`.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        push(&mut path, name);
        Self(path)
    }

    /// `bytes`, if they are already spelled as a path is kept: what comes from a wire or a disk is taken as it is or not at all.
    ///
    /// # Errors
    /// The bytes, if they are not.
    pub fn exactly(bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        let good = |component: &[u8]| !matches!(component, b"" | b"." | b"..");
        let clean = bytes.is_empty() || bytes.split(|&b| b == b'/').all(good);
        match clean && !bytes.contains(&0) {
            true => Ok(Self(bytes)),
            false => Err(bytes),
        }
    }

    /// Whether `self` is `directory` or lies below it.
    #[must_use]
    pub fn is_inside(&self, directory: &Self) -> bool {
        if directory.is_root() {
            return true;
        }
        let rest = self.0.strip_prefix(directory.0.as_slice());
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }

    /// What is left of `self` below `directory`, or nothing if it is not inside. A directory is inside itself.
    #[must_use]
    pub fn below(&self, directory: &Self) -> Option<Self> {
        if directory.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(directory.0.as_slice())?;
        match rest.first() {
            None => Some(Self::root()),
            Some(b'/') => Some(Self(rest[1..].to_vec())),
            Some(_) => None,
        }
    }
}

fn push(path: &mut Vec<u8>, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // As if `/` were the smallest byte: then byte order is component order, without splitting.
        let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
        let at = common_prefix(&self.0, &other.0);
        match (self.0.get(at), other.0.get(at)) {
            (Some(own), Some(others)) => rank(*own).cmp(&rank(*others)),
            _ => self.0.len().cmp(&other.0.len()),
        }
    }
}

/// How many bytes two paths begin with alike. Trees are sorted and searched by paths that share their directories, so the equal
/// part is skipped in larger pieces.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (a_pieces, b_pieces) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let pieces = a_pieces.iter().zip(b_pieces).take_while(|(a, b)| a == b).count();
    let skipped = pieces * 8;
    let rest = a[skipped..].iter().zip(&b[skipped..]);
    skipped + rest.take_while(|(a, b)| a == b).count()
}

impl fmt::Display for RelPath {
    /// Control characters and invalid UTF-8 are escaped: names come from strangers and go to terminals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(f, "{}", character.escape_default())?
                } else {
                    write!(f, "{character}")?
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

/// A point in time of a file: seconds since 1970, possibly before, and nanoseconds after them (below 1,000,000,000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Number of bytes.
        size: u64,
        /// BLAKE3 of the bytes.
        content: ContentDigest,
    },
    /// A directory. `opaque` means: nothing of it in the layers below is visible.
    Directory {
        /// Always false in a build context.
        opaque: bool,
    },
    /// A symbolic link, its target verbatim.
    Symlink {
        /// Target bytes, never judged.
        target: Vec<u8>,
    },
    /// A further name of a regular file earlier in the same tree.
    Hardlink {
        /// The file's first path; its entry is a [`EntryKind::File`].
        target: RelPath,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// "Removed": hides the path of the layers below. Mode, owner and time mean nothing.
    Whiteout,
}

impl EntryKind {
    /// The letter of the kind, in everything that is digested.
    #[must_use]
    pub fn letter(&self) -> u8 {
        match self {
            Self::File { .. } => b'f',
            Self::Directory { .. } => b'd',
            Self::Symlink { .. } => b'l',
            Self::Hardlink { .. } => b'h',
            Self::CharDevice { .. } => b'c',
            Self::BlockDevice { .. } => b'b',
            Self::Fifo => b'p',
            Self::Whiteout => b'w',
        }
    }
}

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TreeEntry {
    /// Where it is.
    pub path: RelPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes in byte order of their names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Entries in order of their paths, each path once, parents before what they hold.
///
/// The tree of a *layer* holds what the layer says, its parent directories as far as the layer names them. The tree of a
/// *context* holds every directory on the way to a file; it has no whiteouts, no opaque directories, and owner 0:0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    entries: Vec<TreeEntry>,
}

impl Tree {
    /// Sorts `entries`; of several with one path the last one wins, as it does when an archive is unpacked.
    #[must_use]
    pub fn new(mut entries: Vec<TreeEntry>) -> Self {
        if !entries.is_sorted_by(|a, b| a.path < b.path) {
            entries.reverse();
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            entries.dedup_by(|later, kept| later.path == kept.path);
        }
        Self { entries }
    }

    /// All entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// The entry at `path`.
    #[must_use]
    pub fn get(&self, path: &RelPath) -> Option<&TreeEntry> {
        let at = self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()?;
        Some(&self.entries[at])
    }

    /// `path` itself if it has an entry, and everything below it: a contiguous run, thanks to the order.
    #[must_use]
    pub fn subtree(&self, path: &RelPath) -> &[TreeEntry] {
        let start = self.entries.partition_point(|entry| entry.path < *path);
        let length = self.entries[start..].partition_point(|entry| entry.path.is_inside(path));
        &self.entries[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn directory(text: &str, mode: u32) -> TreeEntry {
        TreeEntry {
            path: path(text),
            kind: EntryKind::Directory { opaque: false },
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    #[test]
    fn paths_are_cleaned_and_cannot_go_up() {
        assert_eq!(path("/./a//b/"), path("a/b"));
        assert!(path("./").is_root());
        assert!(RelPath::parse(b"a/../b").is_err());
        assert!(RelPath::parse(b"a\0b").is_err());
        assert_eq!(RelPath::clean(b"../../a/x/../b"), path("a/b"));
        assert_eq!(RelPath::clean(b"a/../../.."), RelPath::root());
    }

    #[test]
    fn order_is_by_component() {
        let mut paths = [
            path("a.b"),
            path("a/c"),
            path("a"),
            path("b"),
            path("a/b/c"),
            path("a-"),
        ];
        paths.sort();
        assert_eq!(paths.map(|p| p.to_string()), ["a", "a/b/c", "a/c", "a-", "a.b", "b"]);
    }

    #[test]
    fn order_of_long_paths_is_that_of_their_components() {
        let names = ["a", "ab", "a.b", "a-b", "longer than eight", "longer than eighu", "x"];
        let mut paths = vec![RelPath::root()];
        for first in names {
            paths.push(path(first));
            paths.extend(names.map(|second| path(&format!("{first}/{second}"))));
            paths.extend(names.map(|third| path(&format!("{first}/longer than eight/{third}"))));
        }
        for a in &paths {
            for b in &paths {
                assert_eq!(a.cmp(b), a.components().cmp(b.components()), "{a} {b}");
            }
        }
    }

    #[test]
    fn only_clean_bytes_are_taken_as_they_are() {
        for clean in ["", "a", "a/b.c/..d"] {
            assert_eq!(RelPath::exactly(clean.into()), Ok(path(clean)));
        }
        for other in ["/a", "a/", "a//b", "./a", "a/..", "a\0"] {
            assert!(RelPath::exactly(other.into()).is_err(), "{other}");
        }
    }

    #[test]
    fn below_respects_components() {
        assert_eq!(path("a/b/c").below(&path("a/b")), Some(path("c")));
        assert_eq!(path("a/bc").below(&path("a/b")), None);
        assert!(path("a/b/c").is_inside(&path("a/b")) && !path("a/bc").is_inside(&path("a/b")));
        assert!(path("a").is_inside(&path("a")) && path("a").is_inside(&RelPath::root()));
        assert_eq!(path("a").below(&path("a")), Some(RelPath::root()));
        assert_eq!(path("a").parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
    }

    #[test]
    fn display_shows_no_control_codes() {
        assert_eq!(
            RelPath::parse(b"a\x1b[31m\xff").unwrap().to_string(),
            "a\\u{1b}[31m\\xff"
        );
    }

    #[test]
    fn the_last_entry_of_a_path_wins() {
        let tree = Tree::new(vec![directory("b", 1), directory("a", 2), directory("b", 3)]);
        let modes: Vec<u32> = tree.entries().iter().map(|entry| entry.mode).collect();
        assert_eq!(modes, [2, 3]);
    }

    #[test]
    fn a_subtree_is_contiguous() {
        let tree = Tree::new(vec![
            directory("a", 0),
            directory("a/b", 0),
            directory("a/b/c", 0),
            directory("a.b", 0),
            directory("a/bc", 0),
        ]);
        let below: Vec<String> = tree
            .subtree(&path("a/b"))
            .iter()
            .map(|entry| entry.path.to_string())
            .collect();
        assert_eq!(below, ["a/b", "a/b/c"]);
        assert_eq!(tree.subtree(&RelPath::root()).len(), 5);
        assert!(tree.subtree(&path("x")).is_empty());
    }
}
