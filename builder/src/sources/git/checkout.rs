//! The files of a commit as a layer: checked out by git into a temporary directory, read back with all checks of a context.
//!
//! Git itself refuses entries called `.git`, writes through no link, and converts line ends as `.gitattributes` says. No filter
//! is configured, so none runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::definition::{GitFiles, GitOp, GitTimes};
use proto::digest::DiffId;
use proto::record::LayerInfo;
use proto::tree::{EntryKind, RelPath, Timestamp, TreeEntry};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::mirror::Repository;
use super::program::{Call, Failure};
use super::submodules;
use crate::blocking;
use crate::build::Job;
use crate::context::{self, WalkRequest};
use crate::layer::entry::{Content, LayerEntry};
use crate::layers::{Layers, store_failed, to_path};
use crate::request::{Blame, BuildError};

/// The layer of a pinned `op`, and the time of its commit.
pub(super) async fn layer(repository: &Repository, op: &GitOp, job: &Job) -> Result<(LayerInfo, i64), BuildError> {
    let pin = op
        .pin
        .as_deref()
        .ok_or_else(|| BuildError::bug("a git source was fetched before it was pinned"))?;
    let commit = repository.fetch(pin).await?;
    let time = repository.time(&commit).await?;
    let place = Place::new(&job.host.store.tmp_dir())?;
    files(repository, &commit, &op.files, &place.tree, &place.index).await?;
    if op.files.submodules {
        let at = submodules::At {
            directory: place.tree.clone(),
            subdir: op.files.subdir.clone(),
            main: op.remote.address.clone(),
        };
        submodules::fill(repository, &commit, &at, job).await?;
    }
    // A repository below its own directory would be one without files.
    if op.files.keep_git_dir && op.files.subdir.is_empty() {
        keep_repository(repository, &commit, &op.remote.reference, &place.tree).await?;
    }
    let mtime = match op.files.times {
        GitTimes::Commit => time,
        GitTimes::Checkout => i64::try_from(job.host.clock.now().as_secs()).unwrap_or(i64::MAX),
    };
    let (layers, subdir) = (job.host.layers.clone(), op.files.subdir.clone());
    let layer = blocking::run(move || write(&place, &subdir, mtime, &layers)).await?;
    Ok((layer, time))
}

/// The time of the commit whose files are in a layer that was made earlier.
pub(super) async fn time_of(
    repository: &Repository,
    op: &GitOp,
    diff_id: DiffId,
    job: &Job,
) -> Result<Option<i64>, BuildError> {
    if op.files.times == GitTimes::Commit {
        // All files have it.
        let tree = job.host.store.trees().tree(diff_id);
        return Ok(tree.and_then(|tree| tree.entries().first().map(|entry| entry.mtime.seconds)));
    }
    let commit = repository.fetch(op.pin.as_deref().unwrap_or_default()).await?;
    repository.time(&commit).await.map(Some)
}

/// A temporary directory with the files and, beside them, git's index.
struct Place {
    _directory: tempfile::TempDir,
    tree: PathBuf,
    index: PathBuf,
}

impl Place {
    fn new(tmp_dir: &Path) -> Result<Self, BuildError> {
        let failed =
            |error: std::io::Error| BuildError::environment(format!("cannot make a temporary directory: {error}"));
        let directory = tempfile::Builder::new()
            .prefix("checkout-")
            .tempdir_in(tmp_dir)
            .map_err(failed)?;
        let tree = directory.path().join("tree");
        std::fs::create_dir(&tree).map_err(failed)?;
        Ok(Self {
            index: directory.path().join("index"),
            _directory: directory,
            tree,
        })
    }
}

/// Checks out what `wanted` says of `commit` into `directory`, submodules left empty.
pub(super) async fn files(
    repository: &Repository,
    commit: &str,
    wanted: &GitFiles,
    directory: &Path,
    index: &Path,
) -> Result<(), BuildError> {
    let failed = |failure: Failure| failure.into_error(&format!("cannot check out commit {commit}"));
    let git = &repository.git;
    let read = Call::new(repository.path(), &["read-tree", commit]).in_tree(directory, index);
    git.run(read).await.map_err(failed)?;
    if wanted.subdir.is_empty() {
        let all = Call::new(repository.path(), &["checkout-index", "--all", "--quiet"]).in_tree(directory, index);
        git.run(all).await.map_err(failed)?;
        return Ok(());
    }
    let is_directory = repository
        .ask(&["ls-tree", "-d", "-z", commit, "--", &wanted.subdir])
        .await?;
    if is_directory.is_empty() {
        let message = format!("subdir not found {}", wanted.subdir);
        return Err(BuildError::user(message).note(format!("in commit {commit} of `{}`", repository.address())));
    }
    let list = Call::new(repository.path(), &["ls-files", "-z", "--", &wanted.subdir]).in_tree(directory, index);
    let list = git.run(list).await.map_err(failed)?;
    let some = Call::new(repository.path(), &["checkout-index", "--quiet", "-z", "--stdin"]);
    git.run(some.in_tree(directory, index).input(list))
        .await
        .map_err(failed)?;
    Ok(())
}

/// Puts a repository of its own beside the files: the one commit, the name it was found by, and where it came from. Its index
/// knows no times and inodes, so equal commits give equal bytes.
async fn keep_repository(
    repository: &Repository,
    commit: &str,
    reference: &str,
    directory: &Path,
) -> Result<(), BuildError> {
    let failed = |failure: Failure| failure.into_error("cannot keep the repository");
    let git_dir = directory.join(".git");
    std::fs::create_dir(&git_dir).map_err(|error| store_failed(&error))?;
    let mut source = std::ffi::OsString::from("file://");
    source.push(repository.path());
    let format = if commit.len() == 64 { "sha256" } else { "sha1" };
    let init = Call::new(&git_dir, &["init", "--quiet", "--template=", "--initial-branch=master"]);
    let init = init.arg(format!("--object-format={format}"));
    let fetch = [
        "fetch",
        "--quiet",
        "--depth=1",
        "--no-tags",
        "--no-write-fetch-head",
        "--",
    ];
    let fetch = Call::new(&git_dir, &fetch).arg(source).arg(commit).local();
    let origin = Call::new(&git_dir, &["config", "remote.origin.url", repository.address()]);
    let pattern = ["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"];
    let bare = Call::new(&git_dir, &["config", "core.bare", "false"]);
    let head = Call::new(&git_dir, &["update-ref", "--no-deref", "HEAD", commit]);
    let index = directory.join(".git/index");
    let read = Call::new(&git_dir, &["read-tree", commit]).in_tree(directory, &index);
    let mut calls = vec![init, bare, fetch, origin, Call::new(&git_dir, &pattern), head, read];
    if reference.starts_with("refs/") {
        calls.push(Call::new(&git_dir, &["update-ref", reference, commit]));
    } else if !reference.is_empty() && !super::remote::is_object(reference) {
        let branch = format!("refs/heads/{reference}");
        calls.push(Call::new(&git_dir, &["update-ref", &branch, commit]));
    }
    for call in calls {
        repository.git.run(call).await.map_err(failed)?;
    }
    Ok(())
}

/// Reads the checked out files back and writes them as a layer: owner 0:0, modes as git knows them, one time for all.
fn write(place: &Place, subdir: &str, mtime: i64, layers: &Layers) -> Result<LayerInfo, BuildError> {
    let path = place.tree.join(subdir);
    let unreadable =
        |error: &dyn std::error::Error| BuildError::environment(format!("cannot read what git wrote: {error}"));
    let top = open(&place.tree, &RelPath::clean(subdir.as_bytes()))?;
    let walked = context::walk(&path, &WalkRequest::default(), None).map_err(|error| unreadable(&error))?;
    let top = Arc::new(top);
    let entry = |entry: &TreeEntry| {
        let mut entry = entry.clone();
        entry.mode = match &entry.kind {
            EntryKind::Directory { .. } => 0o755,
            EntryKind::Symlink { .. } => 0o777,
            _ if entry.mode & 0o100 == 0 => 0o644,
            _ => 0o755,
        };
        entry.mtime = Timestamp {
            seconds: mtime,
            nanoseconds: 0,
        };
        entry.xattrs.clear();
        let content = match entry.kind {
            EntryKind::File { .. } => Content::File {
                root: Arc::clone(&top),
                path: to_path(&entry.path),
            },
            _ => Content::None,
        };
        LayerEntry { entry, content }
    };
    let entries: Vec<LayerEntry> = walked.tree.entries().iter().map(entry).collect();
    Ok(layers.write(&entries)?.info)
}

/// The directory `path` below `root`, links not followed.
pub(super) fn open(root: &Path, path: &RelPath) -> Result<std::os::fd::OwnedFd, BuildError> {
    let failed = |error: rustix::io::Errno| {
        BuildError::new(
            Blame::Remote,
            format!("`{path}` of the repository is no directory: {error}"),
        )
    };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
    if path.is_root() {
        return Ok(top);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(&top, path.as_bytes(), flags, Mode::empty(), resolve).map_err(failed)
}
