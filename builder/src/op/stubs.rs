//! Mount points that the sandbox had to make in a step's root filesystem, taken away again before the step's changes are read.

use std::io;
use std::path::Path;

use proto::tree::RelPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::layers::to_path;

/// Removes from `upper` those of `stubs` (parents first) that are still empty. What a step has put something into, or has put in
/// place of one, is the step's and stays.
///
/// Every parent is opened by descriptor without following links: a step may have swapped any directory for a link to elsewhere.
///
/// # Errors
/// What the file system reports beyond "not there", "not empty" and "no such place".
pub fn remove(upper: &Path, stubs: &[RelPath]) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())?;
    for stub in stubs.iter().rev() {
        let Some(name) = stub.name() else { continue };
        let parent = match stub.parent() {
            Some(parent) if !parent.is_root() => to_path(&parent),
            _ => ".".into(),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let removed = rustix::fs::openat2(&root, parent, flags, Mode::empty(), resolve).and_then(|parent| {
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
                FileType::RegularFile if stat.st_size == 0 => rustix::fs::unlinkat(&parent, name, AtFlags::empty()),
                _ => Ok(()),
            }
        });
        match removed {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_filled_or_replaced_stays() {
        let upper = tempfile::tempdir().unwrap();
        let path = |name: &str| upper.path().join(name);
        std::fs::create_dir_all(path("run/secrets")).unwrap();
        std::fs::create_dir(path("kept")).unwrap();
        for (name, content) in [
            ("run/secrets/id", ""),
            ("kept/stub", ""),
            ("kept/file", ""),
            ("filled", "x"),
        ] {
            std::fs::write(path(name), content).unwrap();
        }
        std::os::unix::fs::symlink("kept", path("link")).unwrap();
        let stubs = [
            "run",
            "run/secrets",
            "run/secrets/id",
            "kept",
            "kept/stub",
            "filled",
            "link/file",
            "gone",
        ];
        remove(upper.path(), &stubs.map(|stub| RelPath::clean(stub.as_bytes()))).unwrap();
        assert!(!path("run").exists());
        assert!(!path("kept/stub").exists());
        assert!(path("kept/file").exists(), "a link led to it");
        assert!(path("filled").exists());
    }
}
