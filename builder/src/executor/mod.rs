//! Running what a Dockerfile asks for, in a sandbox.
//!
//! A [`Process`] says everything about a step; one function builds every sandbox from it, and nothing in it can weaken the
//! sandbox except [`Network::Host`], [`Security::Insecure`] and its devices, which users must allow by name.
//! [`NamespaceExecutor`] gives it new mount, pid, ipc, uts, cgroup and network namespaces, built by children of a single-threaded
//! process that executes this program again (see [`init_main`]). It works as root, and as root of a user namespace; see [`tier`].
//!
//! # One pipe for both output streams
//!
//! Standard output and standard error of a step are the same pipe, so what was written first comes first: an error stands
//! behind the command that caused it. With a pipe each, the kernel keeps no order between them, and no reader can find it out
//! afterwards. Tried with a shell that writes fifty lines to each in turn, 1,000 runs on two busy processors: two threads, one a
//! pipe, got lines out of order in 901 runs, one thread that polls both in 712, edge-triggered epoll in 832, one pipe in none.
//! What is given up is which of the two a line came from, which no view of a build shows. A terminal would keep the order too,
//! but then programs see one, and draw colours and progress bars; a socket cannot be opened again as `/dev/stdout`.

pub mod attach;
mod certificates;
mod cgroup;
mod device;
#[cfg(test)]
mod documented;
pub mod emulation;
mod enter;
mod init;
mod insecure;
mod keeper;
mod launch;
mod mask;
pub(crate) mod namespace;
mod network;
mod plain;
mod probe;
mod profile;
mod root;
mod seccomp;
mod spec;
mod standing;
mod subordinate;
mod target;
mod task;
mod terminal;
pub mod tier;
mod ulimit;
mod user;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::snapshot::rootfs::Rootfs;

pub use attach::Attached;
pub(crate) use certificates::BUNDLE as CA_BUNDLE;
pub use cgroup::{Hits, Unenforceable};
pub use keeper::init_main;
pub use namespace::NamespaceExecutor;
pub use plain::ChrootExecutor;
pub use probe::{Probe, probe};
pub(crate) use standing::help_for_one_id;
pub use standing::{Standing, standing};

/// First argument of the hidden re-execution; what sees it calls [`init_main`] before anything else.
pub const INIT_ARGUMENT: &str = "__sandbox-init";

/// Host name of a step that asks for none: constant, so that it cannot make builds differ.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// One step, ready to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; a program without a slash is searched in `PATH` of `env`.
    pub args: Vec<String>,
    /// Environment, in order. `HOME` is added from the user database where it is missing.
    pub env: Vec<(String, String)>,
    /// Absolute working directory; made (0755, root) where it is missing.
    pub cwd: String,
    /// `user[:group]`, names or numbers, looked up in the root filesystem; empty is root.
    pub user: String,
    /// Host name; [`DEFAULT_HOSTNAME`] where there is none.
    pub hostname: Option<String>,
    /// What the step can reach.
    pub network: Network,
    /// What the step may do.
    pub security: Security,
    /// Devices of the machine in the step's `/dev`, beside those that every step has.
    pub devices: Vec<StepDevice>,
    /// Lines for `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// The root filesystem. It is mounted in the step's own namespace only.
    pub rootfs: Rootfs,
    /// Mounts over it, in any order: parents are mounted first.
    pub mounts: Vec<StepMount>,
    /// Size of `/dev/shm`; 64 MiB where there is none.
    pub shm_size_bytes: Option<u64>,
    /// Small generated read-only files.
    pub files: Vec<StepFile>,
    /// What it may use at most. Its time and its disk space are its caller's to watch.
    pub limits: Limits,
    /// Certificates, as PEM, that its programs trust beside those of the image. Nothing of them is in what it leaves.
    pub ca_bundle: Option<Vec<u8>>,
}

/// What the network of a step can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// An own network with a way out through address translation.
    Default,
    /// Only its own loopback interface.
    None,
    /// The network of the engine.
    Host,
}

/// What a step may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// The default capabilities, the system call filter, nothing of the kernel's settings.
    Sandbox,
    /// Less: no file capabilities, no device nodes, no raw packets, nothing gained by executing a program, no debugger.
    Hardened,
    /// All capabilities of the engine, no filter, the kernel's settings, common devices of the machine. The namespaces are
    /// still those of the step, but nothing keeps it in them.
    Insecure,
}

/// A device of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDevice {
    /// Absolute path in the step, below `/dev`.
    pub path: String,
    /// Block device instead of character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A generated file, such as a here-document under `/dev/pipes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFile {
    /// Absolute path in the root filesystem.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A mount of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepMount {
    /// Absolute path in the root filesystem. Links are followed inside the root; what is missing is made and reported.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// Whether writes fail.
    pub readonly: bool,
}

/// What a [`StepMount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path in another root filesystem. Writable only through the throw-away upper directory that the caller gives it.
    Rootfs {
        /// The filesystem.
        rootfs: Rootfs,
        /// Path in it, resolved inside it; empty is its root.
        subpath: PathBuf,
    },
    /// A path below a directory of the engine: a cache mount, or a build context.
    Directory {
        /// The directory, trusted.
        path: PathBuf,
        /// Path below it, resolved inside it; empty is the directory.
        subpath: PathBuf,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Its size; unlimited where there is none.
        size_bytes: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
    /// A file in memory, always read-only.
    Secret {
        /// What it holds.
        value: SecretValue,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// The socket of an agent, at this path of the engine's own file system.
    Socket {
        /// The socket, trusted.
        path: PathBuf,
    },
    /// A file or directory of the machine, as a device needs it.
    Machine {
        /// Its path, trusted.
        path: PathBuf,
    },
}

/// Bytes that are never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretValue(pub Vec<u8>);

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

/// Who says what a chunk of output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The processes of the step, on standard output or standard error.
    Step,
    /// The processes of a step that has a standard error of its own, on that.
    StepErrors,
    /// The executor: why the program could not be executed.
    Executor,
}

/// A piece of output, cut anywhere. Pieces come in the order in which they were written.
pub type OutputChunk = (Speaker, Bytes);

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited. 127: no such program, 126: the program cannot be executed; the executor says why.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It exceeded its memory limit.
    OutOfMemory,
}

/// What is left to say after a step ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Paths, relative to the root filesystem, of mount points that were made in it, with the parents made for them, parents
    /// first. The layer must not contain them: the files always, the directories if nothing else is in them.
    pub stubs: Vec<PathBuf>,
    /// Where its time went.
    pub times: StepTimes,
    /// What it came up against.
    pub hits: Hits,
}

/// Where the time of a step went; all zero for a program that could not be executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Until there was a network for it.
    pub network: Duration,
    /// Until there was a process to run it, in its control groups.
    pub launch: Duration,
    /// Its mounts, until its root was entered.
    pub mounts: Duration,
    /// Until its program was executed.
    pub start: Duration,
    /// From the first instruction of the program to its end.
    pub ran: Duration,
    /// Until nothing of it was left.
    pub end: Duration,
}

/// Why a step could not be run. A step that ran and failed is an [`ExitReport`].
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The sandbox could not be started or talked to.
    #[error("cannot start the sandbox: {action}")]
    Start {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Building the sandbox failed.
    #[error("cannot build the sandbox: {action}: {reason}")]
    Setup {
        /// What was attempted, with its subject.
        action: String,
        /// What the kernel answered.
        reason: String,
    },
    /// The image or the step asks for something that does not exist in it: a user, a mount target, a directory.
    #[error("{message}")]
    Refused {
        /// What, in full.
        message: String,
    },
    /// The network that the step asks for cannot be made here.
    #[error("cannot give the step a network of its own: {reason}")]
    Network {
        /// What failed.
        reason: String,
        /// Whether a network with nothing but loopback can be made.
        loopback: bool,
    },
    /// The step is to be held to a limit that nothing here would keep.
    #[error(transparent)]
    Limit(#[from] Unenforceable),
    /// The sandbox ended without a report: something outside killed it.
    #[error("the sandbox was killed from outside")]
    Lost,
    /// The step was cancelled; nothing of it is left.
    #[error("cancelled")]
    Cancelled,
}

/// Runs steps.
pub trait Executor: Send + Sync {
    /// A step will be run soon: what can be made without knowing it may be made now. Returns soon.
    fn expect_step(&self);

    /// Whether it can hold steps to `limits`. Limits of each process, time and disk space need no executor.
    ///
    /// # Errors
    /// The first limit that nothing would keep.
    fn can_keep(&self, limits: &Limits) -> Result<(), Unenforceable> {
        cgroup::refuse(limits, "this sandbox has no control groups")
    }

    /// Runs one step to its end, and sends what it prints as it comes. A receiver that is gone loses output, not the step.
    ///
    /// When the future is done, every process of the step is gone, however it ended; so it is soon after the future is
    /// dropped.
    ///
    /// # Errors
    /// [`ExecError`]; a step that ran and failed is no error.
    fn run<'a>(
        &'a self,
        process: &'a Process,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ExitReport, ExecError>>;

    /// As [`Executor::run`], for a process that somebody talks to.
    ///
    /// # Errors
    /// As [`Executor::run`]; a kind of sandbox that has no such processes.
    fn attach<'a>(
        &'a self,
        process: &'a Process,
        attached: Attached,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ExitReport, ExecError>> {
        drop((process, attached, output, cancel));
        let refused = ExecError::Setup {
            action: "attach to a process".to_owned(),
            reason: "this kind of sandbox cannot".to_owned(),
        };
        Box::pin(std::future::ready(Err(refused)))
    }

    /// Removes what was kept for further steps; to be called when none runs and none will.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
