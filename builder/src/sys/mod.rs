//! The system calls that no safe crate wraps: one per function, nothing else. The rest of the engine is free of `unsafe`.
//!
//! Everything that [`rustix`] offers is called through it, where it is needed.
#![expect(
    unsafe_code,
    reason = "fork, execve, filters and mount attributes have no safe wrapper; each is argued at its place"
)]

mod descriptor;
mod memory;
mod process;
mod security;

pub(crate) use descriptor::watch;
pub(crate) use memory::give_back_what_is_free;
pub(crate) use process::{Fork, close_on_exec_from, execve, exit_now, fork, fork_into, reset_signals, unshare};
pub(crate) use security::{FilterOp, explain_netlink_errors, install_filter, mount_setattr};
