//! The engine's side of the keeper: it is started with the first step, and sandboxes are ordered ahead of the steps that will need
//! them.
//!
//! To move a process into a control group, the kernel may have to wait until every processor has passed a quiet point, which takes
//! as long as a small step runs. So a process that waits for its step is made beside the step before. It is in its groups and
//! namespaces already, but still sees the mounts of the engine and nothing of any step.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixStream, unix::pipe};
use tokio::process::{Child, Command};

use super::cgroup::{Group, Groups};
use super::keeper::{MAX_ORDER_BYTES, ORDER_DESCRIPTORS, Work};
use super::{ExecError, INIT_ARGUMENT};
use crate::limits::{CpuLimits, Limits};

/// Sandboxes that wait for a step. Each is a process, and an empty control group or two.
const MOST_WAITING: usize = 2;

/// A process that waits for its step.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) socket: UnixStream,
    /// Both output streams, in one.
    pub(super) printed: pipe::Receiver,
    /// Removed last: it is empty when the socket has closed.
    pub(super) group: Group,
}

/// Starts sandboxes.
#[derive(Debug)]
pub(super) struct Launcher {
    /// The program that holds the keeper, on a read-only mount of its own: what a step could reach of it (its `exe` link) cannot
    /// be written through.
    program: OwnedFd,
    /// Looked for when the first sandbox is made.
    groups: OnceLock<Groups>,
    /// What it is started with, beside [`INIT_ARGUMENT`].
    duty: Option<&'static str>,
    keeper: Mutex<Option<Keeper>>,
    waiting: Mutex<Vec<Sandbox>>,
}

#[derive(Debug)]
struct Keeper {
    control: OwnedFd,
    process: Child,
}

fn start<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> ExecError {
    move |source| ExecError::Start {
        action,
        source: source.into(),
    }
}

impl Launcher {
    pub(super) fn new(program: OwnedFd) -> Self {
        Self {
            program,
            groups: OnceLock::new(),
            duty: None,
            keeper: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// Where control groups of steps are made.
    pub(super) fn groups(&self) -> &Groups {
        self.groups.get_or_init(Groups::find)
    }

    /// The same for keepers of another kind.
    pub(super) fn with_duty(self, duty: &'static str) -> Self {
        Self {
            duty: Some(duty),
            ..self
        }
    }

    /// A sandbox whose control groups keep `limits`.
    pub(super) async fn take(&self, limits: &Limits) -> Result<Sandbox, ExecError> {
        let sandbox = self.any(&limits.cpu)?;
        match sandbox.group.limit(limits) {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.abandon().await;
                Err(error.into())
            }
        }
    }

    /// A sandbox that waits, or a new one; always a new one for limits on processors, which those that wait have no groups for.
    fn any(&self, cpu: &CpuLimits) -> Result<Sandbox, ExecError> {
        if cpu.is_some() {
            return self.launch(cpu);
        }
        loop {
            let waiting = self.waiting().pop();
            match waiting {
                Some(sandbox) if sandbox.has_ended() => {}
                Some(sandbox) => return Ok(sandbox),
                None => return self.launch(cpu),
            }
        }
    }

    /// Makes a sandbox for the next step. That there is none costs the next step time, and nothing else.
    pub(super) fn prepare(&self) {
        let mut waiting = self.waiting();
        if waiting.len() >= MOST_WAITING {
            return;
        }
        match self.launch(&CpuLimits::default()) {
            Ok(sandbox) => waiting.push(sandbox),
            Err(error) => tracing::debug!(%error, "no sandbox waits for the next step"),
        }
    }

    /// Ends everything and waits until it is gone.
    pub(super) async fn finish(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        for sandbox in waiting {
            sandbox.abandon().await;
        }
        let keeper = self.keeper().take();
        if let Some(Keeper { control, mut process }) = keeper {
            drop(control);
            if let Err(error) = process.wait().await {
                tracing::debug!(reason = %error, "the end of the keeper was not seen");
            }
        }
    }

    fn launch(&self, cpu: &CpuLimits) -> Result<Sandbox, ExecError> {
        let group = self.groups().make(cpu);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(start("make a socket"))?;
        ours.set_nonblocking(true).map_err(start("make a socket"))?;
        let socket = UnixStream::from_std(ours).map_err(start("make a socket"))?;
        let (reader, writer) = io::pipe().map_err(start("make a pipe"))?;
        let printed = pipe::Receiver::from_owned_fd(reader.into()).map_err(start("make a pipe"))?;
        let work = Work::Sandbox {
            groups: group.dirs().to_vec(),
        };
        // Our copies close with this function: only the sandbox holds the writing end then, and the output ends with its last
        // process.
        self.order(&work, &[theirs.as_fd(), writer.as_fd()])?;
        Ok(Sandbox { socket, printed, group })
    }

    /// Orders a process: the first descriptor ends it when its other end closes, the second is its output, a third its input.
    pub(super) fn order(&self, work: &Work, descriptors: &[BorrowedFd<'_>]) -> Result<(), ExecError> {
        let order = serde_json::to_vec(work).map_err(start("describe a process"))?;
        debug_assert!(order.len() <= MAX_ORDER_BYTES, "paths of control groups are short");
        let mut keeper = self.keeper();
        if let Some(there) = &*keeper {
            match there.send(&order, descriptors) {
                // Somebody has killed it, and its sandboxes with it.
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {}
                sent => return sent.map_err(start("ask for a sandbox")),
            }
        }
        let new = keeper.insert(self.start_keeper()?);
        new.send(&order, descriptors).map_err(start("ask for a sandbox"))
    }

    fn start_keeper(&self) -> Result<Keeper, ExecError> {
        let flags = SocketFlags::CLOEXEC;
        let (control, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(start("make a socket"))?;
        let process = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg(INIT_ARGUMENT)
            .args(self.duty)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(start("execute the keeper"))?;
        Ok(Keeper { control, process })
    }

    fn keeper(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Sandbox>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    fn send(&self, order: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ORDER_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::NOBUFS);
        }
        let sent = rustix::io::retry_on_intr(|| {
            sendmsg(
                &self.control,
                &[IoSlice::new(order)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
        });
        sent.map(drop)
    }
}

impl Sandbox {
    /// Whether it was killed, or could not enter what it should.
    fn has_ended(&self) -> bool {
        let mut watched = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        // What cannot be asked is not there.
        poll(&mut watched, Some(&Timespec::default())).is_err() || !watched[0].revents().is_empty()
    }

    /// Ends it and waits until it is gone.
    async fn abandon(mut self) {
        let mut reply = Vec::new();
        let ended = match self.socket.shutdown().await {
            Ok(()) => self.socket.read_to_end(&mut reply).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::debug!(reason = %error, "the end of a sandbox was not seen");
        }
    }
}
