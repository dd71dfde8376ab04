//! Mount attributes, the system call filter, and the loopback interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One instruction of a classic BPF program, laid out as the kernel's `sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilterOp {
    /// Operation.
    pub(crate) code: u16,
    /// Instructions to skip if a comparison holds.
    pub(crate) jt: u8,
    /// Instructions to skip if it does not.
    pub(crate) jf: u8,
    /// Operand.
    pub(crate) k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const FilterOp,
}

/// Installs a system call filter for the calling thread. Needs `CAP_SYS_ADMIN`, since `no_new_privs` stays off.
pub(crate) fn install_filter(ops: &[FilterOp]) -> io::Result<()> {
    let len = u16::try_from(ops.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = Program {
        len,
        filter: ops.as_ptr(),
    };
    // SAFETY: `program` is laid out as `sock_fprog`, and its pointer is to `len` instructions that outlive the call; the
    // kernel copies and verifies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0_u32,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes (`MOUNT_ATTR_…`) on the one mount behind `mount`.
pub(crate) fn mount_setattr(mount: impl AsFd, set: u64) -> io::Result<()> {
    let attr = MountAttr {
        set,
        clear: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the path is NUL-terminated, and `attr` is laid out as version 0 of `mount_attr`, whose size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Brings `lo` of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    let request = InterfaceRequest {
        name,
        flags: up,
        rest: [0; 22],
    };
    // SAFETY: `request` has the size and layout of `ifreq` with `ifr_flags`, and the kernel only reads it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
