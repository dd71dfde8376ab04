//! The build server: `rbuild.v1` over a unix socket, or inside one process over memory.
//!
//! One file a service: [`builds`], [`sessions`], [`admin`], [`exec`]. What they share is [`Shared`]: the host, the sessions that are
//! connected, the builds that run. Every limit a client could exceed is set here by name.

pub mod admin;
mod pruning;
mod verifying;
pub mod builds;
mod connections;
pub mod exec;
mod explain;
mod guard;
pub mod listen;
pub mod open;
pub mod registry;
pub mod sessions;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::entitlement::Entitlements;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::executor::Unenforceable;
use crate::executor::tier::{self, Tier};
use crate::host::Host;
use crate::limits::Limits;
use crate::room::Marks;
pub use listen::{InProcess, in_process, serve};
pub use open::open_host;

/// How often it is looked whether the time of what failed steps left is over.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The store.
    pub root: PathBuf,
    /// Ends the server after so long without a build or a session; nothing: it stays.
    pub idle_timeout: Option<Duration>,
    /// Steps that run at the same time, over all builds.
    pub slots: usize,
    /// Waits for the store while another process owns it; the log says which.
    pub wait_for_store: bool,
    /// What steps of clients of other users may be allowed. A client that is the server's own user allows what it likes.
    pub entitlements: Entitlements,
    /// Whether steps of every build are hardened.
    pub hardened: bool,
    /// What every step gets that asks for nothing, and no step gets more of.
    pub limits: Limits,
    /// Directories with specifications of devices, in ascending precedence.
    pub device_specs: Vec<PathBuf>,
    /// When it collects by itself.
    pub marks: Marks,
    /// The kind of sandbox for steps; nothing: the best one that is possible.
    pub tier: Option<Tier>,
    /// The program that is started again as the inside of a sandbox.
    pub sandbox_program: PathBuf,
}

/// Why a server does not come up.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] cache::store::OpenError),
    /// Steps cannot be run as they should be.
    #[error(transparent)]
    Sandbox(#[from] tier::Impossible),
    /// Steps cannot be held to what they should.
    #[error(transparent)]
    Limit(#[from] Unenforceable),
    /// A part of the server could not be prepared.
    #[error("cannot prepare the server: {0}")]
    Prepare(String),
    /// The transport failed.
    #[error("the server's transport failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Prepares a process that only serves, and for long: memory that builds freed goes back to the system. To be called before there are
/// further threads.
pub fn prepare_process() {
    crate::sys::give_back_what_is_free();
}

/// What the services of one server share.
#[derive(Debug)]
pub struct Shared {
    /// Handles of this machine.
    pub host: Host,
    /// Connected clients, by build.
    pub sessions: sessions::Sessions,
    /// Builds that run or ended lately.
    pub builds: builds::Builds,
    /// The tasks of builds: awaited when the server ends.
    pub tasks: TaskTracker,
    /// Cancelled when the server shall end.
    pub shutdown: CancellationToken,
    /// Where the store is.
    pub root: PathBuf,
    /// After how long without work the server ends; nothing: it stays.
    pub idle_timeout: Option<Duration>,
    last_activity: Mutex<Instant>,
}

impl Shared {
    /// State of a server without clients.
    #[must_use]
    pub fn new(host: Host, options: ServeOptions, shutdown: CancellationToken) -> Arc<Self> {
        let (sessions, builds) = (sessions::Sessions::default(), builds::Builds::default());
        Arc::new(Self {
            host,
            sessions,
            builds,
            tasks: TaskTracker::new(),
            shutdown,
            root: options.root,
            idle_timeout: options.idle_timeout,
            last_activity: Mutex::new(Instant::now()),
        })
    }

    /// Notes that a client did something: idle servers end.
    pub fn touch(&self) {
        *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last_activity(&self) -> Instant {
        *self.last_activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what failed steps left when its time is over, until the server ends.
    pub async fn expire_kept(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(EXPIRE_EVERY) => {}
            }
            let store = Arc::clone(&self.host.store);
            let expired = crate::blocking::run(move || {
                let expired = store.kept().expire();
                expired.map_err(|error| crate::layers::store_failed(&error))
            });
            if let Err(error) = expired.await {
                tracing::warn!(%error, "what failed steps left was not looked at");
            }
        }
    }

    /// Ends the server after `timeout` in which no build ran, no session was open and no call came.
    pub async fn end_when_idle(self: Arc<Self>, timeout: Duration) {
        loop {
            let before = self.last_activity();
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep_until(before + timeout) => {}
            }
            if self.builds.running() > 0 || !self.sessions.is_empty() {
                // Their end counts as activity, too.
                self.touch();
            } else if before == self.last_activity() {
                tracing::info!(after_seconds = timeout.as_secs(), "idle: ending");
                self.shutdown.cancel();
                return;
            }
        }
    }
}
