//! What the kernel shows of itself to steps, less what tells about the host, and less what changes it.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, open_tree};

use super::root::{NODEV, NOEXEC, NOSUID, RDONLY, attach_at, clone_flags, clone_of, set_attributes};
use super::spec::{Attempt, Failure};

/// Hidden from steps: what tells about the host, or lets it be changed.
const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/security",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What an empty file or directory is put over, and what becomes read-only. Some kernels lack some of it.
///
/// Found in the mounts themselves before they are attached: no link of an image has a say in what is protected. Only what is
/// there gets a mount of its own, since the kernel waits for all processors when one goes that was never attached.
pub(super) struct Masks {
    hidden: Vec<(&'static str, OwnedFd, OwnedFd)>,
    readonly: Vec<(&'static str, OwnedFd)>,
}

impl Masks {
    /// Finds what to protect in `kernel`, mounts with the paths that they will have. `file` and `dir` are empty.
    pub(super) fn find(kernel: &[(&str, &OwnedFd)], file: &Path, dir: &Path) -> Result<Self, Failure> {
        let attributes: MountAttrFlags = RDONLY | NOSUID | NODEV | NOEXEC;
        let mut masks = Self {
            hidden: Vec::with_capacity(MASKED.len()),
            readonly: Vec::with_capacity(READONLY.len()),
        };
        for path in MASKED {
            let Some(found) = find(kernel, path)? else { continue };
            let stat = rustix::fs::fstat(&found).attempt(&format!("read `{path}`"))?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let cover = clone_of(if is_dir { dir } else { file }, attributes)?;
            masks.hidden.push((path, found, cover));
        }
        for path in READONLY {
            masks.readonly.extend(find(kernel, path)?.map(|found| (path, found)));
        }
        Ok(masks)
    }

    /// Protects it, once the mounts are attached.
    pub(super) fn put_on(self) -> Result<(), Failure> {
        for (path, found) in self.readonly {
            let clone = open_tree(&found, "", clone_flags()).attempt(&format!("copy the mount of `{path}`"))?;
            set_attributes(&clone, RDONLY | NOSUID | NODEV | NOEXEC).attempt(&format!("make `{path}` read-only"))?;
            attach_at(&clone, &found).attempt(&format!("make `{path}` read-only"))?;
        }
        for (path, found, cover) in self.hidden {
            attach_at(&cover, &found).attempt(&format!("mask `{path}`"))?;
        }
        Ok(())
    }
}

/// A path in the mount that holds it.
fn find(kernel: &[(&str, &OwnedFd)], path: &str) -> Result<Option<OwnedFd>, Failure> {
    let holder = |(target, mount): &(&str, &'_ OwnedFd)| {
        let below = path.strip_prefix(target)?.strip_prefix('/')?.to_owned();
        Some((mount.try_clone(), below))
    };
    // Deeper mounts come later and would hide it.
    let Some((mount, below)) = kernel.iter().rev().find_map(holder) else {
        return Ok(None);
    };
    let mount = mount.attempt(&format!("open `{path}`"))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&mount, below, flags, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).attempt(&format!("open `{path}`")),
    }
}
