//! Opens everything a server stands on: the store, its snapshots, the executor, the registry client.

use std::path::PathBuf;
use std::sync::Arc;

use cache::download::Downloader;
use cache::registry::{Client, Patience};
use cache::store::Store;
use proto::platform::Platform;
use tokio::sync::Semaphore;

use super::{ServeError, ServeOptions};
use crate::context_trees::ContextTrees;
use crate::executor::tier::{self, TIERS, Tier};
use crate::executor::{self, ChrootExecutor, Executor, NamespaceExecutor};
use crate::host::{Clock, Host};
use crate::layers::Layers;
use crate::op::cache_mount::CacheMounts;
use crate::room::Room;
use crate::snapshot::Snapshotter;
use crate::snapshot::overlay::OverlaySnapshotter;
use crate::solve::flight::Flights;
use crate::sources::Sources;

/// The handles of this machine for a server with `options`. What a dead server left in the store is swept first.
///
/// # Errors
/// A store that is busy, foreign or broken; a machine that cannot run steps.
pub async fn open_host(options: &ServeOptions) -> Result<Host, ServeError> {
    let (root, wait) = (options.root.clone(), options.wait_for_store);
    let clock = Clock::system();
    let store_options = cache::store::Options::new(Arc::new(move || clock.now_ms()));
    let boot_id = store_options.boot_id.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let mut told = false;
        Store::open_waiting(&root, &store_options, &mut |owner| {
            if wait && !std::mem::replace(&mut told, true) {
                tracing::warn!(pid = owner.pid, "waiting: another process uses the store");
            }
            wait
        })
    });
    let store = Arc::new(opened.await.map_err(|error| ServeError::Prepare(error.to_string()))??);
    let prepare = |error: &dyn std::error::Error| ServeError::Prepare(error.to_string());
    let tier = tier::choose(options.tier)?;
    executor::standing(tier).tell();
    if tier == Tier::Plain {
        crate::ids::mark_for_everybody()
            .map_err(|mark| ServeError::Prepare(format!("layers are marked with `{mark}` already")))?;
    }
    let snapshots = OverlaySnapshotter::open(&snapshots_dir(&store, tier)).map_err(|error| prepare(&error))?;
    let snapshots = snapshots
        .within(Arc::clone(store.budget()))
        .telling(Arc::clone(store.faults()))
        .on_boot(boot_id);
    snapshots.sweep().map_err(|error| prepare(&error))?;
    store.kept().sweep().map_err(|error| prepare(&error))?;
    let executor = executor(tier, options, &store)?;
    executor.can_keep(&options.limits)?;
    let registry = Client::new(Patience::default()).map_err(|error| prepare(&error))?;
    let downloader = Downloader::new(Patience::default()).map_err(|error| prepare(&error))?;
    let others = TIERS.into_iter().map(|other| snapshots_dir(&store, other));
    let others = others.filter(|other| *other != snapshots_dir(&store, tier) && other.is_dir());
    let others: Vec<PathBuf> = others.collect();
    for path in &others {
        tracing::info!(path = %path.display(), "snapshots of another kind of sandbox: they are read, and never collected");
    }
    let layers = Layers::beside(Arc::clone(&store), snapshots, others);
    let (for_room, layers_for_room, marks) = (Arc::clone(&store), layers.clone(), options.marks);
    let room = tokio::task::spawn_blocking(move || Room::new(&for_room, &layers_for_room, marks));
    let room = room
        .await
        .map_err(|error| prepare(&error))?
        .map_err(|error| prepare(&error))?;
    Ok(Host {
        context_trees: ContextTrees::default(),
        layers,
        room,
        executor,
        tier,
        registry,
        sources: Sources::new(downloader),
        clock: Clock::system(),
        slots: Arc::new(Semaphore::new(options.slots)),
        flights: Flights::default(),
        cache_mounts: CacheMounts::new(Arc::clone(&store)),
        hardened: options.hardened,
        entitlements: options.entitlements.clone(),
        limits: options.limits.clone(),
        device_specs: options.device_specs.clone(),
        platform: native_platform(),
        store,
    })
}

/// Where a tier keeps what it unpacked: owners of files and marks of overlayfs are not the same in two of them.
fn snapshots_dir(store: &Store, tier: Tier) -> PathBuf {
    match tier {
        Tier::Root => store.snapshots_dir(),
        other => store.snapshots_dir_of(other.name()),
    }
}

fn executor(tier: Tier, options: &ServeOptions, store: &Store) -> Result<Arc<dyn Executor>, ServeError> {
    match tier {
        Tier::Root | Tier::Rootless | Tier::SingleId => NamespaceExecutor::with_init(&options.sandbox_program)
            .map(|executor| Arc::new(executor) as Arc<dyn Executor>)
            .map_err(|error| ServeError::Prepare(error.to_string())),
        Tier::Plain => {
            let trees = store.root().join("worktrees");
            ChrootExecutor::open(&options.sandbox_program, &trees, Arc::clone(store.budget()))
                .map(|executor| Arc::new(executor) as Arc<dyn Executor>)
                .map_err(|error| ServeError::Prepare(error.to_string()))
        }
    }
}

/// What this machine runs without emulation.
#[must_use]
pub fn native_platform() -> Platform {
    Platform::new(std::env::consts::OS, std::env::consts::ARCH, "")
}
