//! Descriptors that are waited for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Lets the runtime wait for `fd`, which does not block.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is an open descriptor of nobody else's; nothing closes or replaces it before the `AsyncFd` drops it.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
