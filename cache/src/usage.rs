//! How much of the disk the store takes: allocated blocks, directories included, as `du` counts them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One kind of thing in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `layer blobs`, `snapshots`, `trees`, `records`, `images`, `cache mounts`, `git mirrors`, `builds`, `index`, `damaged`,
    /// `other`.
    pub kind: &'static str,
    /// Number of files; of snapshots, cache mounts and git mirrors the number of directories directly below.
    pub count: u64,
    /// Allocated bytes.
    pub size_bytes: u64,
    /// What collecting everything that nothing holds would give back.
    pub reclaimable_bytes: u64,
}

/// Kinds and the top directories that belong to them; what is in none is `other`.
const KINDS: [(&str, &[&str]); 10] = [
    ("layer blobs", &["blobs"]),
    (
        "snapshots",
        &[
            "snapshots",
            "snapshots-rootless",
            "snapshots-single-id",
            "snapshots-plain",
        ],
    ),
    ("trees", &["trees"]),
    (
        "records",
        &["records", "aliases", "preimages", "history", "forms", "answers"],
    ),
    ("images", &["images"]),
    ("cache mounts", &["cachemounts"]),
    ("git mirrors", &["mirrors"]),
    ("builds", &["builds"]),
    ("index", &["index"]),
    ("damaged", &["quarantine"]),
];

/// The kind of what is in the top directory `name`.
pub(crate) fn kind_of(name: &str) -> &'static str {
    let found = KINDS.iter().find(|(_, names)| names.contains(&name));
    found.map_or("other", |(kind, _)| kind)
}

/// Allocated bytes of a file, a directory or a link.
pub(crate) fn allocated(facts: &fs::Metadata) -> u64 {
    facts.blocks() * 512
}

/// Rows for everything below `root`, in the order of [`KINDS`], reclaimable still 0. What vanishes meanwhile is not counted.
pub(crate) fn measure(root: &Path) -> io::Result<Vec<Row>> {
    let kinds = KINDS.iter().map(|(kind, _)| *kind).chain(["other"]);
    let row = |kind| Row {
        kind,
        count: 0,
        size_bytes: 0,
        reclaimable_bytes: 0,
    };
    let mut rows: Vec<Row> = kinds.map(row).collect();
    let mut seen = HashSet::new();
    let root_bytes = allocated(&fs::metadata(root)?);
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let kind = kind_of(&entry.file_name().to_string_lossy());
        let (files, size_bytes) = walk(&entry.path(), &mut seen)?;
        let by_directory = matches!(kind, "snapshots" | "cache mounts" | "git mirrors");
        let count = if by_directory {
            directories(&entry.path())?
        } else {
            files
        };
        for row in rows.iter_mut().filter(|row| row.kind == kind) {
            row.count += count;
            row.size_bytes += size_bytes;
        }
    }
    if let Some(other) = rows.last_mut() {
        other.size_bytes += root_bytes;
    }
    Ok(rows)
}

/// Number of files and allocated bytes at and below `top`; further names of a file count once.
pub(crate) fn walk(top: &Path, seen: &mut HashSet<(u64, u64)>) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let Some(facts) = there(fs::symlink_metadata(&path))? else {
            continue;
        };
        if facts.is_dir() {
            for entry in there(fs::read_dir(&path))?.into_iter().flatten() {
                left.push(entry?.path());
            }
        } else {
            files += 1;
            if facts.nlink() > 1 && !seen.insert((facts.dev(), facts.ino())) {
                continue;
            }
        }
        bytes += allocated(&facts);
    }
    Ok((files, bytes))
}

fn directories(path: &Path) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(path)? {
        count += u64::from(entry?.file_type()?.is_dir());
    }
    Ok(count)
}

/// Nothing for what is not there any more.
pub(crate) fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
