//! The mounts and devices of a process that looks into something, and what must be thrown away after it.

use std::path::PathBuf;

use proto::definition::DeviceRequest;

use super::ground::{Ground, stack_of};
use super::setup::{Access, Setup, SetupKind, sharing_of};
use crate::build::Job;
use crate::cdi::HostMount;
use crate::event::StepNumber;
use crate::executor::{MountSource, SecretValue, StepDevice, StepMount};
use crate::layers::store_failed;
use crate::op::agent::AgentSocket;
use crate::op::cache_mount::{CacheMount, Taken, Wanted};
use crate::op::device;
use crate::request::BuildError;
use crate::snapshot::rootfs::Rootfs;
use crate::snapshot::{Active, Snapshotter};

/// Where programs look for an agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// What must outlive the process and not much more.
#[derive(Debug, Default)]
pub(super) struct Held {
    cache_mounts: Vec<CacheMount>,
    throw_away: Vec<Active>,
    agents: Vec<AgentSocket>,
}

/// What the mounts and devices become.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) rootfs: Rootfs,
    pub(super) mounts: Vec<StepMount>,
    pub(super) env: Vec<(String, String)>,
    pub(super) devices: Vec<StepDevice>,
}

impl Prepared {
    fn set_variable(&mut self, name: &str, value: String) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value));
    }
}

impl Held {
    /// A snapshot on `ground` with everything that its setup asks for. Whatever comes of it, [`Held::release`] must follow.
    ///
    /// # Errors
    /// Layers that are not here; secrets and agents that make no sense; a store that fails.
    pub(super) async fn prepare(
        &mut self,
        ground: &Ground,
        job: &Job,
        step: StepNumber,
    ) -> Result<Prepared, BuildError> {
        let setup = &ground.setup;
        let root = ground.prepare(job).map_err(|error| store_failed(&error))?;
        let rootfs = root.rootfs.clone();
        self.throw_away.push(root);
        let mut prepared = Prepared {
            rootfs,
            mounts: Vec::new(),
            env: setup.env.clone(),
            devices: Vec::new(),
        };
        self.fill(&mut prepared, setup, job, step).await?;
        Ok(prepared)
    }

    async fn fill(
        &mut self,
        prepared: &mut Prepared,
        setup: &Setup,
        job: &Job,
        step: StepNumber,
    ) -> Result<(), BuildError> {
        let device_of = |(name, required): &(String, bool)| DeviceRequest {
            name: name.clone(),
            required: *required,
        };
        let devices: Vec<_> = setup.devices.iter().map(device_of).collect();
        let edits = device::edits(&devices, job, step).await?;
        for (name, value) in edits.env {
            prepared.set_variable(&name, value);
        }
        prepared.devices.extend(edits.devices);
        let of_machine = |mount: HostMount| StepMount {
            target: mount.target,
            source: MountSource::Machine { path: mount.path },
            readonly: mount.readonly,
        };
        prepared.mounts.extend(edits.mounts.into_iter().map(of_machine));
        for mount in &setup.mounts {
            let source = self.source(&mount.kind, setup, prepared, job).await?;
            if let Some((source, readonly)) = source {
                if matches!(source, MountSource::Socket { .. }) && !setup.has_variable(AGENT_VARIABLE) {
                    prepared.set_variable(AGENT_VARIABLE, mount.target.clone());
                }
                prepared.mounts.push(StepMount {
                    target: mount.target.clone(),
                    source,
                    readonly,
                });
            }
        }
        Ok(())
    }

    /// What a mount shows, and whether it is read-only; nothing if it shows nothing now.
    async fn source(
        &mut self,
        kind: &SetupKind,
        setup: &Setup,
        prepared: &mut Prepared,
        job: &Job,
    ) -> Result<Option<(MountSource, bool)>, BuildError> {
        Ok(match kind {
            SetupKind::Bind {
                layers,
                source,
                writable,
            } => {
                let stack = stack_of(layers, job);
                let snapshots = job.host.layers.snapshots();
                let subpath = PathBuf::from(source.trim_start_matches('/'));
                let rootfs = if *writable {
                    let active = snapshots
                        .prepare(stack.chains())
                        .map_err(|error| store_failed(&error))?;
                    let rootfs = active.rootfs.clone();
                    self.throw_away.push(active);
                    rootfs
                } else {
                    snapshots.view(stack.chains()).map_err(|error| store_failed(&error))?
                };
                Some((MountSource::Rootfs { rootfs, subpath }, !writable))
            }
            SetupKind::Cache {
                id,
                sharing,
                writable,
                access,
            } => {
                let wanted = Wanted {
                    id: id.clone(),
                    platform: setup.platform.parse().unwrap_or_else(|_| job.host.platform.clone()),
                    sharing: sharing_of(sharing),
                    access: (*access).into(),
                    step: "rbuild debug".to_owned(),
                };
                let path = self.take(&wanted, job).await?;
                let subpath = PathBuf::new();
                Some((MountSource::Directory { path, subpath }, !writable))
            }
            SetupKind::Tmpfs { size_bytes } => {
                let (size_bytes, mode) = (*size_bytes, 0o1777);
                Some((MountSource::Tmpfs { size_bytes, mode }, false))
            }
            SetupKind::Secret { id, file, env, access } => {
                let Some(value) = job.session.secret(id).await? else {
                    return Ok(None);
                };
                if let Some(name) = env {
                    let text = String::from_utf8(value.clone())
                        .map_err(|_| BuildError::user(format!("secret {id} is no text and cannot be a variable")))?;
                    prepared.set_variable(name, text);
                }
                let Access { mode, uid, gid } = *access;
                let value = SecretValue(value);
                file.then_some((MountSource::Secret { value, mode, uid, gid }, true))
            }
            SetupKind::Ssh { id, access } if job.session.has_agent(id) => {
                let socket = AgentSocket::open(&job.session, id, &(*access).into(), &job.host.store.tmp_dir());
                let socket = socket.map_err(|error| {
                    BuildError::environment(format!("cannot make a socket for the SSH agent: {error}"))
                })?;
                let source = MountSource::Socket { path: socket.path() };
                self.agents.push(socket);
                Some((source, false))
            }
            SetupKind::Ssh { .. } => None,
        })
    }

    /// Takes a cache mount, empty if it is gone.
    async fn take(&mut self, wanted: &Wanted, job: &Job) -> Result<PathBuf, BuildError> {
        let taken = tokio::select! {
            () = job.cancel.cancelled() => return Err(BuildError::canceled()),
            taken = job.host.cache_mounts.take(wanted) => taken?,
        };
        let mount = match taken {
            Taken::Ready(mount) => mount,
            Taken::New(new) => crate::blocking::run(move || new.finish()).await?,
        };
        let path = mount.path();
        self.cache_mounts.push(mount);
        Ok(path)
    }

    /// Throws away what was written, and closes agents.
    ///
    /// # Errors
    /// What the file system reports.
    pub(super) async fn release(self, job: &Job) -> Result<(), BuildError> {
        drop(self.cache_mounts);
        for agent in self.agents {
            agent.close().await.map_err(|error| {
                BuildError::environment(format!("cannot remove the socket of an SSH agent: {error}"))
            })?;
        }
        let layers = job.host.layers.clone();
        crate::blocking::run(move || {
            let snapshots = layers.snapshots();
            let mut throw_away = self.throw_away.into_iter();
            throw_away.try_for_each(|active| snapshots.abandon(active).map_err(|error| store_failed(&error)))
        })
        .await
    }
}
