//! Finding a path inside the step's root, and making what is missing.
//!
//! The image decides about every link on the way, and a cache mount may change under us. So the walk holds a descriptor per
//! component, opens each without following links, and follows links itself: there is no moment at which a path leaves the
//! root. `openat2` would do for finding; it cannot create, and a dangling link (`/etc/resolv.conf` in many images) must be
//! created where it points.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// What is expected at the end of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Dir,
    File,
}

/// The root of the step.
pub(super) struct Tree {
    root: OwnedFd,
    /// Which mount the root is: only what is made on it is part of the layer.
    mount: u64,
}

/// A path that was reached.
pub(super) struct Reached {
    /// `O_PATH` descriptor of it.
    pub(super) fd: OwnedFd,
    /// What was made on the way in the root's own mount, relative to the root, parents first.
    pub(super) created: Vec<PathBuf>,
    /// The directory that holds it and its name there; nothing for the root.
    pub(super) place: Option<(OwnedFd, OsString)>,
}

struct Walk<'a> {
    tree: &'a Tree,
    stack: Vec<(OwnedFd, OsString)>,
    left: VecDeque<OsString>,
    created: Vec<PathBuf>,
    links: usize,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Result<Self, Errno> {
        let mount = mount_id(root.as_fd())?;
        Ok(Self { root, mount })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Walks to `path`, and makes it (and its parents) where it is missing.
    pub(super) fn reach(&self, path: &str, want: Want) -> Result<Reached, Errno> {
        let left = components(Path::new(path).as_os_str().as_bytes());
        let mut walk = Walk {
            tree: self,
            stack: Vec::new(),
            left,
            created: Vec::new(),
            links: 0,
        };
        while let Some(name) = walk.left.pop_front() {
            walk.step(name, want)?;
        }
        let (fd, place) = match walk.stack.pop() {
            Some((fd, name)) => {
                let parent = rustix::io::fcntl_dupfd_cloexec(walk.here(), 3)?;
                (fd, Some((parent, name)))
            }
            None => (rustix::io::fcntl_dupfd_cloexec(&self.root, 3)?, None),
        };
        match (want, kind(&fd)? == FileType::Directory) {
            (Want::Dir, false) => Err(Errno::NOTDIR),
            (Want::File, true) => Err(Errno::ISDIR),
            _ => Ok(Reached {
                fd,
                created: walk.created,
                place,
            }),
        }
    }
}

impl Walk<'_> {
    fn step(&mut self, name: OsString, want: Want) -> Result<(), Errno> {
        if name == ".." {
            self.stack.pop();
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(self.here(), &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                self.make(&name, want)?;
                rustix::fs::openat(self.here(), &name, flags, Mode::empty())?
            }
            found => found?,
        };
        if kind(&found)? != FileType::Symlink {
            self.stack.push((found, name));
            return Ok(());
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let link = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
        if link.starts_with(b"/") {
            self.stack.clear();
        }
        for component in components(&link).into_iter().rev() {
            self.left.push_front(component);
        }
        Ok(())
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.tree.root.as_fd(), |(fd, _)| fd.as_fd())
    }

    fn make(&mut self, name: &OsStr, want: Want) -> Result<(), Errno> {
        let here = self.here();
        if self.left.is_empty() && want == Want::File {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(here, name, flags, Mode::from_raw_mode(0o644))?;
        } else {
            rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755))?;
        }
        if mount_id(here)? == self.tree.mount {
            let parents = self.stack.iter().map(|(_, name)| name.as_os_str());
            let path = parents.chain([name]).collect();
            self.created.push(path);
        }
        Ok(())
    }
}

fn components(path: &[u8]) -> VecDeque<OsString> {
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.map(|part| OsString::from_vec(part.to_vec())).collect()
}

fn kind(fd: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;

    use super::{Tree, Want};

    fn tree(dir: &std::path::Path) -> Tree {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Tree::new(rustix::fs::open(dir, flags, Mode::empty()).unwrap()).unwrap()
    }

    fn created(tree: &Tree, path: &str, want: Want) -> Result<Vec<PathBuf>, Errno> {
        tree.reach(path, want).map(|reached| reached.created)
    }

    #[test]
    fn links_are_followed_inside_the_root_and_dangling_ones_are_made_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("../../run/resolve/resolv.conf", dir.path().join("etc/resolv.conf")).unwrap();
        std::os::unix::fs::symlink("/../../opt", dir.path().join("abs")).unwrap();
        let tree = tree(dir.path());
        let stubs = created(&tree, "/etc/resolv.conf", Want::File).unwrap();
        assert_eq!(
            stubs,
            ["run", "run/resolve", "run/resolve/resolv.conf"].map(PathBuf::from)
        );
        assert!(dir.path().join("run/resolve/resolv.conf").is_file());
        assert_eq!(
            created(&tree, "/abs/x", Want::Dir).unwrap(),
            ["opt", "opt/x"].map(PathBuf::from)
        );
        assert_eq!(created(&tree, "/abs/x", Want::Dir).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn loops_and_wrong_kinds_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let tree = tree(dir.path());
        assert_eq!(created(&tree, "/a", Want::Dir), Err(Errno::LOOP));
        assert_eq!(created(&tree, "/file", Want::Dir), Err(Errno::NOTDIR));
        assert_eq!(created(&tree, "/", Want::File), Err(Errno::ISDIR));
    }
}
