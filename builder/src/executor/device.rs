//! `/dev` of a step: complete before the image can see it, so that nothing of the image decides where a device lands.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::root::{NOEXEC, NOSUID, clone_of, new_mount};
use super::spec::{Attempt, Failure};
use super::{Process, Security, StepDevice, insecure};
use crate::ids::Ids;

/// Name, major and minor of the nodes that every step has.
const NODES: [(&str, u32, u32); 6] = [
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

/// A device of the machine, to be put over a file of [`directory`].
pub(super) struct Bound {
    /// Its path in the step.
    pub(super) path: String,
    /// The machine's own node.
    pub(super) mount: OwnedFd,
}

/// The directory, attached nowhere yet, and what is to be mounted in it where nodes cannot be made.
pub(super) fn directory(process: &Process, ids: Ids) -> Result<(OwnedFd, Vec<Bound>), Failure> {
    let dev = new_mount("tmpfs", &[("mode", "0755"), ("size", "65536")], NOSUID | NOEXEC)?;
    let mut bound = Vec::new();
    let mut put = |device: &StepDevice| match ids.is_outside() {
        true => make(&dev, device),
        // One that is there already stays.
        false if bound.iter().any(|there: &Bound| there.path == device.path) => Ok(()),
        false => bind(device).map(|device| bound.push(device)),
    };
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
        put(&node)?;
    }
    for (to, name) in LINKS {
        rustix::fs::symlinkat(to, &dev, name).attempt(&format!("link `/dev/{name}`"))?;
    }
    for name in DIRECTORIES {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).attempt(&format!("make `/dev/{name}`"))?;
    }
    // What the step names comes before what the machine has: it may say more about a device.
    process.devices.iter().try_for_each(&mut put)?;
    if process.security == Security::Insecure {
        let of_the_machine = insecure::devices();
        let usable = |device: &&StepDevice| ids.is_outside() || on_the_machine(device).is_some();
        of_the_machine.iter().filter(usable).try_for_each(&mut put)?;
    }
    Ok((dev, bound))
}

/// A copy of the mount with the machine's own node, which inside a user namespace is the only way to a device.
fn bind(device: &StepDevice) -> Result<Bound, Failure> {
    checked_names(device)?;
    let path = on_the_machine(device).ok_or_else(|| {
        let (path, major, minor) = (&device.path, device.major, device.minor);
        Failure::Refused(format!(
            "the device `{path}` cannot be made without root, and no node of this machine has its numbers {major}:{minor}"
        ))
    })?;
    Ok(Bound {
        path: device.path.clone(),
        mount: clone_of(&path, NOSUID | NOEXEC)?,
    })
}

/// Where the machine has the device.
fn on_the_machine(device: &StepDevice) -> Option<PathBuf> {
    let kind = if device.block { "block" } else { "char" };
    let by_number = PathBuf::from(format!("/dev/{kind}/{}:{}", device.major, device.minor));
    let candidates = [PathBuf::from(&device.path), by_number];
    let number = rustix::fs::makedev(device.major, device.minor);
    candidates.into_iter().find_map(|path| {
        let path = fs::canonicalize(path).ok()?;
        let found = fs::metadata(&path).ok()?;
        let same_kind = match device.block {
            true => found.file_type().is_block_device(),
            false => found.file_type().is_char_device(),
        };
        (same_kind && found.rdev() == number).then_some(path)
    })
}

/// The names of a device's path below `/dev`.
fn checked_names(device: &StepDevice) -> Result<Vec<&OsStr>, Failure> {
    let refuse = || Failure::Refused(format!("the device `{}` is not below `/dev`", device.path));
    let below = Path::new(&device.path).strip_prefix("/dev").map_err(|_| refuse())?;
    let mut names = Vec::new();
    for component in below.components() {
        match component {
            Component::Normal(name) => names.push(name),
            _ => return Err(refuse()),
        }
    }
    match names.is_empty() {
        true => Err(refuse()),
        false => Ok(names),
    }
}

/// Makes a node and the directories above it. A node that is there already stays.
fn make(dev: &OwnedFd, device: &StepDevice) -> Result<(), Failure> {
    let action = format!("make `{}`", device.path);
    let names = checked_names(device)?;
    let Some((name, parents)) = names.split_last() else {
        return Ok(());
    };
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
