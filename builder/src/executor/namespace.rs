//! The root tier, seen from the engine: take a sandbox, hand it the step, pass its output on, and wait until it is gone.
//!
//! The engine and the sandbox hold the two ends of a socket. The sandbox reads the step from it and answers once; when the
//! engine's end closes (cancelled, dropped, or the engine is dead) everything in the sandbox is killed, and the other end closes
//! when nothing of it is left. So no path of this file, and no way in which the engine can die, leaves a process behind.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixStream, unix::pipe};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attach::{self, Attached, Manner};
use super::cgroup::{self, Group, Hits, Unenforceable};
use super::launch::{Launcher, Sandbox};
use super::network::helper::{self, Helped};
use super::network::{Lease, Networks};
use super::spec::{self, Failure, NetworkPlan, Reply, Spec, Status, Times};
use super::{
    DEFAULT_HOSTNAME, ExecError, Executor, ExitReport, Network, Outcome, OutputChunk, Process, Speaker, StepTimes, task,
};
use crate::ids::Ids;
use crate::limits::{DEFAULT_PROCESSES, Limits};
use crate::phase::Phase;
use crate::sys;

/// Output is passed on in pieces of at most this size.
const CHUNK_BYTES: usize = 32 << 10;

/// Runs steps in namespaces of their own, as root.
///
/// Each step is a task of its own, so that a caller that goes away only cancels it: the task still waits until nothing of the step
/// is left, and only then are its control group and its network free. [`Self::finish`] waits for the last of them.
#[derive(Debug)]
pub struct NamespaceExecutor {
    runner: Arc<Runner>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Runner {
    launcher: Launcher,
    networks: Arc<Networks>,
}

impl NamespaceExecutor {
    /// An executor whose init is the running program, which must call [`super::init_main`] for [`INIT_ARGUMENT`].
    ///
    /// # Errors
    /// [`ExecError::Start`] if this process may not make mounts.
    pub fn new() -> Result<Self, ExecError> {
        Self::with_init(Path::new("/proc/self/exe"))
    }

    /// Like [`Self::new`], with another program as the init.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn with_init(program: &Path) -> Result<Self, ExecError> {
        let start = |action| move |source| ExecError::Start { action, source };
        let path = std::fs::canonicalize(program).map_err(start("find the program of the init"))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let program = open_tree(CWD, path, flags)
            .map_err(io::Error::from)
            .map_err(start("hold the program of the init"))?;
        sys::mount_setattr(&program, u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), 0)
            .map_err(start("make the program of the init read-only"))?;
        let runner = Runner {
            launcher: Launcher::new(program),
            networks: Arc::default(),
        };
        Ok(Self {
            runner: Arc::new(runner),
            tasks: TaskTracker::new(),
        })
    }

    /// Waits until nothing is left of steps that were cancelled by dropping their future, and ends what waits for steps. No step may
    /// be started afterwards.
    ///
    /// An engine that ends without it leaves nothing either: what waits for steps ends soon after.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.runner.launcher.finish().await;
    }
}

/// The network of a step, as long as the step runs.
enum Connection {
    Own(Lease),
    Helped(Helped),
}

impl Connection {
    fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Own(lease) => lease.path(),
            Self::Helped(helped) => Some(helped.path()),
        }
    }
}

impl Runner {
    async fn execute(
        &self,
        process: &Process,
        attached: Option<Attached>,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<ExitReport, ExecError> {
        if cancel.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let began = Instant::now();
        let lease = self.connect(process.network).await?;
        let connected = Instant::now();
        let Sandbox { socket, printed, group } = self.launcher.take(&process.limits).await?;
        let launched = Instant::now();
        let manner = attached.as_ref().map(|attached| attached.manner);
        let spec = self.spec(process, lease.as_ref(), manner);
        let message = spec::encode(&spec).map_err(|source| ExecError::Start {
            action: "describe the step",
            source,
        })?;
        let (reply, (), ()) = tokio::join!(
            async {
                match attached {
                    Some(attached) => attach::converse(socket, message, attached, output.clone(), cancel.clone()).await,
                    None => converse(socket, message, cancel.clone()).await,
                }
            },
            forward(printed, output.clone()),
            // After the step was sent: this waits for nothing, and the step runs beside it.
            async { self.launcher.prepare() },
        );
        if cancel.is_cancelled() {
            tell_hits(process, group.hits(), &output).await;
            return Err(ExecError::Cancelled);
        }
        let reply = reply.map_err(|source| ExecError::Start {
            action: "talk to the sandbox",
            source,
        })?;
        let mut report = report(reply, &group, &output).await?;
        report.times.network = connected - began;
        report.times.launch = launched - connected;
        let known = report.times.mounts + report.times.start + report.times.ran;
        report.times.end = launched.elapsed().saturating_sub(known);
        tell(&report.times);
        Ok(report)
    }

    async fn connect(&self, network: Network) -> Result<Option<Connection>, ExecError> {
        match (network, Ids::of_process().is_outside()) {
            (Network::Default, true) => self.lease().await.map(|lease| Some(Connection::Own(lease))),
            (Network::Default, false) => {
                let helped = helper::connect(&self.launcher).await?;
                Ok(Some(Connection::Helped(helped)))
            }
            _ => Ok(None),
        }
    }

    async fn lease(&self) -> Result<Lease, ExecError> {
        let networks = Arc::clone(&self.networks);
        let lease = tokio::task::spawn_blocking(move || networks.lease())
            .await
            .map_err(|error| ExecError::Start {
                action: "make its network",
                source: io::Error::other(error),
            })?;
        lease.map_err(|error| ExecError::Network {
            loopback: error.leaves_loopback(),
            reason: error.to_string(),
        })
    }

    fn spec(&self, process: &Process, connection: Option<&Connection>, manner: Option<Manner>) -> Spec {
        let network = match (process.network, connection.and_then(Connection::path)) {
            (Network::Host, _) => NetworkPlan::Host,
            (Network::Default, Some(path)) => NetworkPlan::Join(path),
            (Network::Default | Network::None, _) => NetworkPlan::Isolated,
        };
        Spec {
            process: process.clone(),
            network,
            hosts: hosts(process),
            resolv_conf: resolv_conf(process.network),
            show_cgroup: cgroup::has_version_2(),
            ids: Ids::of_process(),
            manner,
        }
    }
}

impl Executor for NamespaceExecutor {
    fn can_keep(&self, limits: &Limits) -> Result<(), Unenforceable> {
        self.runner.launcher.groups().check(limits)
    }

    fn expect_step(&self) {
        self.runner.launcher.prepare();
    }

    fn run<'a>(
        &'a self,
        process: &'a Process,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ExitReport, ExecError>> {
        self.start(process, None, output, cancel).boxed()
    }

    fn attach<'a>(
        &'a self,
        process: &'a Process,
        attached: Attached,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ExitReport, ExecError>> {
        self.start(process, Some(attached), output, cancel).boxed()
    }
}

impl NamespaceExecutor {
    /// Runs a step in a task of its own, and waits for it.
    async fn start(
        &self,
        process: &Process,
        attached: Option<Attached>,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<ExitReport, ExecError> {
        let (runner, process) = (Arc::clone(&self.runner), process.clone());
        let step = |cancel| async move { runner.execute(&process, attached, output, cancel).await };
        task::run(&self.tasks, &cancel, step).await
    }
}

/// Sends the step and reads the reply. When cancelled, closes the writing side, which ends the sandbox, and goes on reading until
/// the last process that could answer is gone.
pub(super) async fn converse(
    mut socket: UnixStream,
    message: Vec<u8>,
    cancel: CancellationToken,
) -> io::Result<Option<Reply>> {
    let sent = socket.write_all(&message).await;
    let mut bytes = Vec::new();
    let finished = tokio::select! {
        read = socket.read_to_end(&mut bytes) => Some(read),
        () = cancel.cancelled() => None,
    };
    match finished {
        Some(read) => read?,
        None => {
            socket.shutdown().await?;
            socket.read_to_end(&mut bytes).await?
        }
    };
    let reply = spec::decode(&bytes)?;
    // An init that died early explains a broken pipe better than the pipe does.
    if reply.is_none() {
        sent?;
    }
    Ok(reply)
}

/// Passes on what the step prints, until its last writer is gone.
pub(super) async fn forward(mut printed: pipe::Receiver, output: mpsc::Sender<OutputChunk>) {
    let mut wanted = true;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        match printed.read_buf(&mut buffer).await {
            Ok(0) => return,
            // A step must not block or die because nobody listens, so its output is read and dropped.
            Ok(_) => {
                let chunk = buffer.split().freeze();
                wanted = wanted && output.send((Speaker::Step, chunk)).await.is_ok();
            }
            Err(error) => {
                tracing::warn!(reason = %error, "output of a step is lost");
                return;
            }
        }
    }
}

pub(super) async fn report(
    reply: Option<Reply>,
    group: &Group,
    output: &mpsc::Sender<OutputChunk>,
) -> Result<ExitReport, ExecError> {
    let hits = match &reply {
        // What ended well needs no reasons.
        Some(Reply::Ended {
            status: Status::Code(0),
            ..
        }) => Hits::default(),
        _ => group.hits(),
    };
    match reply {
        // The kernel may kill all of the group at once.
        None if hits.memory => Ok(ExitReport {
            outcome: Outcome::OutOfMemory,
            stubs: Vec::new(),
            times: StepTimes::default(),
            hits,
        }),
        None => Err(ExecError::Lost),
        Some(Reply::Failed(Failure::Refused(message))) => Err(ExecError::Refused { message }),
        Some(Reply::Failed(Failure::Setup { action, reason })) => Err(ExecError::Setup { action, reason }),
        Some(Reply::NotExecuted { code, message, stubs }) => {
            let line = Bytes::from(format!("{message}\n"));
            if output.send((Speaker::Executor, line)).await.is_err() {
                tracing::debug!(message, "nobody listens to the output of a step");
            }
            Ok(ExitReport {
                outcome: Outcome::Code(code),
                stubs,
                times: StepTimes::default(),
                hits,
            })
        }
        Some(Reply::Ended { status, stubs, times }) => {
            let outcome = match status {
                Status::Code(137) | Status::Signal(9) if hits.memory => Outcome::OutOfMemory,
                Status::Code(code) => Outcome::Code(code),
                Status::Signal(signal) => Outcome::Signal(signal),
            };
            let Times { mounts, start, ran } = times;
            let times = StepTimes {
                mounts,
                start,
                ran,
                ..StepTimes::default()
            };
            Ok(ExitReport {
                outcome,
                stubs,
                times,
                hits,
            })
        }
    }
}

/// Says in the output of a step that was ended what kept it from ending by itself.
async fn tell_hits(process: &Process, hits: Hits, output: &mpsc::Sender<OutputChunk>) {
    if hits.processes {
        let limit = process.limits.processes.unwrap_or(DEFAULT_PROCESSES);
        let line = Bytes::from(format!("process limit {limit} reached\n"));
        if output.send((Speaker::Executor, line)).await.is_err() {
            tracing::debug!("nobody listens to the output of a step");
        }
    }
}

/// Tells the log of the phases.
pub(super) fn tell(times: &StepTimes) {
    Phase::Network.took(times.network);
    Phase::Launch.took(times.launch);
    Phase::Mounts.took(times.mounts);
    Phase::Start.took(times.start);
    Phase::Process.took(times.ran);
    Phase::End.took(times.end);
}

pub(super) fn hosts(process: &Process) -> String {
    let hostname = process.hostname.as_deref().unwrap_or(DEFAULT_HOSTNAME);
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in &process.extra_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// The host's resolver, without servers on loopback addresses where the step has a loopback of its own; nothing without a network.
pub(super) fn resolv_conf(network: Network) -> String {
    if network == Network::None {
        return String::new();
    }
    // A local resolver in front hides the real servers in the second file.
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"].map(PathBuf::from);
    let texts = files.iter().filter_map(|path| match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::debug!(path = %path.display(), reason = %error, "no resolver settings");
            None
        }
    });
    let usable = |text: &String| network == Network::Host || reachable(text).contains("nameserver");
    let text = texts.into_iter().find(usable).unwrap_or_default();
    if network == Network::Host {
        text
    } else {
        reachable(&text)
    }
}

fn reachable(text: &str) -> String {
    let local = |line: &str| {
        let server = line.strip_prefix("nameserver").map(str::trim);
        server.is_some_and(|server| server.starts_with("127.") || server == "::1")
    };
    text.lines()
        .filter(|line| !local(line))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn servers_on_loopback_are_not_offered_to_steps() {
        let text = "search example.com\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\n";
        assert_eq!(reachable(text), "search example.com\nnameserver 192.0.2.1\n");
    }
}
