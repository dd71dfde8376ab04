//! `/dev` of a step: complete before the image can see it, so that nothing of the image decides where a device lands.
//!
//! A step may make device nodes, as in every container, and `/dev` is writable. So the directory itself opens no devices: a node
//! that a step makes there would be the disk of the machine. The devices that a step has are nodes elsewhere, each mounted over
//! a file of its name. This needs no control group, which a machine may lack. Inside a user namespace nobody can make nodes, and
//! those of the machine are mounted.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::root::{NODEV, NOEXEC, NOSUID, attach_at, clone_of, new_mount};
use super::spec::{Attempt, Failure};
use super::{Process, Security, StepDevice, insecure};
use crate::ids::Ids;
use crate::sys;

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

/// Devices that wait for their directory to be attached: what each is called, where it goes, and its mount.
pub(super) struct Nodes(Vec<(String, OwnedFd, OwnedFd)>);

impl Nodes {
    /// Mounts them, once the directory is attached.
    pub(super) fn put_on(self) -> Result<(), Failure> {
        for (path, place, mount) in self.0 {
            attach_at(&mount, &place).attempt(&format!("mount `{path}`"))?;
        }
        Ok(())
    }
}

/// Where nodes come from.
pub(super) enum Maker {
    /// They are made in the directory: the step may open any device.
    InPlace,
    /// They are made in this directory of the scratch space, to be mounted.
    Apart { dir: PathBuf, nodes: Nodes },
    /// They are those of the machine, to be mounted.
    Machine { nodes: Nodes },
}

impl Maker {
    fn new(process: &Process, ids: Ids, apart: &Path) -> Result<Self, Failure> {
        let nodes = Nodes(Vec::with_capacity(NODES.len() + process.devices.len()));
        if !ids.is_outside() {
            return Ok(Self::Machine { nodes });
        }
        if process.security == Security::Insecure {
            return Ok(Self::InPlace);
        }
        fs::create_dir(apart).attempt("make a directory for devices")?;
        let dir = apart.to_owned();
        Ok(Self::Apart { dir, nodes })
    }

    /// What is to be mounted.
    fn nodes(self) -> Nodes {
        match self {
            Self::InPlace => Nodes(Vec::new()),
            Self::Apart { nodes, .. } | Self::Machine { nodes } => nodes,
        }
    }
}

/// The nodes that every step has.
pub(super) fn standard() -> impl Iterator<Item = StepDevice> {
    NODES.into_iter().map(|(name, major, minor)| StepDevice {
        path: format!("/dev/{name}"),
        block: false,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    })
}

/// The directory, attached nowhere yet, and its devices. `apart` is a name in the scratch space for them.
pub(super) fn directory(process: &Process, ids: Ids, apart: &Path) -> Result<(OwnedFd, Nodes), Failure> {
    let mut maker = Maker::new(process, ids, apart)?;
    let attributes = match maker {
        Maker::InPlace => NOSUID | NOEXEC,
        Maker::Apart { .. } | Maker::Machine { .. } => NOSUID | NOEXEC | NODEV,
    };
    let dev = new_mount("tmpfs", &[("mode", "0755"), ("size", "65536")], attributes)?;
    for node in standard() {
        make(&dev, &node, &mut maker)?;
    }
    for (to, name) in LINKS {
        rustix::fs::symlinkat(to, &dev, name).attempt(&format!("link `/dev/{name}`"))?;
    }
    for name in DIRECTORIES {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).attempt(&format!("make `/dev/{name}`"))?;
    }
    // What the step names comes before what the machine has: it may say more about a device.
    for device in &process.devices {
        make(&dev, device, &mut maker)?;
    }
    if process.security == Security::Insecure {
        let of_the_machine = insecure::devices();
        let usable = |device: &&StepDevice| ids.is_outside() || on_the_machine(device).is_some();
        for device in of_the_machine.iter().filter(usable) {
            make(&dev, device, &mut maker)?;
        }
    }
    Ok((dev, maker.nodes()))
}

/// Makes a node, or a file to mount one over, and the directories above it. What is there already stays.
pub(super) fn make(dev: &OwnedFd, device: &StepDevice, maker: &mut Maker) -> Result<(), Failure> {
    let action = format!("make `{}`", device.path);
    let (name, parents) = names_below_dev(device)?;
    let mut here = dev.try_clone().attempt(&action)?;
    for parent in parents {
        match rustix::fs::mkdirat(&here, parent, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).attempt(&action),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        here = rustix::fs::openat(&here, parent, flags, Mode::empty()).attempt(&action)?;
    }
    let place = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&here, name, flags, Mode::from_raw_mode(0o644)) {
            Err(Errno::EXIST) => Ok(None),
            made => made.map(Some).attempt(&action),
        }
    };
    match maker {
        Maker::InPlace => match node(&here, Path::new(name), device) {
            Err(Errno::EXIST) => {}
            made => made.attempt(&action)?,
        },
        Maker::Apart { dir, nodes } => {
            if let Some(place) = place()? {
                let mount = mount_of(&dir.join(nodes.0.len().to_string()), device).attempt(&action)?;
                nodes.0.push((device.path.clone(), place, mount));
            }
        }
        Maker::Machine { nodes } => {
            if let Some(place) = place()? {
                nodes
                    .0
                    .push((device.path.clone(), place, mount_of_the_machine(device)?));
            }
        }
    }
    Ok(())
}

/// The name of a device below `/dev`, and the directories above it.
fn names_below_dev(device: &StepDevice) -> Result<(&OsStr, Vec<&OsStr>), Failure> {
    let refuse = || Failure::Refused(format!("the device `{}` is not below `/dev`", device.path));
    let below = Path::new(&device.path).strip_prefix("/dev").map_err(|_| refuse())?;
    let mut names = Vec::new();
    for component in below.components() {
        match component {
            Component::Normal(name) => names.push(name),
            _ => return Err(refuse()),
        }
    }
    let name = names.pop().ok_or_else(refuse)?;
    Ok((name, names))
}

/// A copy of the mount with the machine's own node, which inside a user namespace is the only way to a device.
fn mount_of_the_machine(device: &StepDevice) -> Result<OwnedFd, Failure> {
    let path = on_the_machine(device).ok_or_else(|| {
        let (path, major, minor) = (&device.path, device.major, device.minor);
        Failure::Refused(format!(
            "the device `{path}` cannot be made without root, and no node of this machine has its numbers {major}:{minor}"
        ))
    })?;
    clone_of(&path, NOSUID | NOEXEC)
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

/// A mount of a new node at `path` that opens its device.
fn mount_of(path: &Path, device: &StepDevice) -> std::io::Result<OwnedFd> {
    node(CWD, path, device)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags)?;
    let (set, clear) = ((NOSUID | NOEXEC).bits(), NODEV.bits());
    sys::mount_setattr(&mount, u64::from(set), u64::from(clear))?;
    Ok(mount)
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
