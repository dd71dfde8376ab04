//! Keeps what a failed step left, for an hour.

use cache::kept::{KeptName, KeptStep};
use proto::definition::{ExecOp, VertexId};
use proto::digest::DiffId;

use super::setup::{Setup, SetupKind};
use crate::blocking;
use crate::event::StepNumber;
use crate::executor::tier::Tier;
use crate::layers::store_failed;
use crate::op::work::BuildWork;
use crate::request::BuildError;
use crate::snapshot::{Active, Snapshotter};
use crate::stack::Stack;

/// Digits of the id of a build that people read.
const ID_DIGITS: usize = 12;

/// A step that failed.
#[derive(Debug)]
pub struct Failed<'a> {
    /// Which.
    pub id: VertexId,
    /// Its number in the build.
    pub number: StepNumber,
    /// What it was.
    pub exec: &'a ExecOp,
    /// The layers that it ran on.
    pub below: &'a Stack,
    /// The layers behind its bind mounts, in their order.
    pub binds: Vec<Vec<DiffId>>,
}

/// Keeps what `failed` left in `active` if there is room for it, and says in `error` how to look at it. Otherwise it is removed.
///
/// # Errors
/// What it left cannot be removed.
pub async fn keep(
    work: &BuildWork,
    failed: &Failed<'_>,
    active: Active,
    error: BuildError,
) -> Result<BuildError, BuildError> {
    let layers = work.job.host.layers.clone();
    let name = KeptName::new(work.job.session.build_id(), failed.number.0);
    let Ok(name) = name else {
        blocking::run(move || layers.snapshots().abandon(active).map_err(|error| store_failed(&error))).await?;
        return Ok(error);
    };
    let step = describe(work, failed, name)?;
    let (store, budget) = (work.job.host.store.clone(), work.job.host.room.kept_bytes());
    let kept = blocking::run(move || {
        let kept = store.kept();
        let dir = match kept.make_dir(name) {
            Ok(dir) => dir,
            Err(error) => {
                tracing::warn!(%error, "there is no place for what a failed step left");
                layers
                    .snapshots()
                    .abandon(active)
                    .map_err(|error| store_failed(&error))?;
                return Ok(false);
            }
        };
        let put = layers
            .snapshots()
            .keep(active, &dir)
            .map_err(|error| error.to_string())
            .and_then(|()| kept.measure(name).map_err(|error| error.to_string()))
            .and_then(|bytes| match bytes <= budget {
                true => kept.put(&KeptStep { bytes, ..step }).map_err(|error| error.to_string()),
                false => Err(format!("{bytes} bytes are more than {budget}")),
            });
        if let Err(reason) = &put {
            tracing::info!(step = %name, reason, "what a failed step left is not kept");
            kept.take_away(name).map_err(|error| store_failed(&error))?;
            return Ok(false);
        }
        kept.shrink_to(budget).map_err(|error| store_failed(&error))?;
        Ok(true)
    });
    Ok(match kept.await? {
        true => error.help(help(work.job.host.tier, name)),
        false => error,
    })
}

/// How to look at it. Where nothing can be mounted, no process can be run on it either.
fn help(tier: Tier, name: KeptName) -> String {
    let (build, step) = (&name.build()[..ID_DIGITS], name.step());
    match tier {
        Tier::Plain => format!("look at what it left: `rbuild cp {build}/{step}:/path DEST`"),
        Tier::Root | Tier::Rootless | Tier::SingleId => format!("look at what it left: `rbuild debug {build} {step}`"),
    }
}

fn describe(work: &BuildWork, failed: &Failed<'_>, name: KeptName) -> Result<KeptStep, BuildError> {
    let vertex = work.definition.vertex(failed.id);
    let setup = Setup::of_exec(failed.exec, &vertex.platform, &failed.binds);
    let mut stacks = vec![failed.below.diff_ids()];
    stacks.extend(setup.mounts.iter().filter_map(|mount| match &mount.kind {
        SetupKind::Bind { layers, .. } => Some(layers.clone()),
        _ => None,
    }));
    Ok(KeptStep {
        name,
        title: vertex.name.clone(),
        kept_ms: work.job.host.store.index().now_ms(),
        bytes: 0,
        stacks,
        setup: serde_json::to_vec(&setup)
            .map_err(|error| BuildError::bug(format!("what a step had cannot be written down: {error}")))?,
    })
}
