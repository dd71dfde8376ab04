//! The mounts of a step, as far as the engine makes them: copies beside the tree, which the supervisor puts into their places.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use proto::tree::{EntryKind, RelPath};
use rustix::fs::{Mode, OFlags};

use super::super::{ExecError, MountSource, StepMount};
use super::tree::copy_part;
use super::{Placed, Placement};
use crate::layer::lower::{Lower, LowerDirs};
use crate::snapshot::rootfs::Rootfs;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// The directories whose content moves into the step: nobody else can have it meanwhile. In the order in which they are taken.
///
/// # Errors
/// One that the step wants in two places.
pub(super) fn lent(mounts: &[StepMount]) -> Result<Vec<PathBuf>, ExecError> {
    let mut lent: Vec<PathBuf> = mounts.iter().filter_map(home).map(Path::to_owned).collect();
    lent.sort();
    match lent.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(refused(
            "a cache mount can be in one place of a step only in the sandbox `plain`",
        )),
        false => Ok(lent),
    }
}

fn home(mount: &StepMount) -> Option<&Path> {
    match &mount.source {
        MountSource::Directory { path, subpath } if !mount.readonly && subpath.as_os_str().is_empty() => Some(path),
        _ => None,
    }
}

/// Makes what `mounts` show, in `aside` where it is a copy, parents before what is mounted in them. Blocks.
///
/// # Errors
/// Sources that are not there, or that this kind of sandbox does not have; what the file system reports.
pub(super) fn prepare(mounts: &[StepMount], aside: &Path) -> Result<Vec<Placement>, ExecError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(aside, flags, Mode::empty()).map_err(|error| failed("open a tree")(error.into()))?;
    let mut placements = Vec::with_capacity(mounts.len());
    for (number, mount) in mounts.iter().enumerate() {
        let placed = match &mount.source {
            _ if home(mount).is_some() => Placed::Lent {
                path: home(mount).unwrap_or(Path::new("")).to_owned(),
            },
            MountSource::Directory { path, subpath } => copied(std::slice::from_ref(path), subpath, &opened, number)?,
            MountSource::Rootfs { rootfs, subpath } => copied(&layers(rootfs), subpath, &opened, number)?,
            // Its size is that of the disk.
            MountSource::Tmpfs { mode, .. } => Placed::Empty { mode: *mode },
            MountSource::Secret { value, mode, uid, gid } => Placed::Secret {
                value: value.clone(),
                mode: *mode,
                uid: *uid,
                gid: *gid,
            },
            MountSource::Socket { path } => Placed::Socket { path: path.clone() },
            MountSource::Machine { .. } => {
                return Err(refused("files of the machine cannot be had in the sandbox `plain`"));
            }
        };
        placements.push(Placement {
            target: mount.target.clone(),
            placed,
        });
    }
    placements.sort_by_key(|placement| Path::new(&placement.target).components().count());
    Ok(placements)
}

/// The layers of a root filesystem, the base first.
pub(super) fn layers(rootfs: &Rootfs) -> Vec<PathBuf> {
    match rootfs {
        Rootfs::Overlay { lower, .. } => lower.iter().rev().cloned().collect(),
        Rootfs::Directory(path) => vec![path.clone()],
    }
}

fn copied(layers: &[PathBuf], subpath: &Path, aside: &OwnedFd, number: usize) -> Result<Placed, ExecError> {
    let name = format!("bind-{number}");
    let missing = |reason: &str| refused(&format!("cannot mount `{}`: {reason}", subpath.display()));
    let top = resolve(layers, subpath).map_err(failed("resolve the source of a mount"))?;
    let top = top.ok_or_else(|| missing("too many levels of symbolic links"))?;
    let made = copy_part(layers, &top, aside, &name).map_err(failed("copy the source of a mount"))?;
    let is_dir = made.ok_or_else(|| missing("no such file or directory"))?;
    Ok(Placed::Ready { name, is_dir })
}

/// Where `path` leads inside of the merged view, its links followed; nothing for a loop.
fn resolve(layers: &[PathBuf], path: &Path) -> io::Result<Option<RelPath>> {
    use std::os::unix::ffi::OsStrExt;
    let topmost_first: Vec<PathBuf> = layers.iter().rev().cloned().collect();
    let merged = LowerDirs::open(&topmost_first)?;
    let split = |bytes: &[u8]| {
        bytes
            .split(|byte| *byte == b'/')
            .rev()
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    let (mut left, mut here, mut links) = (split(path.as_os_str().as_bytes()), RelPath::root(), 0);
    while let Some(name) = left.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                here = here.parent().unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let next = here.child(&name);
        let Some(EntryKind::Symlink { target }) = merged.entry(&next)?.map(|entry| entry.kind) else {
            here = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Ok(None);
        }
        if target.starts_with(b"/") {
            here = RelPath::root();
        }
        left.extend(split(&target));
    }
    Ok(Some(here))
}

fn refused(message: &str) -> ExecError {
    ExecError::Refused {
        message: message.to_owned(),
    }
}

/// An [`ExecError`] of the engine.
pub(super) fn failed(action: &'static str) -> impl Fn(io::Error) -> ExecError {
    move |error| ExecError::Setup {
        action: action.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_source_are_followed_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (base, top) = (dir.path().join("base"), dir.path().join("top"));
        std::fs::create_dir_all(base.join("etc/real")).unwrap();
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink("/../../etc/real", base.join("link")).unwrap();
        std::os::unix::fs::symlink("loop", top.join("loop")).unwrap();
        let check = |path: &str, expected: Option<&str>| {
            let found = resolve(&[base.clone(), top.clone()], Path::new(path)).unwrap();
            assert_eq!(found.map(|path| path.to_string()).as_deref(), expected, "{path}");
        };
        check("", Some(""));
        check("/link", Some("etc/real"));
        check("link/../x", Some("etc/x"));
        check("../../link/y", Some("etc/real/y"));
        check("loop", None);
    }
}
