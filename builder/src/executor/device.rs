//! `/dev` of a step: complete before the image can see it, so that nothing of the image decides where a device lands.
//!
//! A step may make device nodes, as in every container, and `/dev` is writable. So the directory itself opens no devices: a node
//! that a step makes there would be the disk of the machine. The devices that a step has are nodes elsewhere, each mounted over
//! a file of its name. This needs no control group, which a machine may lack.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::root::{NODEV, NOEXEC, NOSUID, attach_at, new_mount};
use super::spec::{Attempt, Failure};
use super::{Process, Security, StepDevice, insecure};
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

/// Where nodes are made.
enum Maker {
    /// In the directory: the step may open any device.
    InPlace,
    /// In this directory of the scratch space, to be mounted.
    Apart { dir: PathBuf, nodes: Nodes },
}

/// The directory, attached nowhere yet, and its devices. `apart` is a name in the scratch space for them.
pub(super) fn directory(process: &Process, apart: &Path) -> Result<(OwnedFd, Nodes), Failure> {
    let (attributes, mut maker) = match process.security {
        Security::Sandbox => {
            fs::create_dir(apart).attempt("make a directory for devices")?;
            let nodes = Nodes(Vec::with_capacity(NODES.len() + process.devices.len()));
            (
                NODEV,
                Maker::Apart {
                    dir: apart.to_owned(),
                    nodes,
                },
            )
        }
        Security::Insecure => (MountAttrFlags::empty(), Maker::InPlace),
    };
    let dev = new_mount(
        "tmpfs",
        &[("mode", "0755"), ("size", "65536")],
        NOSUID | NOEXEC | attributes,
    )?;
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
        make(&dev, &node, &mut maker)?;
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
        make(&dev, device, &mut maker)?;
    }
    let nodes = match maker {
        Maker::InPlace => Nodes(Vec::new()),
        Maker::Apart { nodes, .. } => nodes,
    };
    Ok((dev, nodes))
}

/// Makes a node and the directories above it. A node that is there already stays.
fn make(dev: &OwnedFd, device: &StepDevice, maker: &mut Maker) -> Result<(), Failure> {
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
    match maker {
        Maker::InPlace => match node(&here, Path::new(name), device) {
            Err(Errno::EXIST) => Ok(()),
            made => made.attempt(&action),
        },
        Maker::Apart { dir, nodes } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = match rustix::fs::openat(&here, *name, flags, Mode::from_raw_mode(0o644)) {
                Err(Errno::EXIST) => return Ok(()),
                made => made.attempt(&action)?,
            };
            let path = dir.join(nodes.0.len().to_string());
            nodes
                .0
                .push((device.path.clone(), place, mount_of(&path, device).attempt(&action)?));
            Ok(())
        }
    }
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
