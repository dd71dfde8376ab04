//! Small random file trees, and edits that are easily missed: same size and time, two directories that change their names, modes
//! alone. The same seed gives the same trees and edits.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::contexts::Random;

/// Two of these have one size, so that an edit can leave it as it was.
const CONTENTS: [&str; 6] = ["one", "two", "longer", "larger", "", "\0\u{ff}\n"];
const NAMES: [&str; 6] = ["a", "b", "a.b", "long name", "ä", "Z"];
const FILE_MODES: [u32; 4] = [0o644, 0o600, 0o755, 0o4711];
const DIRECTORY_MODES: [u32; 3] = [0o755, 0o700, 0o1777];

/// Makes and edits trees.
#[derive(Debug)]
pub struct Trees {
    random: Random,
}

/// What a path of a tree is, as far as an image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// 0 to 0o7777; 0 for a link.
    pub mode: u32,
    /// Bytes of a file, target of a link, nothing for a directory.
    pub content: Option<Vec<u8>>,
}

impl Trees {
    /// The trees of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random.next() >> 33).unwrap() % limit
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Makes the directory `root` with a tree in it. It always has `x` and `y`, directories that differ in the bytes of a file only.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn make(&mut self, root: &Path) {
        fs::create_dir_all(root).unwrap();
        for (name, content) in [("x", "one"), ("y", "two")] {
            let twin = root.join(name);
            fs::create_dir(&twin).unwrap();
            fs::write(twin.join("f"), content).unwrap();
            set_mtime(&twin.join("f"), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
            set_mtime(&twin, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        }
        let mut directories = vec![root.to_owned(), root.join("x")];
        for _ in 0..2 + self.below(8) {
            let path = directories[self.below(directories.len())].join(self.one(&NAMES));
            if fs::symlink_metadata(&path).is_ok() {
                continue;
            }
            match self.below(5) {
                0 => {
                    fs::create_dir(&path).unwrap();
                    directories.push(path);
                }
                1 => symlink(self.one(&NAMES), &path).unwrap(),
                2 => fs::hard_link(root.join("x/f"), &path).unwrap(),
                _ => fs::write(&path, self.one(&CONTENTS)).unwrap(),
            }
        }
        for directory in directories {
            set_mode(&directory, self.one(&DIRECTORY_MODES));
        }
    }

    /// Changes something in the tree at `root`, or nothing.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn edit(&mut self, root: &Path) {
        let all: Vec<PathBuf> = see(root).into_keys().collect();
        let path = root.join(&all[self.below(all.len())]);
        let metadata = fs::symlink_metadata(&path).unwrap();
        match self.below(8) {
            0 => {}
            1 => swap(&root.join("x"), &root.join("y")),
            2 if metadata.is_dir() => set_mode(&path, self.one(&DIRECTORY_MODES)),
            2 | 3 if metadata.is_file() => set_mode(&path, self.one(&FILE_MODES)),
            4 if !is_twin(root, &path) => fs::rename(&path, path.with_file_name("renamed")).unwrap_or_default(),
            5 if !metadata.is_dir() && !is_twin(root, &path) => fs::remove_file(&path).unwrap(),
            6 if metadata.is_dir() => fs::write(path.join("new"), self.one(&CONTENTS)).unwrap_or_default(),
            _ if metadata.is_file() => rewrite(&path),
            _ => {}
        }
    }
}

/// Whether the tree is promised to have `path`.
fn is_twin(root: &Path, path: &Path) -> bool {
    ["x", "y", "x/f", "y/f"].iter().any(|twin| root.join(twin) == path)
}

/// Other bytes, with size and time as they were. The file system must notice: its clock may be coarser than this is fast.
fn rewrite(path: &Path) {
    let old = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 1);
    while fs::metadata(path).unwrap().ctime_nsec() == old.ctime_nsec() {
        fs::write(path, &bytes).unwrap();
        set_mtime(path, old.modified().unwrap());
    }
}

/// Two directories change their names. Their own times are those of the tree before.
fn swap(one: &Path, other: &Path) {
    let between = one.with_file_name("between");
    fs::rename(one, &between).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(&between, other).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn set_mtime(path: &Path, time: SystemTime) {
    let handle = File::open(path).unwrap();
    handle.set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// Everything below `root`.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut mode = metadata.mode() & 0o7777;
            let content = if metadata.is_dir() {
                open.push(path.clone());
                None
            } else if metadata.is_symlink() {
                mode = 0;
                Some(fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else {
                Some(fs::read(&path).unwrap())
            };
            seen.insert(path.strip_prefix(root).unwrap().to_owned(), Seen { mode, content });
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_trees_and_edits_and_most_edits_change_something() {
        let folder = tempfile::tempdir().unwrap();
        let mut changed = 0;
        for seed in 0..20 {
            let both = ["a", "b"].map(|name| folder.path().join(format!("{name}{seed}")));
            let [a, b] = both.each_ref().map(|root| {
                let mut trees = Trees::new(seed);
                trees.make(root);
                let made = see(root);
                trees.edit(root);
                (made, see(root))
            });
            assert_eq!(a, b);
            changed += usize::from(a.0 != a.1);
        }
        assert!(changed > 10, "{changed}");
    }
}
