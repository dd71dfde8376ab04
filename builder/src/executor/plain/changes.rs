//! What a step changed in its tree, moved into a directory in overlay format.
//!
//! Every entry is compared with what was noted when the tree was made: its inode, its kind and mode, and the time of its last change,
//! which a step cannot set. What differs is changed *perhaps*: whether it really is, the reading of the directory finds out, as it
//! does for what overlayfs has copied up.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proto::tree::RelPath;
use rustix::fs::{Gid, Mode, Stat, Uid};

use super::copy;
use super::nodes::{Print, is_dir};
use super::tree::WorkTree;
use crate::layer::lower::{list, open_directory, open_root, stat_below};
use crate::layer::whiteout;

/// Moves everything that differs from what was noted into `upper`, an empty directory on the same file system, and notes in the
/// tree what is missing there now.
///
/// # Errors
/// What the file system reports; the tree is good for nothing then.
pub(super) fn collect(tree: &mut WorkTree, upper: &Path) -> io::Result<()> {
    let (root, upper) = (open_root(&tree.root())?, open_root(upper)?);
    let stat = stat_below(&root, &RelPath::root())?;
    let mut walk = Walk {
        tree,
        root,
        upper,
        above: Vec::new(),
        made: Vec::new(),
    };
    walk.directory(&RelPath::root(), &stat, false)?;
    rustix::fs::fchown(
        &walk.upper,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(&walk.upper, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    // The deepest first: what is made in a directory changes its time.
    for (path, stat) in walk.made.iter().rev() {
        copy::finish(open_directory(&walk.upper, path)?, stat, &[])?;
    }
    Ok(())
}

struct Walk<'a> {
    tree: &'a mut WorkTree,
    root: OwnedFd,
    upper: OwnedFd,
    /// The directories above the current place, and whether they are in the upper directory already.
    above: Vec<(RelPath, Stat, bool)>,
    /// Directories that were made in the upper directory, with what they shall look like.
    made: Vec<(RelPath, Stat)>,
}

impl Walk<'_> {
    /// Looks through a directory that is there as it was, or `is_changed`.
    fn directory(&mut self, path: &RelPath, stat: &Stat, is_changed: bool) -> io::Result<()> {
        let found = list(&self.root, path)?;
        // The upper directory has a root already.
        self.above.push((path.clone(), *stat, path.is_root()));
        if is_changed {
            self.upper_parent()?;
        }
        for name in self.tree.nodes.children(path) {
            if found.binary_search_by(|(there, _)| there.cmp(&name)).is_err() {
                self.dirty_with_all_below(&path.child(&name));
                whiteout::make(self.upper_parent()?, OsStr::from_bytes(&name))?;
            }
        }
        for (name, stat) in found {
            self.entry(path.child(&name), &name, &stat)?;
        }
        self.above.pop();
        Ok(())
    }

    fn entry(&mut self, path: RelPath, name: &[u8], stat: &Stat) -> io::Result<()> {
        match self.tree.nodes.all.get(&path) {
            Some(node) if node.is_dir == is_dir(stat) => {
                let is_changed = node.print != Some(Print::of(stat));
                match (node.is_dir, is_changed) {
                    (true, _) => self.directory(&path, stat, is_changed),
                    (false, false) => Ok(()),
                    (false, true) => self.take(&path, name),
                }
            }
            _ => self.take(&path, name),
        }
    }

    fn dirty_with_all_below(&mut self, path: &RelPath) {
        self.tree.dirty.extend(self.tree.nodes.below(path).cloned());
        self.tree.dirty.insert(path.clone());
    }

    /// Moves an entry of the current directory, with everything below.
    fn take(&mut self, path: &RelPath, name: &[u8]) -> io::Result<()> {
        self.dirty_with_all_below(path);
        let to = self.upper_parent()?;
        let from = open_directory(&self.root, &path.parent().unwrap_or_default())?;
        let name = OsStr::from_bytes(name);
        Ok(rustix::fs::renameat(&from, name, &to, name)?)
    }

    /// The current directory in the upper directory, made with all above it where it is missing.
    fn upper_parent(&mut self) -> io::Result<OwnedFd> {
        let mut here = RelPath::root();
        for (path, stat, is_there) in &mut self.above {
            if !*is_there {
                let parent = open_directory(&self.upper, &path.parent().unwrap_or_default())?;
                rustix::fs::mkdirat(&parent, OsStr::from_bytes(path.name().unwrap_or_default()), Mode::RWXU)?;
                self.made.push((path.clone(), *stat));
                *is_there = true;
            }
            self.tree.dirty.insert(path.clone());
            here = path.clone();
        }
        Ok(open_directory(&self.upper, &here)?)
    }
}
