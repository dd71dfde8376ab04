//! Copies of single entries, with everything that a layer can say of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Bytes that the kernel is asked to copy at once.
const CHUNK_BYTES: usize = 64 << 20;
/// Files up to this size are read and written: cheaper than asking for anything better.
const SMALL_BYTES: u64 = 16 << 10;
/// Of all attributes, those that a step could have given or seen.
const KEPT_ATTRIBUTES: [&[u8]; 2] = [b"security.capability", b"user."];
/// Of these, the marks of directories in overlay format.
const MARKS: &[u8] = b"user.overlay.";

/// Copies `name` from one directory to another one, where nothing has its name. Directories and sockets are not copied. Two names
/// of one file become two files, as overlayfs makes them when one of them changes.
///
/// # Errors
/// What the file system reports.
pub(super) fn entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, new_name: &OsStr) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => return file(from, to, name, new_name, &stat),
        FileType::Directory | FileType::Socket => return Ok(()),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, new_name)?;
        }
        _ => rustix::fs::mknodat(to, new_name, kind, Mode::RUSR, stat.st_rdev)?,
    }
    rustix::fs::chownat(
        to,
        new_name,
        Some(uid(&stat)),
        Some(gid(&stat)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if kind != FileType::Symlink {
        // Made above, in a directory that only we can enter: it is no link.
        rustix::fs::chmodat(to, new_name, mode(&stat), AtFlags::empty())?;
    }
    Ok(rustix::fs::utimensat(
        to,
        new_name,
        &times(&stat),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, new_name: &OsStr, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
    let new = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let copy = rustix::fs::openat(to, new_name, new, Mode::RUSR | Mode::WUSR)?;
    bytes(&source, &copy, stat)?;
    finish(&copy, stat, &attributes(&source)?)
}

/// Copies bytes: by sharing them where the file system can, by the kernel otherwise. Holes stay holes.
fn bytes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let size = u64::try_from(stat.st_size).map_err(io::Error::other)?;
    if size == 0 {
        return Ok(());
    }
    if size > SMALL_BYTES && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let has_holes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size;
    if !has_holes {
        return range(from, to, 0, size);
    }
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(at) => at,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(at))?;
        range(from, to, at, end)?;
        at = end;
    }
}

fn range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut source_at, mut copy_at) = (start, start);
    while end - start > SMALL_BYTES && source_at < end {
        let wanted = usize::try_from(end - source_at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        match rustix::fs::copy_file_range(from, Some(&mut source_at), to, Some(&mut copy_at), wanted) {
            // It is shorter than it was: what is there is copied.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if source_at == end {
        return Ok(());
    }
    rustix::fs::seek(from, SeekFrom::Start(source_at))?;
    rustix::fs::seek(to, SeekFrom::Start(source_at))?;
    let (mut source, mut copy) = (File::from(from.try_clone()?), File::from(to.try_clone()?));
    let mut buffer = vec![0; 64 << 10];
    let mut left = end - source_at;
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = source.read(&mut buffer[..most])?;
        if read == 0 {
            return Ok(());
        }
        copy.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(())
}

/// Gives an open file or directory the owner, mode, attributes and times of another one.
///
/// # Errors
/// What the file system reports.
pub(super) fn finish(file: impl AsFd, stat: &Stat, attributes: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    // In this order: a new owner takes setuid bits and capabilities away, and everything touches the times.
    rustix::fs::fchown(&file, Some(uid(stat)), Some(gid(stat)))?;
    rustix::fs::fchmod(&file, mode(stat))?;
    for (name, value) in attributes {
        rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(&file, &times(stat))?)
}

/// The attributes of a file that copies keep: nearly always none.
fn attributes(file: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 512];
    let length = loop {
        match rustix::fs::flistxattr(file, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            // At most 64 KiB, as the kernel has it.
            Err(Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(error) => return Err(error.into()),
        }
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let is_kept = KEPT_ATTRIBUTES.iter().any(|kept| name.starts_with(kept));
        if !is_kept || name.starts_with(MARKS) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

fn uid(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn gid(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

/// Its times, the last access being the last change, as in unpacked layers.
fn times(stat: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.cast_signed(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use super::*;

    fn copied(name: &str, fill: impl FnOnce(&std::path::Path)) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for dir in [&from, &to] {
            std::fs::create_dir(dir).unwrap();
        }
        fill(&from.join(name));
        let open = |path: &std::path::Path| File::open(path).unwrap();
        entry(open(&from).as_fd(), open(&to).as_fd(), name.as_ref(), name.as_ref()).unwrap();
        let copy = to.join(name);
        (dir, copy)
    }

    #[test]
    fn a_copy_has_bytes_mode_and_time() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 7);
        let (_dir, copy) = copied("file", |path| {
            std::fs::write(path, &bytes).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o4711)).unwrap();
            File::open(path).unwrap().set_modified(time).unwrap();
        });
        assert_eq!(std::fs::read(&copy).unwrap(), bytes);
        let found = std::fs::metadata(&copy).unwrap();
        assert_eq!((found.mode() & 0o7777, found.modified().unwrap()), (0o4711, time));
    }

    #[test]
    fn holes_stay_holes() {
        let size = 1 << 32;
        let (_dir, copy) = copied("sparse", |path| {
            let file = File::create(path).unwrap();
            file.set_len(size).unwrap();
            file.write_all_at(b"in the middle", size / 2).unwrap();
        });
        let found = std::fs::metadata(&copy).unwrap();
        assert_eq!(found.len(), size);
        assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
        let mut middle = [0; 13];
        File::open(&copy).unwrap().read_exact_at(&mut middle, size / 2).unwrap();
        assert_eq!(&middle, b"in the middle");
    }

    #[test]
    fn links_and_pipes_are_copied_as_what_they_are() {
        let (_dir, copy) = copied("link", |path| std::os::unix::fs::symlink("/no/where", path).unwrap());
        assert_eq!(std::fs::read_link(copy).unwrap(), std::path::Path::new("/no/where"));
        let (_dir, copy) = copied("pipe", |path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        });
        let found = rustix::fs::stat(&copy).unwrap();
        assert_eq!(FileType::from_raw_mode(found.st_mode), FileType::Fifo);
    }
}
