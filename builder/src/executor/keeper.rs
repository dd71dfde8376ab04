//! The keeper: the process that starts every sandbox, and waits for its end.
//!
//! The engine has many threads and cannot simply fork, and executing this program anew for each step costs more than all mounts of
//! a sandbox: the dynamic loader, its relocations, and its questions to the processor, each of which leaves a virtual machine. So
//! the program is executed once, for the keeper, and the keeper forks. It has one thread and knows nothing of any step: an
//! [`Order`] is a socket, a pipe and control groups, and what is to run is said to the new process alone. Programs of the machine that
//! a step needs beside it are started by the keeper too, so that they end as surely as steps do.
//!
//! A new process is pid 1 of a pid namespace from its first instruction. When it ends, the kernel kills whatever the step left
//! running, and waiting for it returns only when all of that and its mounts are gone. Only then the keeper lets go of the socket of
//! the step, which is how the engine learns of it. When the engine's end of that socket closes for writing, the keeper kills the
//! sandbox; when the engine itself is gone, all of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, getppid, kill_process, pidfd_open, set_dumpable_behavior,
    set_parent_process_death_signal, waitpid,
};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::spec::{Attempt, Reply, send};
use super::{cgroup, init, plain};
use crate::sys::{self, Fork};

/// Largest order: the paths of some control groups.
pub(super) const MAX_ORDER_BYTES: usize = 16 << 10;
/// Most descriptors of an order: the socket, the pipe, and what a program of the machine works on.
pub(super) const ORDER_DESCRIPTORS: usize = 3;

/// One process, as the engine orders it.
pub(super) struct Order {
    /// To a sandbox it takes one [`super::spec::Spec`], and one [`Reply`] comes back. The process is killed when the engine closes it.
    pub(super) socket: OwnedFd,
    /// Standard output and standard error.
    pub(super) output: OwnedFd,
    /// Standard input of a program of the machine; a step has none.
    pub(super) input: Option<OwnedFd>,
    /// What the process is for.
    pub(super) work: Work,
}

/// What a process is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Work {
    /// A step.
    Sandbox {
        /// Directories of the control groups to enter.
        groups: Vec<PathBuf>,
    },
    /// A program of the machine that a step needs beside it.
    Helper {
        /// The program by its path, and its arguments.
        args: Vec<String>,
    },
}

/// Runs as the keeper. Standard input is the socket to the engine.
///
/// Must be called from the only thread of a program that was started with [`super::INIT_ARGUMENT`], before anything else.
pub fn init_main() -> ! {
    let is_plain = std::env::args_os().nth(2).is_some_and(|duty| duty == plain::DUTY);
    let ended = match if is_plain { plain::warden::watch() } else { keep() } {
        Ok(None) => Ok(()),
        Ok(Some(order)) => match order.work {
            Work::Sandbox { groups } if is_plain => plain::supervisor::begin(order.socket, order.output, &groups),
            Work::Sandbox { groups } => init::begin(order.socket, order.output, &groups),
            Work::Helper { args } => Err(help(order.input, &order.output, &args)),
        },
        Err(error) => Err(error),
    };
    // The engine sees a socket that closed without a reply; there is nobody else to tell.
    sys::exit_now(if ended.is_ok() { 0 } else { 1 })
}

/// Becomes a program of the machine. Returns only if that failed, which is told on its output.
fn help(input: Option<OwnedFd>, output: &OwnedFd, args: &[String]) -> io::Error {
    let ready = || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Some(input) = input {
            rustix::stdio::dup2_stdin(&input)?;
        }
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(output)?;
        sys::reset_signals()
    };
    let Some((program, rest)) = args.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let error = match ready() {
        Ok(()) => Command::new(program).args(rest).env_clear().exec(),
        Err(error) => error,
    };
    // The other end knows that it failed when the output closes without a sign of success.
    drop(writeln!(io::stderr(), "{program}: {error}"));
    error
}

/// Returns nothing when the engine is gone, and in each new process the order that it was made for.
fn keep() -> io::Result<Option<Order>> {
    // Until a step has executed its own program, nobody may look into this one: its memory and its file are the engine's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())?)?;
    let mut keeper = Keeper {
        control,
        kept: Vec::new(),
        engine: getppid(),
        parents: BTreeSet::new(),
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
    kept: Vec<Kept>,
    engine: Option<Pid>,
    /// Where the control groups of its steps are.
    parents: BTreeSet<PathBuf>,
}

/// A sandbox that has not ended.
struct Kept {
    child: Pid,
    handle: OwnedFd,
    socket: OwnedFd,
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
        match receive(&self.control)? {
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

    fn start(&mut self, order: Order) -> io::Result<Turn> {
        if let Work::Sandbox { groups } = &order.work {
            let parents = groups.iter().filter_map(|group| group.parent());
            self.parents.extend(parents.map(Path::to_owned));
        }
        // The new process, and nothing else, is in the new namespace: the keeper could not go back into one of the machine's from
        // inside a user namespace.
        let forked = match &order.work {
            Work::Sandbox { .. } => sys::fork_into(UnshareFlags::NEWPID).attempt("fork into a process namespace"),
            Work::Helper { .. } => sys::fork().attempt("fork"),
        };
        match forked {
            Ok(Fork::Child) => return Ok(Turn::Child(order)),
            Ok(Fork::Parent(child)) => self.kept.push(Kept {
                child,
                handle: pidfd_open(child, PidfdFlags::empty())?,
                socket: order.socket,
                state: Life::Running,
            }),
            // Nobody reads it if the engine has changed its mind, and then it matters to nobody.
            Err(failure) => drop(send(fs::File::from(order.socket), &Reply::Failed(failure))),
        }
        Ok(Turn::On)
    }

    /// Kills and waits for all that is left, and removes the control groups of the engine, which cannot do that any more.
    fn end(&mut self) {
        for kept in &self.kept {
            let killed = kill_process(kept.child, Signal::KILL);
            let ended = killed.and_then(|()| waitpid(Some(kept.child), WaitOptions::empty()));
            if ended.is_err() {
                // There is nobody to tell, and the processes die with this one.
                continue;
            }
        }
        self.kept.clear();
        let engine = self.engine.map_or(0, Pid::as_raw_pid);
        self.parents
            .iter()
            .for_each(|parent| cgroup::remove_all(parent, engine));
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
        input: descriptors.next(),
        work: serde_json::from_slice(&bytes[..length])?,
    }))
}
