//! What was lent to a step and must come back, written down beside its tree: who finds the note of a dead engine can still return
//! cache mounts to their places, and overwrite secrets.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

const NOTE: &str = "lent.json";

/// The note.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Lent {
    /// Where the content of directories is now, and where it belongs.
    directories: Vec<(PathBuf, PathBuf)>,
    secrets: Vec<PathBuf>,
}

impl Lent {
    pub(super) fn add(&mut self, place: &Path, home: &Path) {
        self.directories.push((place.to_owned(), home.to_owned()));
    }

    pub(super) fn add_secret(&mut self, path: &Path) {
        self.secrets.push(path.to_owned());
    }

    /// Writes the note into `aside`.
    pub(super) fn write(&self, aside: &Path) -> io::Result<()> {
        fs::write(aside.join(NOTE), serde_json::to_vec(self)?)
    }

    /// Everything is back.
    pub(super) fn forget(aside: &Path) -> io::Result<()> {
        match fs::remove_file(aside.join(NOTE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Returns what the note in `aside` says, if there is one. No process of the step is left.
    pub(super) fn return_all(aside: &Path) -> io::Result<()> {
        let note: Self = match fs::read(aside.join(NOTE)) {
            // One that was cut off was written before anything was lent.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for secret in &note.secrets {
            wipe(secret)?;
        }
        for (place, home) in &note.directories {
            return_one(place, home)?;
        }
        Self::forget(aside)
    }
}

/// A secret that is still in its place is wiped under the name that it had when it was made; one that moved on into the tree goes
/// with the tree.
fn wipe(secret: &Path) -> io::Result<()> {
    match fs::metadata(secret) {
        Ok(found) => fs::write(secret, vec![0; usize::try_from(found.len()).unwrap_or_default()]),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn return_one(place: &Path, home: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The step may have made any directory on the way a link to elsewhere.
    let from = rustix::fs::openat2(CWD, place, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let from = match from {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        from => from?,
    };
    let to = rustix::fs::open(home, flags, Mode::empty())?;
    Ok(move_all(&from, &to)?)
}

/// Moves everything in one directory to another one of the same file system. What is there already stays.
pub(super) fn move_all(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    for name in names(&mut Dir::read_from(from)?)? {
        match rustix::fs::renameat_with(from, &name, to, &name, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The names in a directory.
pub(super) fn names(directory: &mut Dir) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in directory {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsString::from_vec(OsStr::from_bytes(name).as_bytes().to_vec()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_engine_lent_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["aside", "tree/cache", "home"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("tree/cache/kept"), "cached").unwrap();
        fs::write(path("aside/new-1"), "secret").unwrap();
        let mut lent = Lent::default();
        lent.add(&path("tree/cache"), &path("home"));
        lent.add_secret(&path("aside/new-1"));
        lent.write(&path("aside")).unwrap();
        Lent::return_all(&path("aside")).unwrap();
        assert_eq!(fs::read(path("home/kept")).unwrap(), b"cached");
        assert_eq!(fs::read(path("aside/new-1")).unwrap(), [0; 6]);
        assert!(!path("aside").join(NOTE).exists());
        Lent::return_all(&path("aside")).unwrap();
    }

    #[test]
    fn a_link_in_the_way_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["aside", "elsewhere", "home"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("elsewhere/file"), "").unwrap();
        std::os::unix::fs::symlink(path("elsewhere"), path("tree")).unwrap();
        let mut lent = Lent::default();
        lent.add(&path("tree"), &path("home"));
        lent.write(&path("aside")).unwrap();
        Lent::return_all(&path("aside")).unwrap();
        assert!(path("elsewhere/file").exists());
    }
}
