//! How much disk space a directory takes that somebody else may be changing.

use std::path::Path;

use proto::tree::RelPath;
use rustix::fs::FileType;

use super::facts::disk_bytes;
use super::lower::{list, open_root};

/// The bytes on disk of everything below `directory`; a file with several names counts by shares.
///
/// What cannot be read counts nothing: it vanished meanwhile, or lies deeper than paths reach. Links are not followed.
#[must_use]
pub fn disk_bytes_below(directory: &Path) -> u64 {
    let Ok(root) = open_root(directory) else {
        return 0;
    };
    let mut bytes = 0_u64;
    let mut left = vec![RelPath::root()];
    while let Some(path) = left.pop() {
        let Ok(entries) = list(&root, &path) else { continue };
        for (name, stat) in entries {
            bytes = bytes.saturating_add(disk_bytes(&stat));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                left.push(path.join(&RelPath::clean(&name)));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        let empty = disk_bytes_below(dir.path());
        std::fs::write(deep.join("f"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(deep.join("f"), dir.path().join("g")).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("usr")).unwrap();
        let added = disk_bytes_below(dir.path()) - empty;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&added), "{added}");
        assert_eq!(disk_bytes_below(&dir.path().join("gone")), 0);
    }
}
