//! The warden: the process that starts the supervisors of steps, and ends what a supervisor that was killed has left.
//!
//! It is the keeper of this kind of sandbox. There is no pid namespace whose end would end a step, so each supervisor ends its own
//! step: it sees by itself when the engine changes its mind or is gone, and puts everything back before it ends. Orphans of a
//! supervisor that died come to this process, since it is the subreaper of them all.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, WaitOptions, pidfd_open, set_child_subreaper, set_dumpable_behavior, waitpid,
};

use super::super::keeper::{Order, receive};
use super::descendants;
use crate::sys::{self, Fork};

/// A supervisor that has not ended.
struct Watched {
    child: Pid,
    handle: OwnedFd,
    /// Its copy of the socket: the engine learns of the end of a step when the last copy is closed.
    _socket: OwnedFd,
}

/// Returns nothing when the engine is gone and every step has ended, and in each new process the order that it was made for.
pub(in super::super) fn watch() -> io::Result<Option<Order>> {
    // What is in this memory is the engine's, and steps run as the same user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())?)?;
    let mut watched: Vec<Watched> = Vec::new();
    loop {
        let (is_ordered, ended) = wait(&control, &watched)?;
        if !ended.is_empty() {
            for child in &ended {
                waitpid(Some(*child), WaitOptions::empty())?;
            }
            let living: Vec<Pid> = watched
                .iter()
                .map(|watched| watched.child)
                .filter(|child| !ended.contains(child))
                .collect();
            descendants::end_all(&living)?;
            // Closes their sockets, which tells the engine.
            watched.retain(|watched| !ended.contains(&watched.child));
        }
        if !is_ordered {
            continue;
        }
        let Some(order) = receive(&control)? else {
            // Their sockets have closed, too: they end their steps and put back what they moved.
            for supervisor in &watched {
                waitpid(Some(supervisor.child), WaitOptions::empty())?;
            }
            descendants::end_all(&[])?;
            return Ok(None);
        };
        match sys::fork()? {
            Fork::Child => return Ok(Some(order)),
            Fork::Parent(child) => watched.push(Watched {
                child,
                handle: pidfd_open(child, PidfdFlags::empty())?,
                _socket: order.socket,
            }),
        }
    }
}

/// Waits. Returns whether the engine has something to say, and which supervisors have ended.
fn wait(control: &OwnedFd, watched: &[Watched]) -> io::Result<(bool, Vec<Pid>)> {
    let mut polled = vec![PollFd::new(control, PollFlags::IN)];
    polled.extend(
        watched
            .iter()
            .map(|watched| PollFd::new(&watched.handle, PollFlags::IN)),
    );
    rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
    let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
    let ended = watched.iter().zip(&ready[1..]).filter(|(_, ready)| **ready);
    Ok((ready[0], ended.map(|(watched, _)| watched.child).collect()))
}
