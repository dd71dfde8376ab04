//! The file systems of a step: its root, what the kernel shows in it, and what is mounted over it.
//!
//! Order matters. Everything that comes from the host is opened, and everything that the engine makes (empty files for masks,
//! secrets, generated files) is written to a scratch file system, before the image is visible. Then the root is entered for good,
//! and from there on mounts are attached to descriptors found by [`Tree`], never to paths.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};

use super::mask::Masks;
use super::spec::{Attempt, Failure, NetworkPlan, Spec};
use super::target::{Tree, Want};
use super::{MountSource, Security, StepMount, device};
use crate::ids::Ids;
use crate::snapshot::rootfs::Rootfs;
use crate::sys;

/// Where the scratch file system is attached: a directory that every host has and that nothing below is needed of. The step's
/// namespace is private, so the host never sees it.
pub(super) const SCRATCH: &str = "/sys";

pub(super) const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub(super) const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub(super) const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
pub(super) const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const NONE: MountAttrFlags = MountAttrFlags::empty();

/// The kernel cuts a string option here; longer paths are named through a descriptor.
const MAX_OPTION_BYTES: usize = 256;
const SHM_BYTES: u64 = 64 << 20;
/// `f_type` of file systems that no mount may be placed in.
const KERNEL_FILE_SYSTEMS: [i64; 4] = [0x9fa0, 0x6265_6572, 0x6367_7270, 0x0027_e0eb];

/// A mount that is attached nowhere yet.
struct Detached {
    target: String,
    mount: OwnedFd,
    want: Want,
}

/// The root of the step, entered.
pub(super) struct Entered {
    pub(super) tree: Tree,
    pub(super) stubs: Vec<PathBuf>,
}

/// Builds all mounts and enters the root. Must run in a new mount namespace, as pid 1 of a new pid namespace.
pub(super) fn enter(spec: &Spec) -> Result<Entered, Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).attempt("make mounts private")?;
    let scratch = Scratch::attach(spec.ids)?;
    let process = &spec.process;
    // Devices of an image open nothing in a sandbox.
    let attributes = match process.security {
        Security::Sandbox | Security::Hardened => NODEV,
        Security::Insecure => NONE,
    };
    let root = scratch.rootfs(&process.rootfs, "root", attributes)?;
    let (kernel, nodes) = kernel_mounts(spec, &scratch)?;
    let masks = match process.security {
        Security::Sandbox | Security::Hardened => Some(scratch.masks(&kernel)?),
        Security::Insecure => None,
    };
    let mut generated = vec![
        scratch.file("/etc/hosts", spec.hosts.as_bytes(), 0o644, NOEXEC)?,
        scratch.file("/etc/resolv.conf", spec.resolv_conf.as_bytes(), 0o644, NOEXEC)?,
    ];
    for file in &process.files {
        generated.push(scratch.file(&file.path, &file.bytes, file.mode, NONE)?);
    }
    let mut asked: Vec<Detached> = process
        .mounts
        .iter()
        .map(|mount| scratch.source(mount))
        .collect::<Result<_, _>>()?;
    // A mount must not cover one that is below it.
    asked.sort_by_key(|mount| Path::new(&mount.target).components().count());

    let mut entered = pivot(root)?;
    entered.attach_kernel(kernel)?;
    nodes.put_on()?;
    if let Some(masks) = masks {
        masks.put_on()?;
    }
    for mount in generated.into_iter().chain(asked) {
        entered.attach(mount)?;
    }
    Ok(entered)
}

/// Makes `root` the root directory and drops everything else.
fn pivot(root: OwnedFd) -> Result<Entered, Failure> {
    rustix::process::fchdir(&root).attempt("enter the root filesystem")?;
    rustix::process::pivot_root(".", ".").attempt("change the root")?;
    unmount(".", UnmountFlags::DETACH).attempt("leave the host's file systems")?;
    rustix::process::chdir("/").attempt("enter the root filesystem")?;
    let tree = Tree::new(root).attempt("read the root filesystem")?;
    Ok(Entered {
        tree,
        stubs: Vec::new(),
    })
}

impl Entered {
    /// Attaches `/proc`, `/sys` and `/dev`, whose directories stay in the layer where an image lacked them.
    fn attach_kernel(&self, kernel: Vec<Detached>) -> Result<(), Failure> {
        for mount in kernel {
            let reached = self
                .tree
                .reach(&mount.target, mount.want)
                .map_err(|error| unreachable(&mount.target, error))?;
            attach_at(&mount.mount, &reached.fd).attempt(&format!("mount `{}`", mount.target))?;
        }
        Ok(())
    }

    fn attach(&mut self, mount: Detached) -> Result<(), Failure> {
        let target = &mount.target;
        let reached = self
            .tree
            .reach(target, mount.want)
            .map_err(|error| unreachable(target, error))?;
        let file_system = rustix::fs::fstatfs(&reached.fd)
            .attempt(&format!("read `{target}`"))?
            .f_type;
        if KERNEL_FILE_SYSTEMS.contains(&file_system) {
            return Err(Failure::Refused(format!(
                "mount target `{target}` leads into a file system of the kernel"
            )));
        }
        self.stubs.extend(reached.created);
        attach_at(&mount.mount, &reached.fd).attempt(&format!("mount `{target}`"))
    }
}

fn unreachable(target: &str, error: Errno) -> Failure {
    Failure::Refused(format!("cannot make mount point `{target}`: {error}"))
}

pub(super) fn attach_at(mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

pub(super) fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH
}

pub(super) fn set_attributes(mount: &OwnedFd, attributes: MountAttrFlags) -> std::io::Result<()> {
    sys::mount_setattr(mount, u64::from(attributes.bits()), 0)
}

/// A new file system of `kind` with string `options`; an option with an empty value is a flag.
pub(super) fn new_mount(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let action = format!("make a file system of type {kind}");
    let config = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).attempt(&action)?;
    for (key, value) in options {
        let set = if value.is_empty() {
            fsconfig_set_flag(&config, *key)
        } else {
            fsconfig_set_string(&config, *key, *value)
        };
        set.attempt(&format!("{action}: set {key}={value}"))?;
    }
    fsconfig_create(&config).attempt(&action)?;
    fsmount(&config, FsMountFlags::FSMOUNT_CLOEXEC, attributes).attempt(&action)
}

fn kernel_mounts(spec: &Spec, scratch: &Scratch) -> Result<(Vec<Detached>, device::Nodes), Failure> {
    let all = NOSUID | NODEV | NOEXEC;
    let settings = match spec.process.security {
        Security::Sandbox | Security::Hardened => all | RDONLY,
        Security::Insecure => all,
    };
    let shm_bytes = spec.process.shm_size_bytes.unwrap_or(SHM_BYTES).to_string();
    let pts = [
        ("newinstance", ""),
        ("ptmxmode", "0666"),
        ("mode", "0620"),
        ("gid", "5"),
    ];
    // The group of terminals has no number where there is only root.
    let pts = match spec.ids {
        Ids::One => &pts[..3],
        Ids::All | Ids::Range => &pts[..],
    };
    // The kernel shows itself only to the owner of a network.
    let is_bare_sys = spec.network == NetworkPlan::Host && !spec.ids.is_outside();
    let sys = match is_bare_sys {
        true => new_mount("tmpfs", &[("mode", "0555")], all | RDONLY)?,
        false => new_mount("sysfs", &[], settings)?,
    };
    let (dev, nodes) = device::directory(&spec.process, spec.ids, &scratch.fresh())?;
    let mut mounts = vec![
        ("/proc", new_mount("proc", &[], all)?),
        ("/sys", sys),
        ("/dev", dev),
        ("/dev/pts", new_mount("devpts", pts, NOSUID | NOEXEC)?),
        (
            "/dev/shm",
            new_mount("tmpfs", &[("mode", "1777"), ("size", &shm_bytes)], all)?,
        ),
        ("/dev/mqueue", new_mount("mqueue", &[], all)?),
    ];
    if spec.show_cgroup && !is_bare_sys {
        mounts.push(("/sys/fs/cgroup", new_mount("cgroup2", &[], settings)?));
    }
    let detached = |(target, mount): (&str, OwnedFd)| Detached {
        target: target.to_owned(),
        mount,
        want: Want::Dir,
    };
    Ok((mounts.into_iter().map(detached).collect(), nodes))
}

/// A file system in memory for what the engine makes. It is gone when the root is entered; what was mounted from it stays.
struct Scratch {
    count: std::cell::Cell<u32>,
    ids: Ids,
}

impl Scratch {
    fn attach(ids: Ids) -> Result<Self, Failure> {
        let mount = new_mount("tmpfs", &[("mode", "0700")], NOSUID | NODEV)?;
        move_mount(&mount, "", CWD, SCRATCH, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .attempt("attach the scratch space")?;
        fs::create_dir(Path::new(SCRATCH).join("empty")).attempt("make an empty directory")?;
        Ok(Self {
            count: std::cell::Cell::new(0),
            ids,
        })
    }

    fn fresh(&self) -> PathBuf {
        self.count.set(self.count.get() + 1);
        Path::new(SCRATCH).join(self.count.get().to_string())
    }

    fn masks(&self, kernel: &[Detached]) -> Result<Masks, Failure> {
        let file = self.write(b"", 0o444)?;
        let dir = Path::new(SCRATCH).join("empty");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).attempt("make an empty directory")?;
        let kernel: Vec<(&str, &OwnedFd)> = kernel
            .iter()
            .map(|mount| (mount.target.as_str(), &mount.mount))
            .collect();
        Masks::find(&kernel, &file, &dir)
    }

    fn write(&self, bytes: &[u8], mode: u32) -> Result<PathBuf, Failure> {
        let path = self.fresh();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .attempt("make a file")?;
        file.write_all(bytes).attempt("write a generated file")?;
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))
            .attempt("set the mode of a generated file")?;
        Ok(path)
    }

    /// A read-only file with these bytes.
    fn file(&self, target: &str, bytes: &[u8], mode: u32, more: MountAttrFlags) -> Result<Detached, Failure> {
        let path = self.write(bytes, mode)?;
        let mount = clone_of(&path, RDONLY | NOSUID | NODEV | more)?;
        Ok(Detached {
            target: target.to_owned(),
            mount,
            want: Want::File,
        })
    }

    /// Attaches a root filesystem, so that paths can be resolved and copied in it.
    fn rootfs(&self, rootfs: &Rootfs, name: &str, attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
        let mount = match rootfs {
            Rootfs::Directory(path) => clone_of(path, attributes)?,
            Rootfs::Overlay { lower, upper } => overlay(lower, upper.as_ref(), attributes, self.ids)?,
        };
        let place = Path::new(SCRATCH).join(name);
        fs::create_dir(&place).attempt("make a mount point")?;
        move_mount(&mount, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .attempt("attach a root filesystem")?;
        Ok(mount)
    }

    fn source(&self, asked: &StepMount) -> Result<Detached, Failure> {
        let readonly = if asked.readonly { RDONLY } else { NONE };
        let attributes = NOSUID | NODEV | readonly;
        let target = asked.target.clone();
        let mount = match &asked.source {
            MountSource::Rootfs { rootfs, subpath } => {
                let name = self.fresh();
                let root = self.rootfs(rootfs, &name.to_string_lossy(), NOSUID | NODEV)?;
                below(&root, subpath, attributes)?
            }
            MountSource::Directory { path, subpath } => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = rustix::fs::open(path, flags, Mode::empty()).attempt("open the source of a mount")?;
                below(&root, subpath, attributes)?
            }
            MountSource::Socket { path } => clone_of(path, attributes | NOEXEC)?,
            MountSource::Machine { path } => clone_of(path, attributes)?,
            MountSource::Tmpfs { size_bytes, mode } => {
                // tmpfs limits itself to half of memory unless told otherwise; 0 is no limit.
                let size = size_bytes.unwrap_or(0).to_string();
                new_mount("tmpfs", &[("mode", &format!("{mode:o}")), ("size", &size)], attributes)?
            }
            MountSource::Secret { value, mode, uid, gid } => {
                let path = self.write(&value.0, *mode)?;
                // Where there is only root, everybody who could read it is root.
                if self.ids != Ids::One {
                    std::os::unix::fs::chown(&path, Some(*uid), Some(*gid)).attempt("set the owner of a secret")?;
                }
                // A change of owner clears set-id bits only; the mode stays.
                clone_of(&path, RDONLY | NOSUID | NODEV | NOEXEC)?
            }
        };
        let stat = rustix::fs::fstat(&mount).attempt("read the source of a mount")?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(Detached {
            target,
            mount,
            want: if is_dir { Want::Dir } else { Want::File },
        })
    }
}

/// A copy of the mount at a trusted `path`, showing only that path.
pub(super) fn clone_of(path: &Path, attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags).attempt(&format!("copy the mount of `{}`", path.display()))?;
    set_attributes(&mount, attributes).attempt("set the options of a mount")?;
    Ok(mount)
}

/// A copy of what `subpath` leads to inside `root`.
fn below(root: &OwnedFd, subpath: &Path, attributes: MountAttrFlags) -> Result<OwnedFd, Failure> {
    let subpath = if subpath.as_os_str().is_empty() {
        Path::new("/")
    } else {
        subpath
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(root, subpath, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(|error| Failure::Refused(format!("cannot mount `{}`: {error}", subpath.display())))?;
    let mount = open_tree(&fd, "", clone_flags()).attempt("copy the source of a mount")?;
    set_attributes(&mount, attributes).attempt("set the options of a mount")?;
    Ok(mount)
}

/// Layers are added one by one: the string of `mount(2)` ends at a page, which is some sixty layers.
fn overlay(
    lower: &[PathBuf],
    upper: Option<&crate::snapshot::rootfs::Upper>,
    attributes: MountAttrFlags,
    ids: Ids,
) -> Result<OwnedFd, Failure> {
    let config = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).attempt("make an overlay")?;
    let set = |key: &str, path: &Path| {
        let action = format!("make an overlay: {key}={}", path.display());
        if path.as_os_str().len() < MAX_OPTION_BYTES {
            return fsconfig_set_string(&config, key, path).attempt(&action);
        }
        let dir = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .attempt(&action)?;
        fsconfig_set_string(&config, key, format!("/proc/self/fd/{}", dir.as_raw_fd())).attempt(&action)
    };
    for dir in lower {
        set("lowerdir+", dir)?;
    }
    // overlayfs wants a layer below an upper directory, and two without one.
    for _ in lower.len()..if upper.is_some() { 1 } else { 2 } {
        set("lowerdir+", &Path::new(SCRATCH).join("empty"))?;
    }
    if let Some(upper) = upper {
        set("upperdir", &upper.dir)?;
        set("workdir", &upper.work)?;
        // Without it, unmounting writes out everything that waits on the whole file system of the store. Nothing is lost: what a
        // crash may damage is not taken for a snapshot afterwards, and a snapshot is synced before it counts as one.
        fsconfig_set_flag(&config, "volatile").attempt("make an overlay: volatile")?;
    }
    if !ids.is_outside() {
        // `trusted.*` attributes are for root of the machine.
        fsconfig_set_flag(&config, "userxattr").attempt("make an overlay: userxattr")?;
    }
    for (key, value) in [("metacopy", "off"), ("redirect_dir", "nofollow"), ("index", "off")] {
        fsconfig_set_string(&config, key, value).attempt(&format!("make an overlay: {key}={value}"))?;
    }
    fsconfig_create(&config).attempt("make an overlay")?;
    fsmount(&config, FsMountFlags::FSMOUNT_CLOEXEC, attributes).attempt("make an overlay")
}
