//! Dockerfiles with the options that they are built with.

use std::path::{Path, PathBuf};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The name of the file, without its end.
    pub name: String,
    /// What it says.
    pub text: String,
    /// The words of its comment `# build: --name=value …`; the value is empty where there is none.
    pub options: Vec<(String, String)>,
}

/// Where `folder` of this crate lies.
#[must_use]
pub fn folder(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// The files of `folder`, by name.
///
/// # Panics
/// If there are none, or one can not be read.
#[must_use]
pub fn cases(folder: &str) -> Vec<Case> {
    let folder = self::folder(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be listed").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Case {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let options = text.lines().find_map(|line| line.strip_prefix("# build: "));
    let option = |word: &str| {
        let word = word.strip_prefix("--").unwrap_or(word);
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (name.to_owned(), value.to_owned())
    };
    Case {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        options: options.unwrap_or_default().split_whitespace().map(option).collect(),
        text,
    }
}
