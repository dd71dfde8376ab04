//! Removes a directory tree that a stranger filled: devices, immutable files, directories without permissions, any depth.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Directories open at once. What is deeper is moved up first.
const MOST_OPEN: usize = 64;

/// Removes `name` in `parent` and everything below. No link is followed. It is no error if there is none.
///
/// # Errors
/// What the file system reports; some of it may be gone by then.
pub fn remove_tree(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let kind = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if kind != FileType::Directory {
        return unlink(parent, name, AtFlags::empty());
    }
    let top = open(parent, name)?;
    let mut moved = 0;
    // Emptying may move deep directories to the top, which must then be emptied again.
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    unlink(parent, name, AtFlags::REMOVEDIR)
}

fn empty(top: &OwnedFd, directory: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    for (name, kind) in names(directory)? {
        let name = OsStr::from_bytes(name.to_bytes());
        if kind != FileType::Directory {
            unlink(directory, name, AtFlags::empty())?;
        } else if depth < MOST_OPEN {
            let inside = open(directory, name)?;
            empty(top, &inside, depth + 1, moved)?;
            drop(inside);
            unlink(directory, name, AtFlags::REMOVEDIR)?;
        } else {
            move_up(top, directory, name, moved)?;
        }
    }
    Ok(())
}

fn move_up(top: &OwnedFd, directory: &OwnedFd, name: &OsStr, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let target = format!("moved-{moved}");
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(directory, name, top, target.as_str(), flags) {
            Err(Errno::EXIST) => {}
            Err(Errno::PERM) => release(directory, name)?,
            result => return Ok(result?),
        }
    }
}

fn names(directory: &OwnedFd) -> io::Result<Vec<(CString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        names.push((entry.file_name().to_owned(), kind));
    }
    Ok(names)
}

fn open(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        // Its owner took the permission away; root never comes here.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
        }
        result => Ok(result?),
    }
}

fn unlink(parent: &OwnedFd, name: &OsStr, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::PERM | Errno::ACCESS) => {
            release(parent, name)?;
            Ok(rustix::fs::unlinkat(parent, name, flags)?)
        }
        result => Ok(result?),
    }
}

/// Takes the immutable and append-only marks from `name` and its directory, and lets us write the latter.
fn release(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    clear_marks(parent)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(file) => clear_marks(&file)?,
        // A link, a device: these cannot carry the marks.
        Err(_) => return Ok(()),
    }
    Ok(())
}

fn clear_marks(file: &OwnedFd) -> io::Result<()> {
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) if flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND) => Ok(rustix::fs::ioctl_setflags(
            file,
            flags - IFlags::IMMUTABLE - IFlags::APPEND,
        )?),
        // File systems without such marks.
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Space that `name` in `parent` and everything below takes on disk in bytes. A file with several names counts once, by shares.
///
/// # Errors
/// What the file system reports.
pub fn disk_bytes(parent: &OwnedFd, name: &OsStr) -> io::Result<u64> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut total = 0_u64;
    let mut waiting = vec![PathBuf::from(name)];
    // By paths, not by open directories of all levels: a step may have made more levels than we may open files.
    while let Some(path) = waiting.pop() {
        let directory = rustix::fs::openat2(parent, &path, flags, Mode::empty(), resolve)?;
        total += blocks(&rustix::fs::fstat(&directory)?);
        for (name, kind) in names(&directory)? {
            if kind == FileType::Directory {
                waiting.push(path.join(OsStr::from_bytes(name.to_bytes())));
            } else {
                let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                total += blocks(&stat) / stat.st_nlink.max(1);
            }
        }
    }
    Ok(total)
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}
