//! A stack of layer trees, seen as the one filesystem that it makes.
//!
//! The merged view is built on the first question and kept: one pass over all entries, whiteouts, opaque directories and
//! replaced directories applied as an unpacking would. So are the digests of directories.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, Tree, TreeEntry};

use super::digest::{self, TreeDigester};

/// The symlinks that one resolution follows, as the kernel's own limit.
const MAX_SYMLINKS: u32 = 40;

/// A filesystem made of layers, base first.
#[derive(Debug, Default)]
pub struct MergedTree {
    layers: Vec<Arc<Tree>>,
    /// In order of the paths.
    visible: OnceLock<Vec<Position>>,
    /// What directories hold, as far as somebody asked: see [`digest`].
    digests: Mutex<HashMap<RelPath, ContentDigest>>,
}

/// A visible entry and the layer that it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    /// Index of the layer, 0 for the base.
    pub layer: usize,
    /// The entry as that layer has it.
    pub entry: &'a TreeEntry,
}

/// Why a path has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Too many links, most likely a loop.
    #[error("`/{path}` leads through more than {MAX_SYMLINKS} symbolic links")]
    TooManyLinks {
        /// The path that was asked for.
        path: RelPath,
    },
}

#[derive(Debug, Clone, Copy)]
struct Position {
    layer: usize,
    index: usize,
}

impl MergedTree {
    /// A stack, base first.
    #[must_use]
    pub fn new(layers: Vec<Arc<Tree>>) -> Self {
        Self {
            layers,
            visible: OnceLock::new(),
            digests: Mutex::default(),
        }
    }

    /// The layers, base first.
    #[must_use]
    pub fn layers(&self) -> &[Arc<Tree>] {
        &self.layers
    }

    /// The visible entry at exactly `path`; links are not followed.
    #[must_use]
    pub fn get(&self, path: &RelPath) -> Option<Located<'_>> {
        let visible = self.visible();
        let at = visible.binary_search_by(|position| self.located(*position).entry.path.cmp(path));
        Some(self.located(visible[at.ok()?]))
    }

    /// `path` with every symlink followed, inside the root. Without an entry: the path at which it would be made.
    ///
    /// # Errors
    /// More than 40 links.
    pub fn resolve(&self, path: &RelPath) -> Result<(RelPath, Option<Located<'_>>), ResolveError> {
        let mut todo: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        let mut reached = RelPath::root();
        let mut links = 0;
        while let Some(component) = todo.pop_front() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    reached = reached.parent().unwrap_or_default();
                    continue;
                }
                _ => {}
            }
            let next = reached.join(&RelPath::clean(&component));
            let Some(EntryKind::Symlink { target }) = self.get(&next).map(|found| &found.entry.kind) else {
                reached = next;
                continue;
            };
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(ResolveError::TooManyLinks { path: path.clone() });
            }
            if target.first() == Some(&b'/') {
                reached = RelPath::root();
            }
            for part in target.split(|&byte| byte == b'/').rev() {
                todo.push_front(part.to_vec());
            }
        }
        let found = self.get(&reached);
        Ok((reached, found))
    }

    /// What is directly in `directory`, in byte order of the names.
    pub fn children<'a>(&'a self, directory: &'a RelPath) -> impl Iterator<Item = Located<'a>> + 'a {
        let mut left = self.below(directory);
        std::iter::from_fn(move || {
            loop {
                let found = self.located(*left.first()?);
                let name = found.entry.path.below(directory)?;
                let child = directory.join(&RelPath::clean(name.components().next().unwrap_or_default()));
                // From one child to the next, past all that it holds.
                left = &left[self.count_inside(left, &child)..];
                if found.entry.path == child {
                    return Some(found);
                }
            }
        })
    }

    /// Everything below `directory`, parents first, in order of the paths; `directory` itself is left out.
    pub fn walk<'a>(&'a self, directory: &'a RelPath) -> impl Iterator<Item = Located<'a>> + 'a {
        self.below(directory).iter().map(|position| self.located(*position))
    }

    /// The digest of `root`, which is the root of the filesystem or has an entry, and of everything below it: see [`digest`]. A
    /// directory is digested once, however often it is asked for.
    #[must_use]
    pub fn digest(&self, root: &RelPath) -> ContentDigest {
        let mut known = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let top = self.get(root).map(|top| (top.entry, self.kind_of(top)));
        if let Some(held) = known.get(root) {
            return digest::of_whole(top, held);
        }
        let mut digester = TreeDigester::new(top);
        let mut left = self.below(root);
        while let Some((first, rest)) = left.split_first() {
            left = rest;
            let found = self.located(*first);
            let Some(path) = found.entry.path.below(root) else {
                break;
            };
            match known.get(&found.entry.path) {
                Some(held) => {
                    digester.add_whole(&path, found.entry, self.kind_of(found), held);
                    left = &rest[self.count_inside(rest, &found.entry.path)..];
                }
                None => digester.add(&path, found.entry, self.kind_of(found)),
            }
        }
        let (of_root, directories) = digester.finish();
        known.extend(directories.into_iter().map(|(path, held)| (root.join(&path), held)));
        of_root
    }

    /// What is visible below `directory`, without itself.
    fn below(&self, directory: &RelPath) -> &[Position] {
        let visible = self.visible();
        let path = |position: &Position| &self.located(*position).entry.path;
        let start = visible.partition_point(|position| path(position) <= directory);
        let from = &visible[start..];
        &from[..self.count_inside(from, directory)]
    }

    /// How many of `sorted`, which begins at `directory` or behind it, are inside it.
    fn count_inside(&self, sorted: &[Position], directory: &RelPath) -> usize {
        sorted.partition_point(|position| self.located(*position).entry.path.is_inside(directory))
    }

    /// What `found` is; a hard link is the file that it leads to.
    #[must_use]
    pub fn kind_of<'a>(&'a self, found: Located<'a>) -> &'a EntryKind {
        &self.file_of(found).unwrap_or(found).entry.kind
    }

    /// The file behind `found`: itself, or for a hard link the entry of its first name, in the same layer.
    #[must_use]
    pub fn file_of<'a>(&'a self, found: Located<'a>) -> Option<Located<'a>> {
        match &found.entry.kind {
            EntryKind::File { .. } => Some(found),
            EntryKind::Hardlink { target } => {
                let entry = self.layers[found.layer].get(target)?;
                matches!(entry.kind, EntryKind::File { .. }).then_some(Located {
                    layer: found.layer,
                    entry,
                })
            }
            _ => None,
        }
    }

    fn located(&self, position: Position) -> Located<'_> {
        Located {
            layer: position.layer,
            entry: &self.layers[position.layer].entries()[position.index],
        }
    }

    fn visible(&self) -> &[Position] {
        self.visible.get_or_init(|| {
            if let [only] = self.layers.as_slice()
                && hides_nothing(only)
            {
                let all = 0..only.entries().len();
                return all.map(|index| Position { layer: 0, index }).collect();
            }
            let mut visible = BTreeMap::new();
            for (layer, tree) in self.layers.iter().enumerate() {
                for index in 0..tree.entries().len() {
                    self.apply(&mut visible, Position { layer, index });
                }
            }
            visible.into_values().collect()
        })
    }

    fn apply(&self, visible: &mut BTreeMap<RelPath, Position>, position: Position) {
        let entry = self.located(position).entry;
        match entry.kind {
            EntryKind::Whiteout => {
                visible.remove(&entry.path);
                remove_below(visible, &entry.path);
                return;
            }
            EntryKind::Directory { opaque: false } => {}
            _ => remove_below(visible, &entry.path),
        }
        self.remove_blocking_parent(visible, &entry.path);
        visible.insert(entry.path.clone(), position);
    }

    /// A layer may name `a/b` alone where the layers below have a file `a`: that file is gone then.
    fn remove_blocking_parent(&self, visible: &mut BTreeMap<RelPath, Position>, path: &RelPath) {
        let mut next = path.parent();
        while let Some(parent) = next {
            if let Some(position) = visible.get(&parent) {
                if !matches!(self.located(*position).entry.kind, EntryKind::Directory { .. }) {
                    visible.remove(&parent);
                }
                return;
            }
            next = parent.parent();
        }
    }
}

/// Whether all of a tree is visible if nothing is below it, as in a build context.
fn hides_nothing(tree: &Tree) -> bool {
    let mut leaf: Option<&RelPath> = None;
    tree.entries().iter().all(|entry| {
        let below_leaf = leaf.is_some_and(|leaf| entry.path.is_inside(leaf));
        if !matches!(entry.kind, EntryKind::Directory { .. }) {
            leaf = Some(&entry.path);
        }
        !below_leaf && entry.kind != EntryKind::Whiteout
    })
}

fn remove_below(visible: &mut BTreeMap<RelPath, Position>, directory: &RelPath) {
    let hidden: Vec<RelPath> = visible
        .range(directory..)
        .map(|(path, _)| path)
        .take_while(|path| path.is_inside(directory))
        .filter(|path| *path != directory)
        .cloned()
        .collect();
    for path in hidden {
        visible.remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use proto::tree::Timestamp;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::clean(text.as_bytes())
    }

    fn entry(text: &str, kind: EntryKind) -> TreeEntry {
        TreeEntry {
            path: path(text),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    /// One layer from words: `d/` a directory, `d/!` an opaque one, `-p` removed, `a>b` a symlink, else a pipe.
    fn layer(words: &str) -> Arc<Tree> {
        let entries = words.split_whitespace().map(|word| {
            if let Some(removed) = word.strip_prefix('-') {
                return entry(removed, EntryKind::Whiteout);
            }
            if let Some((link, target)) = word.split_once('>') {
                let target = target.as_bytes().to_vec();
                return entry(link, EntryKind::Symlink { target });
            }
            if let Some(opaque) = word.strip_suffix("/!") {
                return entry(opaque, EntryKind::Directory { opaque: true });
            }
            match word.strip_suffix('/') {
                Some(directory) => entry(directory, EntryKind::Directory { opaque: false }),
                None => entry(word, EntryKind::Fifo),
            }
        });
        Arc::new(Tree::new(entries.collect()))
    }

    fn check(layers: &[&str], expected: &str) {
        let merged = MergedTree::new(layers.iter().map(|words| layer(words)).collect());
        let shown: Vec<String> = merged
            .walk(&RelPath::root())
            .map(|found| format!("{}:{}", found.entry.path, found.layer))
            .collect();
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn upper_layers_hide_what_they_remove_or_replace() {
        check(&["a/ a/x b", "a/ a/y"], "a:1 a/x:0 a/y:1 b:0");
        check(&["a/ a/x b", "-a"], "b:0");
        check(&["a/ a/x ab", "a/! a/y"], "a:1 a/y:1 ab:0");
        check(&["a/ a/x", "a"], "a:1");
        check(&["a/ a/x", "-a", "a/ a/z"], "a:2 a/z:2");
        check(&["a", "a/b"], "a/b:1");
    }

    #[test]
    fn links_are_resolved_inside_the_root() {
        let merged = MergedTree::new(vec![layer("d/ d/f up>../../d in>/d/f loop>loop far>in")]);
        for (from, to) in [
            ("up/f", "d/f"),
            ("in", "d/f"),
            ("far", "d/f"),
            ("up/new", "d/new"),
            ("x/y", "x/y"),
        ] {
            assert_eq!(merged.resolve(&path(from)).unwrap().0, path(to), "{from}");
        }
        assert!(merged.resolve(&path("loop")).is_err());
    }

    #[test]
    fn children_are_found_past_what_they_hold() {
        let merged = MergedTree::new(vec![layer(
            "d/ d/e/ d/e/f d/e/g/ d/e/g/h d/e\u{1} d/e.x d/e0 d/no/entry d/z/ d/z/y e",
        )]);
        for (directory, expected) in [
            ("d", "d/e d/e\u{1} d/e.x d/e0 d/z"),
            ("", "d e"),
            ("d/e", "d/e/f d/e/g"),
            ("d/z", "d/z/y"),
            ("e", ""),
            ("nowhere", ""),
        ] {
            let directory = path(directory);
            let names: Vec<&[u8]> = merged
                .children(&directory)
                .map(|found| found.entry.path.as_bytes())
                .collect();
            assert_eq!(names.join(&b' '), expected.as_bytes(), "{directory}");
        }
    }

    #[test]
    fn children_are_only_the_next_level() {
        let merged = MergedTree::new(vec![layer("d/ d/e/ d/e/f d/g dd")]);
        let directory = path("d");
        let names: Vec<String> = merged
            .children(&directory)
            .map(|found| found.entry.path.to_string())
            .collect();
        assert_eq!(names, ["d/e", "d/g"]);
    }

    #[test]
    fn a_digest_is_the_same_in_whatever_order_directories_are_asked_for() {
        let words = "d/ d/e/ d/e/f d/g dd h/ h/e/ h/e/f h/g no/entry";
        let fresh = |layers: &[&str]| MergedTree::new(layers.iter().map(|words| layer(words)).collect());
        let paths = ["", "d", "d/e", "h", "h/e", "dd"].map(path);
        let expected = paths.each_ref().map(|path| fresh(&[words]).digest(path));
        let merged = fresh(&["d/ d/e/ d/e/f d/x", words, "-d/x"]);
        for order in [[0, 1, 2, 3, 4, 5], [2, 4, 1, 5, 3, 0], [5, 4, 3, 2, 1, 0]] {
            let (single, twice) = (fresh(&[words]), fresh(&[words]));
            for index in order.into_iter().chain(order) {
                assert_eq!(single.digest(&paths[index]), expected[index], "{}", paths[index]);
                assert_eq!(merged.digest(&paths[index]), expected[index], "{}", paths[index]);
            }
            assert_eq!(twice.digest(&paths[0]), expected[0]);
        }
        assert_eq!(expected[1], expected[3]);
        assert_eq!(expected[2], expected[4]);
        assert_ne!(expected[0], expected[1]);
    }

    #[test]
    fn what_lies_below_a_file_of_one_layer_hides_it() {
        check(&["a a/b"], "a/b:0");
    }
}
