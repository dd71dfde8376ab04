//! What the kernel shows of itself to steps, less what tells about the host, and less what changes it.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, open_tree};

use super::root::{NODEV, NOEXEC, NOSUID, RDONLY, attach_at, clone_flags, clone_of, set_attributes};
use super::spec::{Attempt, Failure};

/// Hidden from steps: what tells about the host, or lets it be changed.
pub(super) const MASKED: [&str; 16] = [
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
    "/sys/fs/selinux",
    "/sys/kernel/security",
];
pub(super) const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where each processor has a directory, and what is hidden in it: how hot it gets tells about others.
pub(super) const PROCESSORS: (&str, &str) = ("/sys/devices/system/cpu", "thermal_throttle");

/// What an empty file or directory is put over, and what becomes read-only. Some kernels lack some of it.
///
/// Found in the mounts themselves before they are attached: no link of an image has a say in what is protected. Only what is
/// there gets a mount of its own, since the kernel waits for all processors when one goes that was never attached.
pub(super) struct Masks {
    hidden: Vec<(String, OwnedFd, OwnedFd)>,
    readonly: Vec<(&'static str, OwnedFd)>,
}

impl Masks {
    /// Finds what to protect in `kernel`, mounts with the paths that they will have. `file` and `dir` are empty.
    pub(super) fn find(kernel: &[(&str, &OwnedFd)], file: &Path, dir: &Path) -> Result<Self, Failure> {
        let mut masks = Self {
            hidden: Vec::with_capacity(MASKED.len()),
            readonly: Vec::with_capacity(READONLY.len()),
        };
        for path in MASKED {
            masks.hide(path, find(kernel, path)?, (file, dir))?;
        }
        masks.hide_heat(kernel, (file, dir))?;
        for path in READONLY {
            masks.readonly.extend(find(kernel, path)?.map(|found| (path, found)));
        }
        Ok(masks)
    }

    fn hide(&mut self, path: &str, found: Option<OwnedFd>, (file, dir): (&Path, &Path)) -> Result<(), Failure> {
        let Some(found) = found else { return Ok(()) };
        let stat = rustix::fs::fstat(&found).attempt(&format!("read `{path}`"))?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let attributes: MountAttrFlags = RDONLY | NOSUID | NODEV | NOEXEC;
        let cover = clone_of(if is_dir { dir } else { file }, attributes)?;
        self.hidden.push((path.to_owned(), found, cover));
        Ok(())
    }

    /// All processors are of one kind: where the first has nothing to hide, none has.
    fn hide_heat(&mut self, kernel: &[(&str, &OwnedFd)], covers: (&Path, &Path)) -> Result<(), Failure> {
        let (above, name) = PROCESSORS;
        if find(kernel, &format!("{above}/cpu0/{name}"))?.is_none() {
            return Ok(());
        }
        let Some(all) = find(kernel, above)? else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let all = rustix::fs::openat(&all, ".", flags, Mode::empty()).attempt("list the processors")?;
        for entry in Dir::read_from(&all).attempt("list the processors")? {
            let entry = entry.attempt("list the processors")?;
            // What is no processor has no such directory.
            let path = format!("{above}/{}/{name}", entry.file_name().to_string_lossy());
            if entry.file_name().to_bytes().starts_with(b"cpu") {
                self.hide(&path, find(kernel, &path)?, covers)?;
            }
        }
        Ok(())
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
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error).attempt(&format!("open `{path}`")),
    }
}
