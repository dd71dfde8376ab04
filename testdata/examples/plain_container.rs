//! A command as root of an ordinary container: `plain_container (volume|overlay) STATE COMMAND…`, started in new mount and pid
//! namespaces by `testdata/plain-container.sh`.
//!
//! The machine's own root is the image. With `volume` it is read-only, and `/var/lib` and `/tmp` are directories of STATE, as if
//! they were volumes. With `overlay` it lies below an overlay, as the root of most containers does, and what is written is lost.
//! The command has the capabilities that Docker gives, and a system call filter that refuses what Docker's refuses of mounts and
//! namespaces.
#![expect(clippy::print_stderr, reason = "how it is used is said on stderr")]

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

/// What Docker and containerd give to root.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, state, program, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: plain_container (volume|overlay) STATE COMMAND…");
        return ExitCode::FAILURE;
    };
    let error = match enter(kind == "overlay", Path::new(state)) {
        // Replaces this process.
        Ok(()) => Command::new(program).args(rest).exec(),
        Err(error) => error,
    };
    eprintln!("plain_container: {error}");
    ExitCode::FAILURE
}

fn enter(is_overlay: bool, state: &Path) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = match is_overlay {
        true => overlay(state)?,
        false => volumes(state)?,
    };
    let none = MountFlags::empty();
    mount("proc", root.join("proc"), "proc", none, None)?;
    mount_bind(root.join("proc/sys"), root.join("proc/sys"))?;
    mount_remount(root.join("proc/sys"), MountFlags::BIND | MountFlags::RDONLY, "")?;
    mount("sysfs", root.join("sys"), "sysfs", MountFlags::RDONLY, None)?;
    mount("tmpfs", root.join("dev"), "tmpfs", none, Some(c"mode=0755"))?;
    devices(&root.join("dev"))?;
    rustix::process::chdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    // Before the privilege goes that it takes.
    install_filter()?;
    confine()
}

/// The machine's root, read-only, with directories of `state` for what is written.
fn volumes(state: &Path) -> io::Result<PathBuf> {
    let root = state.join("root");
    std::fs::create_dir_all(&root)?;
    mount_bind("/", &root)?;
    for (name, place) in [("lib", "var/lib"), ("tmp", "tmp")] {
        let volume = state.join(name);
        std::fs::create_dir_all(&volume)?;
        mount_bind(&volume, root.join(place))?;
    }
    mount_remount(&root, MountFlags::BIND | MountFlags::RDONLY, "")?;
    Ok(root)
}

/// The machine's root below an overlay in memory.
fn overlay(state: &Path) -> io::Result<PathBuf> {
    let memory = state.join("memory");
    std::fs::create_dir_all(&memory)?;
    mount("tmpfs", &memory, "tmpfs", MountFlags::empty(), Some(c"mode=0700"))?;
    for name in ["upper", "work", "root"] {
        std::fs::create_dir(memory.join(name))?;
    }
    let place = memory.display();
    let options = format!("lowerdir=/,upperdir={place}/upper,workdir={place}/work\0");
    let options = std::ffi::CString::from_vec_with_nul(options.into_bytes()).map_err(io::Error::other)?;
    let root = memory.join("root");
    mount(
        "overlay",
        &root,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )?;
    Ok(root)
}

fn devices(dev: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, chmod, makedev, mknodat};
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, makedev(major, minor))?;
        chmod(&path, Mode::from_raw_mode(0o666))?;
    }
    for (to, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
    ] {
        std::os::unix::fs::symlink(to, dev.join(name))?;
    }
    std::fs::create_dir(dev.join("shm"))
}

fn confine() -> io::Result<()> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if CAPABILITIES.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // The first number that the kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            removed => removed?,
        }
    }
    let sets = CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// What is refused with EPERM, whatever its arguments.
const REFUSED: [libc::c_long; 18] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_bpf,
    libc::SYS_keyctl,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
];
/// Flags of `clone` that make namespaces.
const NAMESPACES: u32 = 0x7E02_0000;
const ALLOW: u32 = 0x7FFF_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[expect(unsafe_code, reason = "no crate of ours installs filters with the privilege for it")]
fn install_filter() -> io::Result<()> {
    let number = |call: libc::c_long| u32::try_from(call).map_err(io::Error::other);
    let (load, is, any, end) = (0x20, 0x15, 0x45, 0x06);
    let mut ops = vec![op(load, 0, 0, 0)];
    for call in REFUSED {
        ops.extend([op(is, number(call)?, 0, 1), op(end, EPERM, 0, 0)]);
    }
    ops.extend([op(is, number(libc::SYS_clone3)?, 0, 1), op(end, ENOSYS, 0, 0)]);
    ops.extend([
        op(is, number(libc::SYS_clone)?, 0, 3),
        op(load, 16, 0, 0),
        op(any, NAMESPACES, 0, 1),
        op(end, EPERM, 0, 0),
        op(end, ALLOW, 0, 0),
    ]);
    let program = libc::sock_fprog {
        len: u16::try_from(ops.len()).map_err(io::Error::other)?,
        filter: ops.as_mut_ptr(),
    };
    // SAFETY: the program points to `len` instructions that outlive the call; the kernel copies and verifies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0_u32,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
