//! What a bad disk does to a store.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Place;

/// All files below `directory`, however deep; none if it is not there.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for entry in entries {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Flips a bit in the middle of a file.
pub(crate) fn damage(path: &Path) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], middle).unwrap();
}

impl Place {
    /// Damages every file of one kind in the store.
    pub(crate) fn damage_files(&self, kind: &str) {
        let files = files_below(&self.root().join(kind));
        assert!(!files.is_empty(), "nothing is in {kind}");
        files.iter().for_each(|path| damage(path));
    }
}
