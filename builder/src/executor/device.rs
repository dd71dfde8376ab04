//! `/dev` of a step: complete before the image can see it, so that nothing of the image decides where a device lands.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::root::{NOEXEC, NOSUID, new_mount};
use super::spec::{Attempt, Failure};
use super::{Process, Security, StepDevice, insecure};

/// Name, major and minor of the nodes that every step has.
pub(super) const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
const DIRECTORIES: [&str; 3] = ["pts", "shm", "mqueue"];

/// The directory, attached nowhere yet.
pub(super) fn directory(process: &Process) -> Result<OwnedFd, Failure> {
    let dev = new_mount("tmpfs", &[("mode", "0755"), ("size", "65536")], NOSUID | NOEXEC)?;
    for (name, major, minor) in NODES {
        let node = StepDevice {
            path: format!("/dev/{name}"),
            block: false,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        make(&dev, &node)?;
    }
    for (to, name) in LINKS {
        rustix::fs::symlinkat(to, &dev, name).attempt(&format!("link `/dev/{name}`"))?;
    }
    for name in DIRECTORIES {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).attempt(&format!("make `/dev/{name}`"))?;
    }
    let of_the_machine = match process.security {
        Security::Sandbox => Vec::new(),
        Security::Insecure => insecure::devices(),
    };
    // What the step names comes first: it may say more about a device.
    for device in process.devices.iter().chain(&of_the_machine) {
        make(&dev, device)?;
    }
    Ok(dev)
}

/// Makes a node and the directories above it. A node that is there already stays.
pub(super) fn make(dev: &OwnedFd, device: &StepDevice) -> Result<(), Failure> {
    let action = format!("make `{}`", device.path);
    let refuse = || Failure::Refused(format!("the device `{}` is not below `/dev`", device.path));
    let below = Path::new(&device.path).strip_prefix("/dev").map_err(|_| refuse())?;
    let mut names = Vec::new();
    for component in below.components() {
        match component {
            Component::Normal(name) => names.push(name),
            _ => return Err(refuse()),
        }
    }
    let (name, parents) = names.split_last().ok_or_else(refuse)?;
    let mut here = dev.try_clone().attempt(&action)?;
    for parent in parents {
        match rustix::fs::mkdirat(&here, *parent, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).attempt(&action),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        here = rustix::fs::openat(&here, *parent, flags, Mode::empty()).attempt(&action)?;
    }
    match node(&here, Path::new(name), device) {
        Err(Errno::EXIST) => Ok(()),
        made => made.attempt(&action),
    }
}

fn node(parent: impl AsFd, name: &Path, device: &StepDevice) -> Result<(), Errno> {
    let kind = if device.block {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let mode = Mode::from_raw_mode(device.mode & 0o777);
    let number = rustix::fs::makedev(device.major, device.minor);
    rustix::fs::mknodat(&parent, name, kind, mode, number)?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    // The umask of this process took bits from the first mode.
    rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())
}
