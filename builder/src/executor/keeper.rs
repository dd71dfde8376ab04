//! The keeper: the process that starts every sandbox, and waits for its end.
//!
//! The engine has many threads and cannot simply fork, and executing this program anew for each step costs more than all mounts of
//! a sandbox: the dynamic loader, its relocations, and its questions to the processor, each of which leaves a virtual machine. So
//! the program is executed once, for the keeper, and the keeper forks. It has one thread and knows nothing of any step: an
//! [`Order`] is a socket, a pipe and control groups, and what is to run is said to the new process alone.
//!
//! A new process is pid 1 of a pid namespace from its first instruction. When it ends, the kernel kills whatever the step left
//! running, and waiting for it returns only when all of that and its mounts are gone. Only then the keeper lets go of the socket of
//! the step, which is how the engine learns of it. When the engine's end of that socket closes for writing, the keeper kills the
//! sandbox; when the engine itself is gone, all of them.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, set_dumpable_behavior, waitpid,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::spec::{Attempt, Failure, Reply, send};
use super::{init, plain};
use crate::sys::{self, Fork};

/// Largest order: the paths of some control groups.
pub(super) const MAX_ORDER_BYTES: usize = 16 << 10;
/// Descriptors of an order: the socket and the pipe.
pub(super) const ORDER_DESCRIPTORS: usize = 2;

/// One sandbox, as the engine orders it.
pub(super) struct Order {
    /// Takes one [`super::spec::Spec`] and answers with one [`Reply`].
    pub(super) socket: OwnedFd,
    /// Standard output and standard error of the step.
    pub(super) output: OwnedFd,
    /// Directories of the control groups to enter.
    pub(super) groups: Vec<PathBuf>,
}

/// Runs as the keeper. Standard input is the socket to the engine.
///
/// Must be called from the only thread of a program that was started with [`super::INIT_ARGUMENT`], before anything else.
pub fn init_main() -> ! {
    let is_plain = std::env::args_os().nth(2).is_some_and(|duty| duty == plain::DUTY);
    let ended = match if is_plain { plain::warden::watch() } else { keep() } {
        Ok(None) => Ok(()),
        Ok(Some(order)) if is_plain => plain::supervisor::begin(order),
        Ok(Some(order)) => init::begin(order),
        Err(error) => Err(error),
    };
    // The engine sees a socket that closed without a reply; there is nobody else to tell.
    sys::exit_now(if ended.is_ok() { 0 } else { 1 })
}

/// Returns nothing when the engine is gone, and in each new process the order that it was made for.
fn keep() -> io::Result<Option<Order>> {
    // Until a step has executed its own program, nobody may look into this one: its memory and its file are the engine's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())?)?;
    let mut keeper = Keeper {
        control,
        own: rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
        kept: Vec::new(),
    };
    loop {
        match keeper.turn()? {
            Turn::On => {}
            Turn::Over => {
                keeper.end();
                return Ok(None);
            }
            Turn::Child(order) => return Ok(Some(order)),
        }
    }
}

struct Keeper {
    control: OwnedFd,
    /// The pid namespace of the engine.
    own: OwnedFd,
    kept: Vec<Kept>,
}

/// A sandbox that has not ended.
struct Kept {
    child: Pid,
    handle: OwnedFd,
    socket: OwnedFd,
    groups: Vec<PathBuf>,
    state: Life,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Killed,
    Ended,
}

enum Turn {
    On,
    /// The engine is gone.
    Over,
    /// This is the new process.
    Child(Order),
}

impl Keeper {
    /// Waits until something happens, and does what it asks for.
    fn turn(&mut self) -> io::Result<Turn> {
        let is_ordered = self.watch()?;
        for kept in self.kept.iter().filter(|kept| kept.state == Life::Ended) {
            waitpid(Some(kept.child), WaitOptions::empty())?;
        }
        // Closes their sockets, which tells the engine.
        self.kept.retain(|kept| kept.state != Life::Ended);
        if !is_ordered {
            return Ok(Turn::On);
        }
        match self.receive()? {
            Some(order) => self.start(order),
            None => Ok(Turn::Over),
        }
    }

    /// Waits. Notes which sandboxes have ended, kills those that the engine does not want any more, and returns whether the engine
    /// has something to say.
    fn watch(&mut self) -> io::Result<bool> {
        let mut watched = vec![PollFd::new(&self.control, PollFlags::IN)];
        for kept in &self.kept {
            watched.push(PollFd::new(&kept.handle, PollFlags::IN));
            // Data on it is for the sandbox. Of a killed one it tells nothing new, again and again.
            if kept.state == Life::Running {
                watched.push(PollFd::new(&kept.socket, PollFlags::RDHUP));
            }
        }
        rustix::io::retry_on_intr(|| poll(&mut watched, None))?;
        let mut ready = watched.iter().map(|watched| !watched.revents().is_empty());
        let is_ordered = ready.next().unwrap_or(false);
        let mut next = || ready.next().unwrap_or(false);
        let mut states = Vec::with_capacity(self.kept.len());
        for kept in &self.kept {
            let has_ended = next();
            let is_unwanted = kept.state == Life::Running && next();
            if is_unwanted && !has_ended {
                kill_process(kept.child, Signal::KILL)?;
            }
            states.push(match (has_ended, is_unwanted) {
                (true, _) => Life::Ended,
                (false, true) => Life::Killed,
                (false, false) => kept.state,
            });
        }
        for (kept, state) in self.kept.iter_mut().zip(states) {
            kept.state = state;
        }
        Ok(is_ordered)
    }

    /// The next order; nothing when the engine is gone.
    fn receive(&self) -> io::Result<Option<Order>> {
        receive(&self.control)
    }

    fn start(&mut self, order: Order) -> io::Result<Turn> {
        match self.fork()? {
            Ok(Fork::Child) => return Ok(Turn::Child(order)),
            Ok(Fork::Parent(child)) => self.kept.push(Kept {
                child,
                handle: pidfd_open(child, PidfdFlags::empty())?,
                socket: order.socket,
                groups: order.groups,
                state: Life::Running,
            }),
            // Nobody reads it if the engine has changed its mind, and then it matters to nobody.
            Err(failure) => drop(send(fs::File::from(order.socket), &Reply::Failed(failure))),
        }
        Ok(Turn::On)
    }

    /// Forks the first process of a new pid namespace.
    fn fork(&self) -> io::Result<Result<Fork, Failure>> {
        if let Err(failure) = sys::unshare(UnshareFlags::NEWPID).attempt("make a process namespace") {
            return Ok(Err(failure));
        }
        let forked = sys::fork();
        if !matches!(forked, Ok(Fork::Child)) {
            // Only the next child lands in the new namespace, and it is there. Without this there could not be another one.
            move_into_link_name_space(self.own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        }
        Ok(forked.attempt("fork"))
    }

    /// Kills and waits for all that is left, and removes its control groups, which the engine cannot do any more.
    fn end(&mut self) {
        for kept in &self.kept {
            let killed = kill_process(kept.child, Signal::KILL);
            let ended = killed.and_then(|()| waitpid(Some(kept.child), WaitOptions::empty()));
            let removed = kept.groups.iter().try_for_each(fs::remove_dir);
            if ended.is_err() || removed.is_err() {
                // There is nobody to tell. The processes die with this one, and the next engine removes the groups.
                continue;
            }
        }
        self.kept.clear();
    }
}

/// The next order on the socket to the engine; nothing when the engine is gone.
pub(super) fn receive(control: &OwnedFd) -> io::Result<Option<Order>> {
    let mut bytes = vec![0; MAX_ORDER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ORDER_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match recvmsg(control, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The engine was killed with something unread.
            Err(Errno::CONNRESET) => return Ok(None),
            received => break received?.bytes,
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => rights.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let (Some(socket), Some(output)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    Ok(Some(Order {
        socket,
        output,
        groups: serde_json::from_slice(&bytes[..length])?,
    }))
}
