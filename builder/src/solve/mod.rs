//! The solver: decides what must run, runs it in parallel, and says why.
//!
//! ```text
//! lookup     keys bottom-up as far as they can be known, one batch of record lookups
//! agree      which of these keys must not be used, since the files behind them are of another run: pure
//! state      which vertices are wanted, which wait, which are done: pure
//! scheduler  the one task that owns the state; starts work, never does it
//! vertex     the life of one vertex that was not a hit at first: key, look again, run, record
//! flight     work that several builds want: done once, and as long as one of them wants it
//! report     what a build tells of a step
//! transcript what a step prints, for the builds that wait for it
//! explain    why it had to run: history finds the step to compare with, compare finds what differs
//! ledger     what became of each step, for the builds to come
//! ```
//!
//! It does not know what an op does: that is behind [`Work`].

pub mod agree;
pub mod cache_key;
pub mod source_key;
pub mod explain;
pub mod compare;
pub mod history;
pub mod ledger;
pub mod flight;
pub mod lookup;
pub mod report;
pub mod slot;
pub mod transcript;
pub mod scheduler;
pub mod state;
pub mod vertex;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cache::store::Store;
use futures_util::future::BoxFuture;
use proto::definition::{Definition, VertexId};
use proto::record::{CacheKey, Field};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::event::{EventLog, StepNumber};
use crate::host::Clock;
use crate::request::{BuildError, NoCache};
use crate::solve::flight::Flights;
use crate::solve::ledger::Ledger;
use crate::solve::slot::Slot;
use crate::solve::transcript::Transcript;
use crate::stack::{Layer, Stack};

pub use scheduler::run;

/// What ops do, seen from the solver.
pub trait Work: Send + Sync {
    /// The layers of a vertex that has no work: an image. Nothing for a context.
    fn source(&self, id: VertexId) -> Stack;

    /// What the selected files of the content inputs add to the key of `id`, given the outputs of all inputs. Contexts and
    /// images answer without their outputs.
    fn content<'a>(&'a self, id: VertexId, inputs: &'a Inputs) -> BoxFuture<'a, Result<Vec<Field>, BuildError>>;

    /// What is behind the digests that [`Work::content`] answers with, file by file: see [`Preimage::listing`].
    ///
    /// [`Preimage::listing`]: proto::record::Preimage::listing
    fn listing<'a>(&'a self, id: VertexId, inputs: &'a Inputs) -> BoxFuture<'a, Result<Vec<Field>, BuildError>>;

    /// Does the work of `id` and returns the layer it adds to its root. It ends early when `run` says so, and not when this
    /// build is canceled: others may wait for the same work.
    fn run<'a>(&'a self, id: VertexId, inputs: &'a Inputs, run: &Run) -> BoxFuture<'a, Result<Layer, BuildError>>;

    /// Whether the bytes of a recorded layer are still there, in any form.
    fn is_present(&self, stack: &Stack) -> bool;

    /// Told of each result as soon as this build has it, while there is more to do.
    fn made(&self, _id: VertexId, _stack: &Stack) {}
}

/// One run of the work of a vertex.
#[derive(Debug, Clone)]
pub struct Run {
    /// The step in the events of the build that started it.
    pub step: StepNumber,
    /// Ends it.
    pub cancel: CancellationToken,
    /// What it runs by.
    pub slot: Slot,
    /// Where it also says what it prints; nothing if that is not for other builds.
    pub transcript: Option<Transcript>,
}

/// What a vertex produced.
#[derive(Debug, Clone)]
pub struct Output {
    /// All layers of its root filesystem.
    pub stack: Stack,
    /// Its key.
    pub key: CacheKey,
    /// When its own layer was made, in milliseconds since 1970; nothing for images.
    pub created_ms: Option<u64>,
    /// Name of the step if it ran in this build.
    pub ran: Option<String>,
}

/// Outputs of the inputs of a vertex.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    outputs: std::collections::BTreeMap<VertexId, Output>,
}

impl Inputs {
    /// Adds an output.
    pub fn insert(&mut self, id: VertexId, output: Output) {
        self.outputs.insert(id, output);
    }

    /// The output of `id`, if it is known.
    #[must_use]
    pub fn get(&self, id: VertexId) -> Option<&Output> {
        self.outputs.get(&id)
    }

    /// The layers of `id`; an empty stack for a root that does not exist.
    #[must_use]
    pub fn stack(&self, id: Option<VertexId>) -> Stack {
        id.and_then(|id| self.get(id))
            .map(|output| output.stack.clone())
            .unwrap_or_default()
    }
}

/// Results of one build by their keys: whatever has a key twice in a build is one result, even if another build replaces the record
/// in between. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Results(Arc<Mutex<HashMap<CacheKey, Output>>>);

impl Results {
    /// The result that this build has for `key`.
    #[must_use]
    pub fn of(&self, key: CacheKey) -> Option<Output> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// From now on `output` is what this build has for its key, unless there is something already.
    pub fn keep(&self, output: &Output) {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        results.entry(output.key).or_insert_with(|| output.clone());
    }
}

/// Everything one solve needs.
#[derive(Clone)]
pub struct Solve {
    /// The graph.
    pub definition: Arc<Definition>,
    /// What its ops do.
    pub work: Arc<dyn Work>,
    /// Records.
    pub store: Arc<Store>,
    /// Keeps what this build found or made.
    pub lease: Arc<cache::lease::Lease>,
    /// Work of all builds.
    pub flights: Flights,
    /// What this build has already.
    pub results: Results,
    /// One permit a step that runs.
    pub slots: Arc<Semaphore>,
    /// Where to report.
    pub events: Arc<EventLog>,
    /// Ends the build.
    pub cancel: CancellationToken,
    /// Times of records.
    pub clock: Clock,
    /// Which steps may not come from the cache.
    pub no_cache: NoCache,
    /// Whether its steps can fail for reasons that other builds do not have: limits.
    pub fails_alone: bool,
    /// What became of the steps, and what earlier builds of the same Dockerfile had.
    pub ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Solve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Solve({} vertices)", self.definition.vertices.len())
    }
}
