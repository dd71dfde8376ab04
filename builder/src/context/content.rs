//! Contents: the digest of every file, from the stat cache or read by a few threads; further names become hard links.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proto::digest::ContentDigest;
use proto::tree::{EntryKind, RelPath, TreeEntry};

use super::dir::{Root, Stamp, failure};
use super::stat_cache::StatCache;
use super::walk::{Found, What};
use super::{WalkError, entry};

/// Large enough for BLAKE3 to use wide vectors, small enough for the second-level cache.
const READ_BYTES: usize = 128 * 1024;

/// Files per thread below which another thread costs more than it saves.
const FILES_PER_THREAD: usize = 16;

/// A file to read.
#[derive(Debug)]
struct Job<'a> {
    index: usize,
    path: &'a RelPath,
    stamp: Stamp,
}

/// Turns what was found into entries; also says how many files were read.
pub(super) fn fill(
    root: &Root,
    mut found: Vec<Found>,
    cache: &mut StatCache,
) -> Result<(Vec<TreeEntry>, usize), WalkError> {
    fill_known(&mut found, cache);
    let jobs: Vec<Job<'_>> = found.iter().enumerate().filter_map(job).collect();
    let hashed_files = jobs.len();
    let hashed = hash_all(root, &jobs)?;
    let hashed: Vec<(usize, ContentDigest)> = hashed.into_iter().map(|(job, content)| (job.index, content)).collect();
    for (index, content) in hashed {
        let Found { what, metadata, .. } = &mut found[index];
        cache.insert(metadata.stamp, content, !metadata.xattrs.is_empty());
        *what = What::Other(file(&metadata.stamp, content));
    }
    let entry = |found: Found| match found.what {
        What::Other(kind) => entry(found.path, kind, found.metadata),
        What::File { .. } => unreachable!("every file that was not known was hashed"),
    };
    // In order of the paths already, and in the memory that is there already.
    Ok((found.into_iter().map(entry).collect(), hashed_files))
}

/// Files that the cache knows, and further names of files.
fn fill_known(found: &mut [Found], cache: &mut StatCache) {
    let mut first_names: HashMap<(u64, u64), usize> = HashMap::new();
    for index in 0..found.len() {
        let What::File { linked, known } = &found[index].what else {
            continue;
        };
        let stamp = &found[index].metadata.stamp;
        let first = match linked {
            true => *first_names.entry(stamp.file()).or_insert(index),
            false => index,
        };
        let kind = if first == index {
            known
                .inspect(|known| cache.saw(known))
                .map(|known| file(stamp, known.content))
        } else {
            let target = found[first].path.clone();
            Some(EntryKind::Hardlink { target })
        };
        if let Some(kind) = kind {
            found[index].what = What::Other(kind);
        }
    }
}

/// What there is to read for `found`.
fn job((index, found): (usize, &Found)) -> Option<Job<'_>> {
    matches!(found.what, What::File { .. }).then_some(Job {
        index,
        path: &found.path,
        stamp: found.metadata.stamp,
    })
}

fn file(stamp: &Stamp, content: ContentDigest) -> EntryKind {
    EntryKind::File {
        size: stamp.size_bytes,
        content,
    }
}

type Hashed<'a> = Vec<(&'a Job<'a>, ContentDigest)>;

/// Reads all jobs; the first failure ends every thread at its next file.
fn hash_all<'a>(root: &Root, jobs: &'a [Job<'a>]) -> Result<Hashed<'a>, WalkError> {
    // Not knowing the number of processors costs only speed.
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(jobs.len().div_ceil(FILES_PER_THREAD));
    let next = AtomicUsize::new(0);
    if threads <= 1 {
        return hash_some(root, jobs, &next);
    }
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| hash_some(root, jobs, &next)))
            .collect();
        let mut hashed = Vec::with_capacity(jobs.len());
        for worker in workers {
            match worker.join() {
                Ok(part) => hashed.extend(part?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(hashed)
    })
}

fn hash_some<'a>(root: &Root, jobs: &'a [Job<'a>], next: &AtomicUsize) -> Result<Hashed<'a>, WalkError> {
    let mut buffer = vec![0; READ_BYTES];
    let mut hashed = Vec::new();
    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
        let content = hash(root, job, &mut buffer).inspect_err(|_| next.store(jobs.len(), Ordering::Relaxed))?;
        hashed.push((job, content));
    }
    Ok(hashed)
}

/// Reads one file and makes sure that it is, before and after, the one whose metadata the tree has.
fn hash(root: &Root, job: &Job<'_>, buffer: &mut [u8]) -> Result<ContentDigest, WalkError> {
    let mut file = root.file(job.path)?;
    check_unchanged(&file, job)?;
    let mut hasher = blake3::Hasher::new();
    // One byte beyond the size suffices to see growth: a file that is written all the time must not keep us here.
    let mut left = job.stamp.size_bytes.saturating_add(1);
    while left > 0 {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(length) => {
                hasher.update(&buffer[..length]);
                left = left.saturating_sub(length as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                let path = job.path.clone();
                return Err(WalkError::Read { path, source });
            }
        }
    }
    if hasher.count() != job.stamp.size_bytes {
        return Err(WalkError::Changed { path: job.path.clone() });
    }
    check_unchanged(&file, job)?;
    Ok(hasher.finalize().into())
}

fn check_unchanged(file: &File, job: &Job<'_>) -> Result<(), WalkError> {
    let stat = rustix::fs::fstat(file).map_err(|errno| failure(job.path, errno))?;
    if Stamp::of(&stat) == job.stamp {
        Ok(())
    } else {
        Err(WalkError::Changed { path: job.path.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::dir::Root;

    fn job_of<'a>(root: &Root, path: &'a RelPath) -> Job<'a> {
        let stat = rustix::fs::fstat(root.file(path).unwrap()).unwrap();
        Job {
            index: 0,
            path,
            stamp: Stamp::of(&stat),
        }
    }

    #[test]
    fn a_file_that_changes_between_scan_and_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "one").unwrap();
        let root = Root::open(folder.path()).unwrap();
        let path = RelPath::clean(b"f");
        let job = job_of(&root, &path);
        assert_eq!(hash(&root, &job, &mut [0; 2]).unwrap(), ContentDigest::of(b"one"));
        std::fs::write(folder.path().join("f"), "longer").unwrap();
        let error = hash(&root, &job, &mut [0; 2]).unwrap_err();
        assert!(
            matches!(&error, WalkError::Changed { path } if path.as_bytes() == b"f"),
            "{error:?}"
        );
    }

    #[test]
    fn a_file_that_became_a_link_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "one").unwrap();
        let root = Root::open(folder.path()).unwrap();
        let path = RelPath::clean(b"f");
        let job = job_of(&root, &path);
        std::fs::rename(folder.path().join("f"), folder.path().join("g")).unwrap();
        std::os::unix::fs::symlink("g", folder.path().join("f")).unwrap();
        let error = hash(&root, &job, &mut [0; 8]).unwrap_err();
        assert!(matches!(error, WalkError::Changed { .. }), "{error:?}");
    }
}
