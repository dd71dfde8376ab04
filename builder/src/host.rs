//! What a build gets from the machine it runs on: the only way to a clock, a store, processes and the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cache::registry::Client;
use cache::store::Store;
use proto::entitlement::Entitlements;
use proto::platform::Platform;
use tokio::sync::Semaphore;

use crate::context_trees::ContextTrees;
use crate::executor::Executor;
use crate::executor::tier::Tier;
use crate::layers::Layers;
use crate::limits::Limits;
use crate::room::Room;
use crate::session::Session;
use crate::solve::flight::Flights;
use crate::sources::Sources;

/// Handles that all builds of a server share.
#[derive(Clone)]
pub struct Host {
    /// Bytes under keys.
    pub store: Arc<Store>,
    /// Layers in every form: snapshots, trees, blobs.
    pub layers: Layers,
    /// Room in the store.
    pub room: Room,
    /// Runs processes.
    pub executor: Arc<dyn Executor>,
    /// The kind of its sandboxes.
    pub tier: Tier,
    /// Speaks to registries.
    pub registry: Client,
    /// Fetches what is behind other addresses.
    pub sources: Sources,
    /// Tells the time.
    pub clock: Clock,
    /// One permit a step that runs.
    pub slots: Arc<Semaphore>,
    /// Work in progress, by key.
    pub flights: Flights,
    /// Trees of contexts that builds have read.
    pub context_trees: ContextTrees,
    /// Locks of cache mounts.
    pub cache_mounts: crate::op::cache_mount::CacheMounts,
    /// Whether steps of every build are hardened, whatever it asks for.
    pub hardened: bool,
    /// What clients of other users may allow their steps.
    pub entitlements: Entitlements,
    /// What it gives a step at most.
    pub limits: Limits,
    /// Directories with specifications of devices, in ascending precedence.
    pub device_specs: Vec<PathBuf>,
    /// What steps run on without emulation.
    pub platform: Platform,
}

impl Host {
    /// What this server holds the steps of a client to.
    #[must_use]
    pub fn limits_for(&self, client: &Session) -> Limits {
        match client.is_same_user() {
            true => self.limits.clone(),
            false => self.limits.for_others(),
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({})", self.platform)
    }
}

/// Tells the time, or what a test wants it to be.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Fixed(u64),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `ms` milliseconds since 1970.
    #[must_use]
    pub const fn fixed(ms: u64) -> Self {
        Self(Source::Fixed(ms))
    }

    /// Time since 1970; zero if the machine's clock stands before it.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the door to the clock that everything else goes through"
    )]
    pub fn now(&self) -> Duration {
        match self.0 {
            Source::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Fixed(ms) => Duration::from_millis(ms),
        }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }
}
