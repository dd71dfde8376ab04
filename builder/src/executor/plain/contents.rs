//! `/dev` and `/proc` of a step that nothing can be mounted for.
//!
//! `/dev` has the nodes that every step has, where the container allows making them, and names for the step's own input and
//! output. `/proc` has facts about the machine only, as plain files: what it says about processes cannot be made, and programs
//! that find nothing do better than those that find something wrong.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::Process;
use super::super::device::{Maker, make, standard};
use super::super::spec::{Attempt, Failure};
use super::supervisor::Printed;

/// Names of what the step prints to, and of its empty input.
const LINKS: [(&str, &str); 5] = [
    ("null", "stdin"),
    ("stdout", "stderr"),
    ("../stdin", "fd/0"),
    ("../stdout", "fd/1"),
    ("../stdout", "fd/2"),
];
/// Directories and their modes.
const DIRECTORIES: [(&str, u32); 4] = [("fd", 0o755), ("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)];

/// What programs ask `/proc` about the machine. None of it says anything about processes.
const FACTS: [&str; 21] = [
    "cpuinfo",
    "devices",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "uptime",
    "version",
    "sys/fs/file-max",
    "sys/fs/inotify/max_user_watches",
    "sys/kernel/cap_last_cap",
    "sys/kernel/ngroups_max",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/pid_max",
    "sys/kernel/random/boot_id",
    "sys/kernel/version",
    "sys/net/core/somaxconn",
    "sys/vm/max_map_count",
    "sys/vm/mmap_min_addr",
    "sys/vm/overcommit_memory",
];
/// The one file system that a step sees.
const MOUNTS: &str = "rootfs / rootfs rw 0 0\n";

/// Makes `/dev` as `name` in the directory `at`. Returns the pipe behind its `stdout`.
pub(super) fn dev(at: BorrowedFd<'_>, name: &str, process: &Process) -> Result<Printed, Failure> {
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755)).attempt("make `/dev`")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dev = rustix::fs::openat(at, name, flags, Mode::empty()).attempt("open `/dev`")?;
    nodes(&dev)?;
    for (name, mode) in DIRECTORIES {
        rustix::fs::mkdirat(&dev, name, Mode::RWXU).attempt(&format!("make `/dev/{name}`"))?;
        rustix::fs::chmodat(&dev, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .attempt(&format!("make `/dev/{name}`"))?;
    }
    for (to, name) in LINKS {
        rustix::fs::symlinkat(to, &dev, name).attempt(&format!("link `/dev/{name}`"))?;
    }
    for device in &process.devices {
        make(&dev, device, &mut Maker::InPlace)?;
    }
    rustix::fs::mknodat(&dev, "stdout", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).attempt("make `/dev/stdout`")?;
    Printed::open(std::os::fd::AsFd::as_fd(&dev), "stdout").attempt("open `/dev/stdout`")
}

/// The nodes that every step has. In a container that may not make any, `null` is an empty file, and the others are missing.
fn nodes(dev: &OwnedFd) -> Result<(), Failure> {
    let probe = rustix::fs::mknodat(
        dev,
        "probe",
        FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 3),
    );
    match probe {
        Ok(()) => rustix::fs::unlinkat(dev, "probe", AtFlags::empty()).attempt("make `/dev`")?,
        Err(Errno::PERM | Errno::ACCESS) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let null = rustix::fs::openat(dev, "null", flags, Mode::RUSR).attempt("make `/dev/null`")?;
            return rustix::fs::fchmod(null, Mode::from_raw_mode(0o666)).attempt("make `/dev/null`");
        }
        Err(error) => return Err(error).attempt("make `/dev`"),
    }
    for node in standard() {
        make(dev, &node, &mut Maker::InPlace)?;
    }
    Ok(())
}

/// Makes `/proc` at `path`.
pub(super) fn proc(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    for fact in FACTS {
        // Kernels differ in what they have, and containers in what they show.
        let Ok(bytes) = fs::read(Path::new("/proc").join(fact)) else {
            continue;
        };
        let copy = path.join(fact);
        if let Some(parent) = copy.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(copy, bytes)?;
    }
    fs::write(path.join("mounts"), MOUNTS)
}
