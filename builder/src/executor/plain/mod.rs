//! Steps where nothing can be mounted and no namespace can be made: root in an ordinary container, with the capabilities and the
//! system call filter that container engines give by default.
//!
//! A step runs in a directory of its own that holds a copy of its image ([`tree`]), as its root directory; it cannot leave it, since
//! it may not change its root again. What it changed is found by looking ([`changes`]) and becomes a layer as in every other
//! sandbox. Mounts become things that are put into the tree and taken away again ([`places`]). Nothing of the container itself is
//! ever written but the store.
//!
//! # What is weaker than in the other sandboxes
//!
//! - *Processes.* Steps share the process ids of the container. No step can look into the engine's memory or trace it: the engine is
//!   not dumpable, and has a capability that steps lack. Steps of root cannot name, in a signal, any process that was there before
//!   them: their filter refuses it, and signals to everybody. A step that means harm can still find the number of a process that
//!   started after it. A step of another user has no such filter if the container has one of its own and lets users gain privileges,
//!   so that `sudo` works there; then what `sudo` starts can signal everybody.
//! - *Network.* The container's own, whether `default` or `host` is asked for; `none` leaves local sockets only, without loopback.
//! - *`/proc`.* Facts about the machine, nothing about processes: no `/proc/self`, so no process substitution in bash. `/sys` is
//!   empty. There are no terminals.
//! - *Mounts.* What is mounted read-only can be written to; what was written is thrown away. Secrets are files of the disk while the
//!   step runs, overwritten in the end. One step at a time has a cache mount.
//! - *Host name.* That of the container.
//! - *Limits.* Those of the container, unless it lets us make control groups.

mod changes;
mod contents;
mod copy;
mod descendants;
mod lent;
mod mounts;
mod nodes;
mod places;
mod pool;
pub(super) mod supervisor;
mod tree;
pub(super) mod warden;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Instant;

use cache::budget::Budget;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::launch::{Launcher, Sandbox};
use super::namespace::{converse, forward, hosts, report, resolv_conf, tell};
use super::{ExecError, Executor, ExitReport, Network, OutputChunk, Process, SecretValue, Security};
use super::{spec, task};
use crate::snapshot::rootfs::Rootfs;
use mounts::failed;
use pool::Trees;
use tree::WorkTree;

/// What tells the program that it shall be the warden.
pub(super) const DUTY: &str = "plain";

/// One step, as its supervisor is told of it.
#[derive(Debug, Serialize, Deserialize)]
struct PlainSpec {
    /// Its mounts are not in here, but in `placements`.
    process: Process,
    /// The directory that becomes the root.
    tree: PathBuf,
    /// An empty directory beside it, but for what `placements` name.
    aside: PathBuf,
    /// Held shared while somebody works in the tree.
    lock: PathBuf,
    placements: Vec<Placement>,
    hosts: String,
    resolv_conf: String,
}

/// Something in its place.
#[derive(Debug, Serialize, Deserialize)]
struct Placement {
    target: String,
    placed: Placed,
}

#[derive(Debug, Serialize, Deserialize)]
enum Placed {
    /// What the engine made beside the tree.
    Ready { name: String, is_dir: bool },
    /// What this directory of the store holds.
    Lent { path: PathBuf },
    /// An empty directory.
    Empty { mode: u32 },
    Secret {
        value: SecretValue,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Another name of a socket of the engine.
    Socket { path: PathBuf },
}

/// Runs steps in copies of their images.
#[derive(Debug)]
pub struct ChrootExecutor {
    runner: Arc<Runner>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

#[derive(Debug)]
struct Runner {
    launcher: Launcher,
    trees: Trees,
    /// Who has which cache mount.
    lent: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    /// Says once what is different here.
    told: Once,
}

impl ChrootExecutor {
    /// An executor that keeps the trees of its steps in `dir`, on the file system of the layers and within `budget`. `program` must
    /// call [`super::init_main`] for [`super::INIT_ARGUMENT`].
    ///
    /// # Errors
    /// [`ExecError::Start`]: the directory cannot be used, or what a dead engine left there cannot be removed.
    pub fn open(program: &Path, dir: &Path, budget: Arc<Budget>) -> Result<Self, ExecError> {
        let start = |action| move |source: io::Error| ExecError::Start { action, source };
        // Steps run as the same user: what is in this memory is not theirs to see.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|error| start("protect the engine from its steps")(error.into()))?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let program = rustix::fs::open(program, flags, Mode::empty())
            .map_err(|error| start("find the program of the warden")(error.into()))?;
        let trees = Trees::open(dir, budget).map_err(start("prepare the directory for trees of steps"))?;
        let runner = Runner {
            launcher: Launcher::new(program).with_duty(DUTY),
            trees,
            lent: Mutex::default(),
            told: Once::new(),
        };
        Ok(Self {
            runner: Arc::new(runner),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Waits until nothing is left of steps that were cancelled by dropping their future, and removes every tree. No step may be
    /// started afterwards.
    pub async fn finish(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.runner.launcher.finish().await;
        let runner = Arc::clone(&self.runner);
        let removed = tokio::task::spawn_blocking(move || runner.trees.expire(std::time::Duration::ZERO)).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "trees of steps stay until the next start");
        }
    }

    /// Removes the trees that no step comes for, after a while.
    fn expire_later(&self) {
        let (runner, closing) = (Arc::clone(&self.runner), self.closing.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(pool::PATIENCE) => {}
            }
            let expired = tokio::task::spawn_blocking(move || runner.trees.expire(pool::PATIENCE)).await;
            if let Err(error) = expired {
                tracing::debug!(%error, "trees of steps wait for the next step");
            }
        });
    }
}

impl Executor for ChrootExecutor {
    fn expect_step(&self) {
        self.runner.launcher.prepare();
    }

    fn run<'a>(
        &'a self,
        process: &'a Process,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<ExitReport, ExecError>> {
        let runner = Arc::clone(&self.runner);
        let process = process.clone();
        async move {
            let step = |cancel| runner.execute(process, output, cancel);
            let ended = task::run(&self.tasks, &cancel, step).await;
            self.expire_later();
            ended
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.finish().boxed()
    }
}

impl Runner {
    async fn execute(
        self: Arc<Self>,
        process: Process,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<ExitReport, ExecError> {
        self.refuse(&process)?;
        let Some(_lent) = cancel.run_until_cancelled(self.borrow(&process)).await.transpose()? else {
            return Err(ExecError::Cancelled);
        };
        let began = Instant::now();
        let layers = mounts::layers(&process.rootfs);
        let runner = Arc::clone(&self);
        let tree = blocking(move || runner.trees.take(&layers).map_err(failed("make a tree for the step"))).await?;
        let made = began.elapsed();
        let mut ran = self.run_in(&tree, &process, output, cancel).await;
        if let Ok(report) = &mut ran {
            report.times.mounts += made;
            tell(&report.times);
        }
        let ended = Instant::now();
        let runner = Arc::clone(&self);
        let mut report = blocking(move || runner.settle(tree, &process, ran)).await?;
        report.times.end += ended.elapsed();
        Ok(report)
    }

    /// What no step has here.
    fn refuse(&self, process: &Process) -> Result<(), ExecError> {
        if process.security == Security::Insecure {
            return Err(ExecError::Refused {
                message: "`--security=insecure` is not possible in the sandbox `plain`, which has no further privileges to give"
                    .to_owned(),
            });
        }
        if process.ca_bundle.is_some() {
            return Err(ExecError::Refused {
                message: "`--ca-bundle` is not possible in the sandbox `plain`".to_owned(),
            });
        }
        if process.network == Network::Default {
            self.told.call_once(|| {
                tracing::info!(
                    "steps have the network of this container: in the sandbox `plain` there is no other one"
                );
            });
        }
        Ok(())
    }

    /// Waits until nobody else has the cache mounts of the step.
    async fn borrow(&self, process: &Process) -> Result<Vec<OwnedMutexGuard<()>>, ExecError> {
        let mut held = Vec::new();
        for home in mounts::lent(&process.mounts)? {
            let lock = {
                let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(lent.entry(home).or_default())
            };
            held.push(lock.lock_owned().await);
        }
        Ok(held)
    }

    async fn run_in(
        &self,
        tree: &WorkTree,
        process: &Process,
        output: mpsc::Sender<OutputChunk>,
        cancel: CancellationToken,
    ) -> Result<ExitReport, ExecError> {
        let mounting = Instant::now();
        let (mounts, aside) = (process.mounts.clone(), tree.aside());
        let placements = blocking(move || mounts::prepare(&mounts, &aside)).await?;
        if cancel.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let spec = PlainSpec {
            process: Process {
                mounts: Vec::new(),
                ..process.clone()
            },
            tree: tree.root(),
            aside: tree.aside(),
            lock: self.trees.lock(),
            placements,
            hosts: hosts(&Process {
                hostname: Some(rustix::system::uname().nodename().to_string_lossy().into_owned()),
                ..process.clone()
            }),
            // The network is the container's own, and so are its name servers.
            resolv_conf: resolv_conf(match process.network {
                Network::None => Network::None,
                Network::Default | Network::Host => Network::Host,
            }),
        };
        let message = spec::encode(&spec).map_err(|source| ExecError::Start {
            action: "describe the step",
            source,
        })?;
        let mounted = mounting.elapsed();
        let launching = Instant::now();
        let Sandbox { socket, printed, group } = self.launcher.take(&process.limits).await?;
        let launched = Instant::now();
        let (reply, (), ()) = tokio::join!(
            converse(socket, message, cancel.clone()),
            forward(printed, output.clone()),
            async { self.launcher.prepare() },
        );
        if cancel.is_cancelled() {
            return Err(ExecError::Cancelled);
        }
        let reply = reply.map_err(|source| ExecError::Start {
            action: "talk to the supervisor",
            source,
        })?;
        let mut report = report(reply, &group, &output).await?;
        let known = report.times.mounts + report.times.start + report.times.ran;
        report.times.end = launched.elapsed().saturating_sub(known);
        report.times.launch = launched - launching;
        report.times.mounts += mounted;
        Ok(report)
    }

    /// What is done with a tree after its step: changes go into its upper directory, where whoever looks into a failed step finds
    /// them, too. What a step left that did not run to its end is not worth looking through.
    fn settle(
        &self,
        mut tree: WorkTree,
        process: &Process,
        ran: Result<ExitReport, ExecError>,
    ) -> Result<ExitReport, ExecError> {
        let report = match ran {
            Ok(report) => report,
            Err(error) => {
                self.trees.discard(tree);
                return Err(error);
            }
        };
        let upper = match &process.rootfs {
            Rootfs::Overlay { upper: Some(upper), .. } => Some(upper.dir.clone()),
            _ => None,
        };
        let settled = places::empty(&tree.aside()).and_then(|()| match &upper {
            Some(upper) => changes::collect(&mut tree, upper),
            None => {
                let dropped = tree.aside().join("dropped");
                std::fs::create_dir(&dropped)?;
                changes::collect(&mut tree, &dropped)?;
                places::empty(&tree.aside())
            }
        });
        match settled {
            Ok(()) => {
                self.trees.keep(tree);
                Ok(report)
            }
            Err(error) => {
                self.trees.discard(tree);
                Err(failed("find out what the step changed")(error))
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExecError> + Send + 'static,
) -> Result<T, ExecError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ExecError::Start {
            action: "run its task",
            source: io::Error::other(error),
        })?
}
