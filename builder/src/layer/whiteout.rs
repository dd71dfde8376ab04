//! How a directory in overlay format says that a name below it is gone.
//!
//! A character device 0:0, as overlayfs makes it. Where the store itself lies on an overlay, as in most containers, the kernel
//! does not let anybody make one; then an empty file without permissions and with an attribute stands for it, as newer kernels
//! have it for layers within layers. Only sandboxes that mount no overlay of their own make those.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

const MARK: &str = "user.overlay.whiteout";
/// Permission and set-id bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// Makes the name `name` in `parent` a mark of removal. There must be nothing of that name.
///
/// # Errors
/// What the file system reports.
pub(crate) fn make(parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => {}
        made => return made,
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    let marked = rustix::fs::fsetxattr(&file, MARK, b"y", XattrFlags::empty());
    if marked.is_err() {
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
    }
    marked
}

/// The metadata of `name` in `parent`, with every mark of removal as the character device that it stands for.
pub(super) fn seen(parent: impl AsFd, name: &OsStr, mut stat: Stat) -> Result<Stat, Errno> {
    let may_be_mark = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_size == 0
        && stat.st_mode & PERMISSIONS == 0;
    if !may_be_mark {
        return Ok(stat);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: OwnedFd = match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
        Ok(file) => file,
        // Nobody but root can look into it, and only root makes such marks.
        Err(Errno::ACCESS) => return Ok(stat),
        Err(error) => return Err(error),
    };
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(&file, MARK, &mut value[..]) {
        Ok(_) | Err(Errno::RANGE) => {
            stat.st_mode = FileType::CharacterDevice.as_raw_mode();
            stat.st_rdev = 0;
            Ok(stat)
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(stat),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_empty_file_is_a_whiteout_and_an_unmarked_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let opened = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let stat = |name: &str| {
            let stat = rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            seen(&opened, name.as_ref(), stat).unwrap()
        };
        for (name, mark) in [("gone", true), ("there", false)] {
            let flags = OFlags::WRONLY | OFlags::CREATE;
            let file = rustix::fs::openat(&opened, name, flags, Mode::empty()).unwrap();
            if mark {
                rustix::fs::fsetxattr(&file, MARK, b"y", XattrFlags::empty()).unwrap();
            }
        }
        assert!(super::super::lower::is_whiteout(&stat("gone")));
        assert!(!super::super::lower::is_whiteout(&stat("there")));
    }
}
