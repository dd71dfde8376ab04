//! `RUN`: prepares a snapshot and mounts, runs the process in the sandbox, commits what it changed.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use proto::definition::{ExecOp, Mount, MountAccess, MountKind, VertexId};
use proto::digest::DiffId;
use proto::tree::{RelPath, Tree};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::agent::AgentSocket;
use super::cache_mount::StepMounts;
use super::device::{self, Edits};
use super::verdict::{self, Held as HeldTo};
use super::watch::{Exceeded, watch};
use super::work::{BuildWork, FilesOf};
use super::{certificates, file, foreign, output, sockets, stubs};
use crate::blocking;
use crate::event::StepNumber;
use crate::executor::{self, ExitReport, MountSource, Outcome, Process, SecretValue, StepDevice, StepMount};
use crate::ids::Ids;
use crate::inspect::keep::{self, Failed};
use crate::inspect::setup::{network_of, script_of, security_of};
use crate::layer::lower::LowerTrees;
use crate::layer::tar::WrittenLayer;
use crate::layer::{diff, tar};
use crate::layers::store_failed;
use crate::limits::StepSettings;
use crate::phase::Phase;
use crate::request::{Blame, BuildError};
use crate::room;
use crate::snapshot::rootfs::Rootfs;
use crate::snapshot::{Active, Snapshotter};
use crate::solve::Inputs;
use crate::stack::{Layer, Stack};

/// Runs the process and returns the layer of its changes.
///
/// # Errors
/// A process that fails; mounts that cannot be made; a full disk; cancellation.
pub async fn run(
    work: &BuildWork,
    id: VertexId,
    exec: &ExecOp,
    inputs: &Inputs,
    step: StepNumber,
) -> Result<Layer, BuildError> {
    let job = &work.job;
    let foreign = foreign::check(work, id, exec)?;
    let below = inputs.stack(exec.root);
    // Beside the unpacking of a base image, if one is missing.
    job.host.executor.expect_step();
    job.host.layers.unpack(&below, job, step).await?;
    let mut held = Held {
        cache_mounts: StepMounts::take(work, id, exec, inputs).await?,
        ..Held::default()
    };
    let ran = match prepare(work, exec, inputs, step, &mut held).await {
        Ok(prepared) => {
            let failed = Failed {
                id,
                number: step,
                exec,
                below: &below,
                binds: std::mem::take(&mut held.binds),
            };
            run_prepared(work, failed, prepared).await
        }
        Err(error) => Err(error),
    };
    let released = held.release(work).await;
    let layer = ran.map_err(|error| foreign::explain(error, foreign))?;
    released.map(|()| layer)
}

/// `if_failed` is what is known of the step, also for those who look into it afterwards.
async fn run_prepared(work: &BuildWork, if_failed: Failed<'_>, prepared: Prepared) -> Result<Layer, BuildError> {
    let Failed {
        exec, below, number, ..
    } = if_failed;
    let job = &work.job;
    let snapshots = job.host.layers.snapshots();
    let preparing = Phase::Snapshot.start();
    let active = snapshots
        .prepare(below.chains())
        .map_err(|error| store_failed(&error))?;
    preparing.end();
    let process = process(exec, active.rootfs.clone(), prepared, &job.steps);
    let (output, chunks) = mpsc::channel(OUTPUT_QUEUE);
    let (cancel, ended) = (job.cancel.child_token(), CancellationToken::new());
    let running = async {
        let result = job.host.executor.run(&process, output, cancel.clone()).await;
        ended.cancel();
        result
    };
    let (result, (), exceeded) = tokio::join!(
        running,
        output::carry(work, number, chunks),
        watch(&process.limits, &active.upper, &cancel, &ended)
    );
    let held = HeldTo {
        to: &process.limits,
        by_server: &job.steps.of_server,
    };
    match (result, exceeded) {
        (Ok(report), _) if report.outcome == Outcome::Code(0) => {
            let committed = commit(work, below, active, report, number).await?;
            committed.map_err(|exceeded| verdict::ended_early(exec, exceeded, held))
        }
        (other, exceeded) => {
            let has_run = other.is_ok();
            let error = match exceeded {
                _ if job.cancel.is_cancelled() => BuildError::canceled(),
                Some(exceeded) => verdict::ended_early(exec, exceeded, held),
                None => explain_one_id(verdict::failure(exec, other, held)),
            };
            // Asked before what the step wrote is removed.
            let error = match job.host.room.is_full() && error.blame != Blame::Canceled {
                true => room::full(error.note("the disk of the store is full")),
                false => error,
            };
            if has_run && !error.full && error.blame != Blame::Canceled {
                return Err(keep::keep(work, &if_failed, active, error).await?);
            }
            abandon(work, active).await?;
            Err(error)
        }
    }
}

/// What must outlive the process and not much more.
#[derive(Default)]
struct Held {
    cache_mounts: StepMounts,
    throw_away: Vec<Active>,
    agents: Vec<AgentSocket>,
    /// The layers behind bind mounts, in their order.
    binds: Vec<Vec<DiffId>>,
}

impl Held {
    /// Frees cache mounts, closes agents, and removes what was written to throw-away mounts.
    async fn release(self, work: &BuildWork) -> Result<(), BuildError> {
        drop(self.cache_mounts);
        for agent in self.agents {
            agent.close().await.map_err(|error| {
                BuildError::environment(format!("cannot remove the socket of an SSH agent: {error}"))
            })?;
        }
        for active in self.throw_away {
            abandon(work, active).await?;
        }
        Ok(())
    }
}

async fn abandon(work: &BuildWork, active: Active) -> Result<(), BuildError> {
    let layers = work.job.host.layers.clone();
    blocking::run(move || {
        layers
            .snapshots()
            .abandon(active)
            .map_err(|error| BuildError::environment(error.to_string()))
    })
    .await
}

fn process(exec: &ExecOp, rootfs: Rootfs, prepared: Prepared, settings: &StepSettings) -> Process {
    let Prepared {
        mounts,
        mut env,
        devices,
    } = prepared;
    let mut files = Vec::new();
    if let Some(script) = &exec.script {
        files.push(script_of(script));
    }
    env.extend(exec.proxy_env.iter().cloned());
    if settings.ca_bundle.is_some() {
        certificates::name(&mut env);
    }
    Process {
        args: exec.args.clone(),
        env,
        cwd: exec.cwd.clone(),
        user: exec.user.clone(),
        hostname: exec.hostname.clone(),
        network: network_of(exec.network),
        security: security_of(exec.security),
        devices,
        extra_hosts: exec.extra_hosts.clone(),
        rootfs,
        mounts,
        shm_size_bytes: exec.shm_size_bytes,
        files,
        limits: settings.limits.clone(),
        ca_bundle: settings.ca_bundle.clone(),
    }
}

/// What the mounts and devices of a step become.
#[derive(Default)]
struct Prepared {
    mounts: Vec<StepMount>,
    env: Vec<(String, String)>,
    devices: Vec<StepDevice>,
}

impl Prepared {
    fn mount(&mut self, target: &str, source: MountSource, readonly: bool) {
        self.mounts.push(StepMount {
            target: target.to_owned(),
            source,
            readonly,
        });
    }

    fn set_variable(&mut self, name: &str, value: String) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value));
    }

    /// A step finds its first agent, unless the Dockerfile names another one.
    fn name_agent(&mut self, target: &str) {
        if !self.env.iter().any(|(name, _)| name == AGENT_VARIABLE) {
            self.env.push((AGENT_VARIABLE.to_owned(), target.to_owned()));
        }
    }

    fn add(&mut self, edits: Edits) {
        for (name, value) in edits.env {
            self.set_variable(&name, value);
        }
        for mount in edits.mounts {
            self.mount(&mount.target, MountSource::Machine { path: mount.path }, mount.readonly);
        }
        self.devices.extend(edits.devices);
    }
}

/// Where programs look for the agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// The mounts of a step, its devices, and its environment with the values of secrets that are asked for there.
async fn prepare(
    work: &BuildWork,
    exec: &ExecOp,
    inputs: &Inputs,
    step: StepNumber,
    held: &mut Held,
) -> Result<Prepared, BuildError> {
    let mut prepared = Prepared {
        env: exec.env.clone(),
        ..Prepared::default()
    };
    prepared.add(device::edits(&exec.devices, &work.job, step).await?);
    for Mount { target, kind } in &exec.mounts {
        match kind {
            MountKind::Bind { from, source, writable } => {
                let source = bind(work, *from, source, *writable, inputs, step, held).await?;
                prepared.mount(target, source, !writable);
            }
            MountKind::Cache { id, writable, .. } => {
                let path = held.cache_mounts.path(id);
                let path = path.ok_or_else(|| BuildError::bug("a cache mount was not taken"))?;
                let subpath = PathBuf::new();
                prepared.mount(target, MountSource::Directory { path, subpath }, !writable);
            }
            MountKind::Tmpfs { size_bytes } => {
                let source = MountSource::Tmpfs {
                    size_bytes: *size_bytes,
                    mode: 0o1777,
                };
                prepared.mount(target, source, false);
            }
            MountKind::Secret {
                id,
                file,
                env,
                access,
                required,
            } => {
                let value = secret(work, id, *required).await?;
                if let Some(name) = env {
                    let text = String::from_utf8(value.clone().unwrap_or_default())
                        .map_err(|_| BuildError::user(format!("secret {id} is no text and cannot be a variable")))?;
                    prepared.set_variable(name, text);
                }
                if let Some(bytes) = value.filter(|_| *file) {
                    let source = MountSource::Secret {
                        value: SecretValue(bytes),
                        mode: access.mode,
                        uid: access.uid,
                        gid: access.gid,
                    };
                    prepared.mount(target, source, true);
                }
            }
            MountKind::Ssh { id, access, required } => {
                if let Some(source) = agent(work, id, access, *required, held)? {
                    prepared.mount(target, source, false);
                    prepared.name_agent(target);
                }
            }
        }
    }
    Ok(prepared)
}

async fn secret(work: &BuildWork, id: &str, required: bool) -> Result<Option<Vec<u8>>, BuildError> {
    let value = work.job.session.secret(id).await?;
    if value.is_none() && required {
        return Err(BuildError::user(format!("secret {id}: not found"))
            .help(format!("pass it with `--secret id={id},src=FILE`")));
    }
    Ok(value)
}

/// The socket of an agent; nothing if the client lends none and none is required.
fn agent(
    work: &BuildWork,
    id: &str,
    access: &MountAccess,
    required: bool,
    held: &mut Held,
) -> Result<Option<MountSource>, BuildError> {
    let job = &work.job;
    if !job.session.has_agent(id) {
        if required {
            return Err(BuildError::user(format!("unset ssh forward key {id}"))
                .help(format!("lend the agent with `--ssh {id}`")));
        }
        return Ok(None);
    }
    let socket = AgentSocket::open(&job.session, id, access, &job.host.store.tmp_dir())
        .map_err(|error| BuildError::environment(format!("cannot make a socket for the SSH agent: {error}")))?;
    let source = MountSource::Socket { path: socket.path() };
    held.agents.push(socket);
    Ok(Some(source))
}

/// Files of another stage, of an image or of a context, as a mount.
#[expect(
    clippy::too_many_arguments,
    reason = "one mount is all of this; a struct would only move the list"
)]
async fn bind(
    work: &BuildWork,
    from: VertexId,
    source: &str,
    writable: bool,
    inputs: &Inputs,
    step: StepNumber,
    held: &mut Held,
) -> Result<MountSource, BuildError> {
    let job = &work.job;
    let stack = match work.files_of(from, inputs)? {
        FilesOf::Stack(stack) => stack,
        // What is selected of a context becomes a layer of its own: a step never sees the client's files themselves.
        FilesOf::Context(_) => file::context_stack(work, from, source, inputs, step).await?,
    };
    job.host.layers.unpack(&stack, job, step).await?;
    held.binds.push(stack.diff_ids());
    let snapshots = job.host.layers.snapshots();
    let subpath = PathBuf::from(source.trim_start_matches('/'));
    if writable {
        let active = snapshots
            .prepare(stack.chains())
            .map_err(|error| store_failed(&error))?;
        let rootfs = active.rootfs.clone();
        held.throw_away.push(active);
        return Ok(MountSource::Rootfs { rootfs, subpath });
    }
    Ok(MountSource::Rootfs {
        rootfs: snapshots.view(stack.chains()).map_err(|error| store_failed(&error))?,
        subpath,
    })
}

/// The changes of a step as a layer: read once, for its tree and its diff ID; the bytes stay where they are. Not if they take more
/// space than the step may.
async fn commit(
    work: &BuildWork,
    below: &Stack,
    mut active: Active,
    report: ExitReport,
    step: StepNumber,
) -> Result<Result<Layer, Exceeded>, BuildError> {
    let layers = work.job.host.layers.clone();
    let most_bytes = work.job.steps.limits.disk_bytes;
    let trees = match layers.trees(below, &work.job, step).await {
        Ok(trees) => trees,
        Err(error) => {
            abandon(work, active).await?;
            return Err(error);
        }
    };
    let below = below.chain();
    blocking::run(move || {
        let stubs: Vec<RelPath> = report
            .stubs
            .iter()
            .map(|stub| RelPath::clean(stub.as_os_str().as_bytes()))
            .filter(|stub| !KEPT_MOUNT_POINTS.contains(&stub.as_bytes()))
            .collect();
        match changes(&mut active, &trees, &stubs) {
            // Between two looks of the watcher it may have written more.
            Ok(_) if let Some(most) = most_bytes.filter(|most| active.disk_bytes > Some(*most)) => {
                layers
                    .snapshots()
                    .abandon(active)
                    .map_err(|error| store_failed(&error))?;
                Ok(Err(Exceeded::Disk(most)))
            }
            Ok(written) => {
                let _phase = Phase::Commit.start();
                layers.commit(active, below, written).map(Ok)
            }
            Err(error) => {
                layers
                    .snapshots()
                    .abandon(active)
                    .map_err(|error| store_failed(&error))?;
                Err(error)
            }
        }
    })
    .await
}

/// Mount points that stay in the first layer that needed them, as other builders keep them: every further step and every container
/// of the image needs them again.
const KEPT_MOUNT_POINTS: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// What is in `active` over the layers of `trees`, base first. Mount points that were made for the step, and sockets that it left,
/// are not in the layer, and not in the snapshot that later steps see.
fn changes(active: &mut Active, trees: &[Arc<Tree>], stubs: &[RelPath]) -> Result<WrittenLayer, BuildError> {
    let _phase = Phase::Diff.start();
    let lower = LowerTrees(trees.iter().rev().map(Arc::as_ref).collect());
    let left_out = stubs.iter().cloned().collect();
    let changes = diff::diff(&active.upper, &lower, &left_out).map_err(|error| store_failed(&error))?;
    let written = tar::write(&changes.entries, None, &mut std::io::sink()).map_err(|error| store_failed(&error))?;
    sockets::remove(&active.upper, &changes.sockets).map_err(|error| store_failed(&error))?;
    stubs::remove(&active.upper, stubs).map_err(|error| store_failed(&error))?;
    active.disk_bytes = Some(changes.disk_bytes);
    Ok(written)
}

/// Where files have one owner, adds what a step cannot do for that, and what to do about it: programs only say "Invalid argument".
fn explain_one_id(error: BuildError) -> BuildError {
    if Ids::of_process() != Ids::One || error.blame != Blame::User {
        return error;
    }
    let note = "its sandbox has no user and no group but root: `chown`, `USER` and programs that change users (`apt-get`, `su`) fail there";
    error.note(note).help(executor::help_for_one_id())
}

/// Chunks of output that may wait for the log.
const OUTPUT_QUEUE: usize = 64;
