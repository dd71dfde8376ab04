//! Processes of the sandbox: fork, exec, exit.

use std::ffi::{CStr, CString, c_char};
use std::io;

use rustix::process::Pid;

/// Which side of a [`fork`] one is on.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the id of the new one.
    Parent(Pid),
}

/// Duplicates the calling process. Only for programs with one thread: the keeper, the sandbox init, and `main` before it starts others.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the caller has exactly one thread, so no lock can be held by a thread that the child lacks; the child may run
    // any code.
    let raw = unsafe { libc::fork() };
    match raw {
        0 => Ok(Fork::Child),
        raw => Pid::from_raw(raw)
            .filter(|_| raw > 0)
            .map(Fork::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Duplicates the calling process into new namespaces. Only for programs with one thread.
pub(crate) fn fork_into(namespaces: rustix::thread::UnshareFlags) -> io::Result<Fork> {
    // SAFETY: all fields are numbers, and 0 is a valid value of each.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(namespaces.bits());
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    // SAFETY: without flags that share memory and without a stack of its own, the child goes on with a copy of everything, as after
    // `fork`. There is one thread, so no lock can be held by one that the child lacks. What the C library notes on a fork is its
    // idea of the thread's id, which it asks the kernel for where it needs it.
    let raw = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match raw {
        0 => Ok(Fork::Child),
        raw => i32::try_from(raw)
            .ok()
            .filter(|raw| *raw > 0)
            .and_then(Pid::from_raw)
            .map(Fork::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Replaces the process image. Returns only if that failed.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: path is NUL-terminated, both arrays end in a null pointer, and everything they point to lives until the call
    // returns.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Ends the process at once, without running anything registered for exit.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: a flag of descriptors changes; no memory is involved, and no descriptor is closed under an owner.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Moves the calling thread into new namespaces.
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: descriptor tables are not unshared by any caller, so no descriptor changes its meaning under an owner.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Default action for every signal and an empty mask: the runtime of this program ignores SIGPIPE, and what is ignored stays
/// ignored over exec.
pub(crate) fn reset_signals() -> io::Result<()> {
    for number in 1..=64 {
        // SIGKILL, SIGSTOP and the two that libc reserves refuse a change; their action is the default one anyway.
        if !matches!(number, libc::SIGKILL | libc::SIGSTOP | 32 | 33) {
            // SAFETY: SIG_DFL installs no handler of ours.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was initialised above; the old mask is not asked for.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
