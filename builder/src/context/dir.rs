//! Descriptors below one root: the only place of this module that talks to the file system.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use proto::tree::{RelPath, Timestamp};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::WalkError;

/// The kernel's limit for one list of names and for one value.
const XATTR_MAX: usize = 64 * 1024;

/// Names with values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The root of a context.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

/// A directory below the root.
#[derive(Debug)]
pub(super) struct Directory {
    fd: OwnedFd,
    path: RelPath,
}

/// What tells whether a file is still the one that was hashed. The change time cannot be set by programs, so equal stamps
/// mean equal bytes, except for changes within the clock's granularity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size_bytes: u64,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
}

impl Stamp {
    /// Device and inode: which file it is, whatever became of it.
    pub(super) const fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub(super) fn of(stat: &Stat) -> Self {
        let time = |seconds: i64, nanoseconds| Timestamp { seconds, nanoseconds };
        let nanoseconds = |value| u32::try_from(value).expect("file times have less than a billion nanoseconds");
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size_bytes: u64::try_from(stat.st_size).expect("sizes are not negative"),
            mtime: time(stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: time(stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }
}

/// The error of a path that was there a moment ago.
pub(super) fn failure(path: &RelPath, errno: Errno) -> WalkError {
    let path = path.clone();
    match errno {
        // Gone, or replaced by something of another kind, a link above all: somebody is writing.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::INVAL | Errno::NODATA | Errno::STALE => {
            WalkError::Changed { path }
        }
        _ => WalkError::Read {
            path,
            source: errno.into(),
        },
    }
}

impl Root {
    /// Links on the way to the root itself are the user's choice and followed.
    pub(super) fn open(path: &Path) -> Result<Self, WalkError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty());
        fd.map(Self).map_err(|errno| WalkError::Root {
            path: path.to_owned(),
            source: errno.into(),
        })
    }

    fn open_below(&self, path: &RelPath, flags: OFlags) -> Result<OwnedFd, WalkError> {
        let bytes = if path.is_root() { b"." } else { path.as_bytes() };
        // From the root each time, so a deep tree costs no descriptors; the kernel refuses links in every component.
        rustix::fs::openat2(
            &self.0,
            bytes,
            flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(|errno| failure(path, errno))
    }

    pub(super) fn directory(&self, path: &RelPath) -> Result<Directory, WalkError> {
        let fd = self.open_below(path, OFlags::DIRECTORY)?;
        let path = path.clone();
        Ok(Directory { fd, path })
    }

    /// Without blocking: a FIFO may have taken the file's place, and would wait for a writer.
    pub(super) fn file(&self, path: &RelPath) -> Result<File, WalkError> {
        Ok(File::from(self.open_below(path, OFlags::NONBLOCK)?))
    }
}

impl Directory {
    /// The path of one of its entries.
    pub(super) fn child(&self, name: &[u8]) -> RelPath {
        self.path.child(name)
    }

    /// All names, in no order.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>, WalkError> {
        let failed = |errno| failure(&self.path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// The entry itself, links included; nothing if there is none.
    pub(super) fn stat(&self, name: &[u8]) -> Result<Option<Stat>, WalkError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failure(&self.child(name), errno)),
        }
    }

    /// A link's target, verbatim.
    pub(super) fn link_target(&self, name: &[u8]) -> Result<Vec<u8>, WalkError> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new());
        let target = target.map_err(|errno| failure(&self.child(name), errno))?;
        Ok(CString::into_bytes(target))
    }

    /// The attributes that images keep, in byte order of their names: file capabilities and `user.*`.
    pub(super) fn xattrs(&self, name: &[u8], buffer: &mut XattrBuffer) -> Result<Xattrs, WalkError> {
        // There is no `listxattrat` before Linux 6.13. This path starts at our descriptor, and a link as its last
        // component is not followed, so it is as safe as one.
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let failed = |errno| failure(&self.child(name), errno);
        let length = match rustix::fs::llistxattr(path.as_slice(), &mut buffer.names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(errno) => return Err(failed(errno)),
        };
        let mut kept = Vec::new();
        for name in buffer.names[..length].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue; // The kernel ends every name with NUL; a list without is empty.
            };
            let bytes = name.to_bytes();
            if bytes == b"security.capability" || bytes.starts_with(b"user.") {
                let length = rustix::fs::lgetxattr(path.as_slice(), name, &mut buffer.value[..]).map_err(failed)?;
                kept.push((bytes.to_owned(), buffer.value[..length].to_owned()));
            }
        }
        kept.sort();
        Ok(kept)
    }
}

/// Room for the largest attributes, used again for every file.
#[derive(Debug)]
pub(super) struct XattrBuffer {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Default for XattrBuffer {
    fn default() -> Self {
        Self {
            names: vec![0; XATTR_MAX],
            value: vec![0; XATTR_MAX],
        }
    }
}

/// What kind of file a mode says.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
