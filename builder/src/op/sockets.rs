//! Sockets that a step left: no layer holds one, so none may stay in the snapshot either. A step that runs on the snapshot sees what
//! it would see on the unpacked layer.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use crate::layer::diff::Socket;
use crate::layer::whiteout;
use crate::layers::to_path;

/// Removes `sockets` from `upper`; what takes the place of one that hid something is the mark that this is gone. The directories
/// keep their times, which are in the layer.
///
/// Every parent is opened by descriptor without following links: a step may have swapped any directory for a link to elsewhere.
///
/// # Errors
/// What the file system reports.
pub fn remove(upper: &Path, sockets: &[Socket]) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())?;
    for socket in sockets {
        let Some(name) = socket.path.name() else { continue };
        let parent = match socket.path.parent() {
            Some(parent) if !parent.is_root() => to_path(&parent),
            _ => ".".into(),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let parent = rustix::fs::openat2(&root, parent, flags, Mode::empty(), resolve)?;
        let times = times_of(&parent)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
        if socket.hides {
            whiteout::make(&parent, OsStr::from_bytes(name))?;
        }
        rustix::fs::futimens(&parent, &times)?;
    }
    Ok(())
}

fn times_of(directory: &OwnedFd) -> Result<Timestamps, Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok(Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec.cast_signed(),
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.cast_signed(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proto::tree::RelPath;

    use super::*;

    #[test]
    fn sockets_go_and_the_times_of_their_directories_stay() {
        let upper = tempfile::tempdir().unwrap();
        let directory = upper.path().join("run");
        std::fs::create_dir(&directory).unwrap();
        drop(UnixListener::bind(directory.join("s")).unwrap());
        std::fs::write(directory.join("kept"), "").unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::new(1_000, 5);
        std::fs::File::open(&directory).unwrap().set_modified(long_ago).unwrap();
        let socket = Socket {
            path: RelPath::clean(b"run/s"),
            hides: false,
        };
        remove(upper.path(), &[socket]).unwrap();
        let names: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["kept"]);
        assert_eq!(std::fs::metadata(&directory).unwrap().modified().unwrap(), long_ago);
    }
}
