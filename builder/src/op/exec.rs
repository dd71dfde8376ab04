//! `RUN`: prepares a snapshot and mounts, runs the process in the sandbox, commits what it changed.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use proto::definition::{ExecOp, Mount, MountKind, Network, VertexId};
use proto::digest::ChainId;
use proto::record::Field;
use proto::tree::{RelPath, Tree};
use proto::v1::{self, event::Kind};
use tokio::sync::mpsc;

use super::cache_mount::CacheMount;
use super::work::{BuildWork, FilesOf};
use super::{file, fill, foreign, stubs};
use crate::blocking;
use crate::event::{EventLog, STEP_LOG_LIMIT, StepNumber};
use crate::executor::{
    self, ExecError, ExitReport, MountSource, Outcome, OutputChunk, OutputStream, Process, SecretValue, StepFile,
    StepMount,
};
use crate::layer::lower::LowerTrees;
use crate::layer::tar::WrittenLayer;
use crate::layer::{diff, tar};
use crate::layers::store_failed;
use crate::request::{Blame, BuildError, FailedStep};
use crate::snapshot::rootfs::Rootfs;
use crate::snapshot::{Active, Snapshotter};
use crate::solve::Inputs;
use crate::stack::{Layer, Stack};

/// What bind mounts, and the sources of cache mounts, add to the key.
///
/// # Errors
/// Paths that do not exist; layers that cannot be read.
pub async fn content(work: &BuildWork, exec: &ExecOp, inputs: &Inputs) -> Result<Vec<Field>, BuildError> {
    let mut fields = Vec::new();
    for (index, mount) in exec.mounts.iter().enumerate() {
        if let Some((from, source)) = read_by(mount) {
            fields.extend(file::mounted_content(work, from, source, index, inputs).await?);
        }
    }
    Ok(fields)
}

/// The files a mount reads: whose, and which.
fn read_by(mount: &Mount) -> Option<(VertexId, &str)> {
    match &mount.kind {
        MountKind::Bind { from, source, .. } => Some((*from, source)),
        MountKind::Cache {
            from: Some((from, source)),
            ..
        } => Some((*from, source)),
        _ => None,
    }
}

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
    job.host.layers.unpack(&below, job, step).await?;
    let mut held = Held::default();
    let (mounts, env) = mounts(work, exec, inputs, step, &mut held).await?;
    let snapshots = job.host.layers.snapshots();
    let active = snapshots
        .prepare(below.chains())
        .map_err(|error| BuildError::environment(error.to_string()))?;
    let process = process(exec, active.rootfs.clone(), mounts, env);
    let (output, chunks) = mpsc::channel(OUTPUT_QUEUE);
    let running = job.host.executor.run(&process, output, job.cancel.clone());
    let (result, ()) = tokio::join!(running, log(Arc::clone(&job.events), step, chunks));
    let report = match result {
        Ok(report) if report.outcome == Outcome::Code(0) => report,
        other => {
            abandon(work, active).await?;
            held.release(work).await?;
            return Err(foreign::explain(
                failure(exec, other, job.cancel.is_cancelled()),
                foreign,
            ));
        }
    };
    let layer = commit(work, &below, active, report, step).await;
    held.release(work).await?;
    layer
}

/// What must outlive the process and not much more.
#[derive(Default)]
struct Held {
    cache_mounts: Vec<CacheMount>,
    throw_away: Vec<Active>,
}

impl Held {
    /// Frees cache mounts and removes what was written to throw-away mounts.
    async fn release(self, work: &BuildWork) -> Result<(), BuildError> {
        drop(self.cache_mounts);
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

fn process(exec: &ExecOp, rootfs: Rootfs, mounts: Vec<StepMount>, mut env: Vec<(String, String)>) -> Process {
    let mut files = Vec::new();
    if let Some(script) = &exec.script {
        files.push(StepFile {
            path: format!("/dev/pipes/{}", script.name),
            bytes: script.data.clone(),
            mode: 0o755,
        });
    }
    env.extend(exec.proxy_env.iter().cloned());
    Process {
        args: exec.args.clone(),
        env,
        cwd: exec.cwd.clone(),
        user: exec.user.clone(),
        hostname: exec.hostname.clone(),
        network: match exec.network {
            Network::Default => executor::Network::Default,
            Network::None => executor::Network::None,
            Network::Host => executor::Network::Host,
        },
        extra_hosts: exec.extra_hosts.clone(),
        rootfs,
        mounts,
        shm_size_bytes: exec.shm_size_bytes,
        files,
    }
}

/// The mounts of a step and its environment, with the values of secrets that are asked for there.
async fn mounts(
    work: &BuildWork,
    exec: &ExecOp,
    inputs: &Inputs,
    step: StepNumber,
    held: &mut Held,
) -> Result<(Vec<StepMount>, Vec<(String, String)>), BuildError> {
    let mut env = exec.env.clone();
    let mut mounts = Vec::new();
    for mount in &exec.mounts {
        let target = mount.target.clone();
        match &mount.kind {
            MountKind::Bind { from, source, writable } => {
                let source = bind(work, *from, source, *writable, inputs, step, held).await?;
                mounts.push(StepMount {
                    target,
                    source,
                    readonly: !writable,
                });
            }
            MountKind::Cache {
                id,
                sharing,
                from,
                writable,
                access,
            } => {
                let taken = work
                    .job
                    .host
                    .cache_mounts
                    .take(id, &work.job.host.platform, *sharing, *access);
                let cache = tokio::select! {
                    () = work.job.cancel.cancelled() => return Err(BuildError::canceled()),
                    taken = taken => taken?,
                };
                if cache.is_new
                    && let Some((from, source)) = from
                {
                    fill::directory(work, *from, source, inputs, &cache.path).await?;
                }
                let source = MountSource::Directory {
                    path: cache.path.clone(),
                    subpath: PathBuf::new(),
                };
                held.cache_mounts.push(cache);
                mounts.push(StepMount {
                    target,
                    source,
                    readonly: !writable,
                });
            }
            MountKind::Tmpfs { size_bytes } => {
                let source = MountSource::Tmpfs {
                    size_bytes: *size_bytes,
                    mode: 0o1777,
                };
                mounts.push(StepMount {
                    target,
                    source,
                    readonly: false,
                });
            }
            MountKind::Secret {
                id,
                file,
                env: variable,
                access,
                required,
            } => {
                let value = work.job.session.secret(id).await?;
                if value.is_none() && *required {
                    return Err(BuildError::user(format!("secret {id}: not found"))
                        .help(format!("pass it with `--secret id={id},src=FILE`")));
                }
                if let Some(name) = variable {
                    let text = String::from_utf8(value.clone().unwrap_or_default())
                        .map_err(|_| BuildError::user(format!("secret {id} is no text and cannot be a variable")))?;
                    env.retain(|(known, _)| known != name);
                    env.push((name.clone(), text));
                }
                if let Some(bytes) = value.filter(|_| *file) {
                    let source = MountSource::Secret {
                        value: SecretValue(bytes),
                        mode: access.mode,
                        uid: access.uid,
                        gid: access.gid,
                    };
                    mounts.push(StepMount {
                        target,
                        source,
                        readonly: true,
                    });
                }
            }
            MountKind::Ssh { required: false, .. } => {}
            MountKind::Ssh { id, .. } => {
                return Err(BuildError::user(format!("unset ssh forward key {id}"))
                    .note("forwarding of SSH agents is not supported yet"));
            }
        }
    }
    Ok((mounts, env))
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
    let snapshots = job.host.layers.snapshots();
    let subpath = PathBuf::from(source.trim_start_matches('/'));
    if writable {
        let active = snapshots
            .prepare(stack.chains())
            .map_err(|error| BuildError::environment(error.to_string()))?;
        let rootfs = active.rootfs.clone();
        held.throw_away.push(active);
        return Ok(MountSource::Rootfs { rootfs, subpath });
    }
    Ok(MountSource::Rootfs {
        rootfs: snapshots.view(stack.chains()).map_err(|error| store_failed(&error))?,
        subpath,
    })
}

/// The changes of a step as a layer: read once, for its tree and its diff ID; the bytes stay where they are.
async fn commit(
    work: &BuildWork,
    below: &Stack,
    active: Active,
    report: ExitReport,
    step: StepNumber,
) -> Result<Layer, BuildError> {
    let layers = work.job.host.layers.clone();
    let trees = layers.trees(below, &work.job, step).await?;
    let below = below.clone();
    blocking::run(move || {
        let stubs: Vec<RelPath> = report
            .stubs
            .iter()
            .map(|stub| RelPath::clean(stub.as_os_str().as_bytes()))
            .filter(|stub| !KEPT_MOUNT_POINTS.contains(&stub.as_bytes()))
            .collect();
        match changes(&active, &trees, &stubs) {
            Ok(written) => {
                let chain = ChainId::append(below.chain(), written.diff_id);
                layers
                    .snapshots()
                    .commit(active, &chain)
                    .map_err(|error| store_failed(&error))?;
                layers.remember_tree(written.diff_id, written.tree)?;
                Ok(Layer::built(written.diff_id, written.size_bytes, Vec::new()))
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

/// What is in `active` over the layers of `trees`, base first. Mount points that were made for the step are not in the layer, and
/// not in the snapshot that later steps see.
fn changes(active: &Active, trees: &[Arc<Tree>], stubs: &[RelPath]) -> Result<WrittenLayer, BuildError> {
    let lower = LowerTrees(trees.iter().rev().map(Arc::as_ref).collect());
    let left_out = stubs.iter().cloned().collect();
    let entries = diff::diff(&active.upper, &lower, &left_out).map_err(|error| store_failed(&error))?;
    let written = tar::write(&entries, None, &mut std::io::sink()).map_err(|error| store_failed(&error))?;
    stubs::remove(&active.upper, stubs).map_err(|error| store_failed(&error))?;
    Ok(written)
}

fn failure(exec: &ExecOp, result: Result<ExitReport, ExecError>, canceled: bool) -> BuildError {
    if canceled {
        return BuildError::canceled();
    }
    let command = exec.args.join(" ").escape_debug().to_string();
    match result {
        Ok(report) => {
            let (code, note) = match report.outcome {
                Outcome::Code(code) => (code, None),
                Outcome::Signal(signal) => (128 + signal, Some(format!("signal {signal} ended it"))),
                Outcome::OutOfMemory => (137, Some("it ran out of memory".to_owned())),
            };
            let message = format!("process \"{command}\" did not complete successfully: exit code: {code}");
            let mut error = BuildError::user(message);
            error.notes.extend(note);
            error.step = Some(Box::new(FailedStep {
                name: String::new(),
                log_tail: Vec::new(),
                exit_code: Some(code),
            }));
            error
        }
        Err(ExecError::Cancelled) => BuildError::canceled(),
        Err(error @ ExecError::Refused { .. }) => BuildError::user(error.to_string()),
        Err(error) => BuildError::new(Blame::Environment, error.to_string()),
    }
}

/// Chunks of output that may wait for the log.
const OUTPUT_QUEUE: usize = 64;

/// Carries the output of a process into the event log, up to a limit. Ends when the process has.
async fn log(events: Arc<EventLog>, step: StepNumber, mut chunks: mpsc::Receiver<OutputChunk>) {
    let publish = |stream: u32, data: Vec<u8>| {
        events.publish(Kind::StepLog(v1::StepLog {
            step: step.0,
            stream,
            data,
        }))
    };
    let mut taken = 0;
    while let Some((stream, bytes)) = chunks.recv().await {
        if taken >= STEP_LOG_LIMIT {
            continue;
        }
        taken += bytes.len();
        publish(if stream == OutputStream::Stdout { 1 } else { 2 }, bytes.to_vec());
        if taken >= STEP_LOG_LIMIT {
            let limit = STEP_LOG_LIMIT >> 20;
            publish(
                2,
                format!("\n[output clipped: the limit of {limit} MiB a step is reached]\n").into_bytes(),
            );
        }
    }
}
