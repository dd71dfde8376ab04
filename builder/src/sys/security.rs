//! Mount attributes, the system call filter, and explanations of netlink.

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

/// Sets and clears attributes (`MOUNT_ATTR_…`) of the one mount behind `mount`.
pub(crate) fn mount_setattr(mount: impl AsFd, set: u64, clear: u64) -> io::Result<()> {
    let attr = MountAttr {
        set,
        clear,
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

/// Makes the kernel say in words why it refuses a message on this netlink socket, without repeating the message.
pub(crate) fn explain_netlink_errors(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the kernel reads `size` bytes behind the pointer, which are those of `on`.
        let result = unsafe { libc::setsockopt(fd, libc::SOL_NETLINK, option, (&raw const on).cast(), size) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
