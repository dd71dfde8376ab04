//! Layers in overlay format as one table: which entry of the merged file system comes from which layer.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use proto::tree::RelPath;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::layer::lower::{is_opaque, is_whiteout, list, stat_below};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The layer that it comes from, the lowest being 0. Of a directory: the one that says its owner, mode and time.
    pub(super) layer: usize,
    pub(super) is_dir: bool,
    /// What the file system said of it when it was made. Nothing: it is to be made, or made anew.
    pub(super) print: Option<Print>,
}

/// What tells whether an entry was changed: the time of its last change of any kind cannot be set by anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print {
    inode: u64,
    mode: u32,
    pub(super) changed: (i64, u64),
}

impl Print {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            mode: stat.st_mode,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The table, in the order of paths: what is below a directory follows it.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) all: BTreeMap<RelPath, Node>,
    /// Every path about which a layer said something, since this was last taken.
    pub(super) touched: BTreeSet<RelPath>,
    /// Space on disk of the files that came with these layers, in bytes.
    pub(super) disk_bytes: u64,
}

impl Nodes {
    /// Lays `layer`, a directory in overlay format with the number `number`, over what is there. Only what is at and below
    /// `top` is looked at.
    ///
    /// # Errors
    /// What the file system reports.
    pub(super) fn apply(&mut self, layer: &OwnedFd, number: usize, top: &RelPath) -> io::Result<()> {
        let Some(stat) = self.arrive(layer, top)? else {
            return Ok(());
        };
        self.entry(number, top.clone(), &stat);
        if !is_dir(&stat) {
            return Ok(());
        }
        if number > 0 && is_opaque(layer, top)? {
            self.clear_below(top);
        }
        let mut left = vec![top.clone()];
        while let Some(directory) = left.pop() {
            for (name, stat) in list(layer, &directory)? {
                let path = directory.child(&name);
                if is_whiteout(&stat) {
                    self.clear(&path);
                    continue;
                }
                if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
                    continue;
                }
                self.entry(number, path.clone(), &stat);
                if is_dir(&stat) {
                    if number > 0 && is_opaque(layer, &path)? {
                        self.clear_below(&path);
                    }
                    left.push(path);
                }
            }
        }
        Ok(())
    }

    /// Whether the layer has `top`. On the way there it may hide what lower layers have.
    fn arrive(&mut self, layer: &OwnedFd, top: &RelPath) -> io::Result<Option<Stat>> {
        let above: Vec<RelPath> = std::iter::successors(top.parent(), RelPath::parent).collect();
        for directory in above.iter().rev() {
            match stat_below(layer, directory) {
                Ok(stat) if !is_dir(&stat) => {
                    self.clear(top);
                    return Ok(None);
                }
                Ok(_) if is_opaque(layer, directory)? => self.clear(top),
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        match stat_below(layer, top) {
            Ok(stat) if is_whiteout(&stat) => {
                self.clear(top);
                Ok(None)
            }
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn entry(&mut self, layer: usize, path: RelPath, stat: &Stat) {
        let is_dir = is_dir(stat);
        if self.all.get(&path).is_some_and(|there| there.is_dir && !is_dir) {
            self.clear(&path);
        }
        if !is_dir {
            self.disk_bytes += u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        }
        self.touched.insert(path.clone());
        let node = Node {
            layer,
            is_dir,
            print: None,
        };
        self.all.insert(path, node);
    }

    /// Removes an entry and everything below.
    fn clear(&mut self, path: &RelPath) {
        self.clear_below(path);
        self.all.remove(path);
        self.touched.insert(path.clone());
    }

    fn clear_below(&mut self, path: &RelPath) {
        let below: Vec<RelPath> = self.below(path).cloned().collect();
        for path in below {
            self.all.remove(&path);
            self.touched.insert(path);
        }
    }

    /// Every path below a directory.
    pub(super) fn below<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a RelPath> {
        let after = self
            .all
            .range((std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded));
        after.map(|(found, _)| found).take_while(|found| found.is_inside(path))
    }

    /// The names in a directory, in byte order.
    pub(super) fn children(&self, directory: &RelPath) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let mut after = directory.clone();
        loop {
            let next = self
                .all
                .range((std::ops::Bound::Excluded(&after), std::ops::Bound::Unbounded))
                .next();
            let Some(name) = next.and_then(|(path, _)| path.below(directory)?.components().next().map(<[u8]>::to_vec))
            else {
                return names;
            };
            // No name holds this byte, so nothing is between all that is below the entry and this.
            after = directory.child(&[name.as_slice(), b"\0"].concat());
            names.push(name);
        }
    }
}

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rustix::fs::XattrFlags;

    use super::*;
    use crate::layer::{lower::open_root, whiteout};

    /// `d/` a directory, `d/!` an opaque one, `-p` removed, else a file.
    fn layer(dir: &Path, words: &str) -> OwnedFd {
        let root = tempfile::tempdir_in(dir).unwrap().keep();
        for word in words.split(' ') {
            if let Some(gone) = word.strip_prefix('-') {
                let path = root.join(gone);
                let parent = fs::File::open(path.parent().unwrap()).unwrap();
                whiteout::make(parent, path.file_name().unwrap()).unwrap();
            } else if let Some(opaque) = word.strip_suffix("/!") {
                fs::create_dir_all(root.join(opaque)).unwrap();
                let opened = fs::File::open(root.join(opaque)).unwrap();
                rustix::fs::fsetxattr(opened, crate::ids::opaque_mark(), b"y", XattrFlags::empty()).unwrap();
            } else if let Some(directory) = word.strip_suffix('/') {
                fs::create_dir_all(root.join(directory)).unwrap();
            } else {
                fs::write(root.join(word), word).unwrap();
            }
        }
        open_root(&root).unwrap()
    }

    fn check(layers: &[&str], top: &str, expected: &str) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = Nodes::default();
        for (number, words) in layers.iter().enumerate() {
            nodes
                .apply(&layer(dir.path(), words), number, &RelPath::clean(top.as_bytes()))
                .unwrap();
        }
        let shown = nodes
            .all
            .iter()
            .filter(|(path, _)| !path.is_root())
            .map(|(path, node)| {
                let slash = if node.is_dir { "/" } else { "" };
                format!("{path}{slash}:{}", node.layer)
            });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), expected, "{layers:?}");
    }

    #[test]
    fn the_topmost_layer_decides() {
        check(&["d/ d/a b", "d/ d/c b"], "", "b:1 d/:1 d/a:0 d/c:1");
        check(&["d/ d/a d-x", "-d"], "", "d-x:0");
        check(&["d/ d/a d/b/ d/b/x", "d/! d/c"], "", "d/:1 d/c:1");
        check(&["d/ d/a", "d"], "", "d:1");
        check(&["d", "d/ d/a"], "", "d/:1 d/a:1");
        check(&["d/ d/a", "-d", "d/ d/b"], "", "d/:2 d/b:2");
    }

    #[test]
    fn a_part_is_what_is_below_its_top() {
        check(&["d/ d/a e", "d/ d/b"], "d", "d/:1 d/a:0 d/b:1");
        check(&["d/ d/e/ d/e/a", "d/! d/e/ d/e/b"], "d/e", "d/e/:1 d/e/b:1");
        check(&["d/ d/e/ d/e/a", "-d"], "d/e", "");
        check(&["d/ d/e/ d/e/a", "x"], "d/e", "d/e/:0 d/e/a:0");
    }

    #[test]
    fn children_are_found_between_their_neighbours() {
        let mut nodes = Nodes::default();
        for path in ["d", "d/a", "d/a/x", "d/a-b", "d/b", "e"] {
            let node = Node {
                layer: 0,
                is_dir: false,
                print: None,
            };
            nodes.all.insert(RelPath::clean(path.as_bytes()), node);
        }
        let names = |path: &str| nodes.children(&RelPath::clean(path.as_bytes()));
        assert_eq!(names("d"), [b"a".to_vec(), b"a-b".to_vec(), b"b".to_vec()]);
        assert_eq!(names(""), [b"d".to_vec(), b"e".to_vec()]);
        assert_eq!(names("e"), [b""; 0]);
    }
}
