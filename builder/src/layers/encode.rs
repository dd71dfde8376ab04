//! Layers in the forms that leave the store, each made once.
//!
//! However many builds want one form of a layer at the same time, one of them makes it and the others wait for it. A large layer is
//! compressed alone, by all threads; small ones by one thread each, some at a time: that is the whole memory of compression, over all
//! builds.

use std::io::{self, Read, Write};
use std::sync::Arc;

use cache::blob::BlobStore;
use cache::lease::Held;
use proto::digest::{DiffId, Digest};
use proto::oci::{Compression, Descriptor};
use proto::record::LayerInfo;
use proto::tree::Tree;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Layers, store_failed};
use crate::blocking;
use crate::layer::compress::{self, CompressError, Recipe};
use crate::layer::retime::Retime;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::stack::{Layer, Stack};
use crate::turns::Turns;

/// Most threads that compress one layer, each with some megabytes to work on. The bytes do not depend on it.
const THREADS: usize = 4;

/// A layer below this is compressed by one thread.
const SMALL_BYTES: u64 = 4 << 20;

/// Small layers that are compressed at the same time; a large one takes all of these places.
const PLACES: u32 = 4;

/// How nice the threads are that compress while steps run: a third of the weight of a step.
const NICENESS: i32 = 5;

/// The form that somebody wants of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// How it is made, if it has to be.
    pub recipe: Recipe,
    /// Whether one that was made in another way, or nobody knows how, will not do: equal builds shall give equal bytes.
    pub exact: bool,
}

/// How a form is made.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// For whom.
    pub urgency: Urgency,
    /// Ends it.
    pub cancel: &'a CancellationToken,
}

/// For whom a form is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Awaited,
    /// Somebody will want it; steps go first, and other layers that are made early.
    Early,
}

/// What encodes at the moment, over all builds.
#[derive(Debug)]
pub(super) struct Encoders {
    /// Forms that are being made, by layer and recipe.
    flights: Turns<(DiffId, Recipe)>,
    places: Arc<Semaphore>,
    early: Arc<Semaphore>,
}

impl Default for Encoders {
    fn default() -> Self {
        Self {
            flights: Turns::default(),
            places: Arc::new(Semaphore::new(PLACES as usize)),
            early: Arc::new(Semaphore::new(1)),
        }
    }
}

/// What whoever makes a form holds while they do.
struct Turn {
    _early: Option<OwnedSemaphorePermit>,
    _flight: OwnedMutexGuard<()>,
    _places: OwnedSemaphorePermit,
}

impl Layers {
    /// A blob of the layer at `index` as `wanted`, made now if there is none. Remembered, so nothing is compressed twice.
    ///
    /// # Errors
    /// A layer whose bytes are gone or damaged; a full disk; a build that is cancelled.
    pub async fn encode(
        &self,
        stack: &Stack,
        index: usize,
        wanted: Wanted,
        order: Order<'_>,
    ) -> Result<Descriptor, BuildError> {
        let Order { urgency, cancel } = order;
        let info = &stack.layers()[index].info;
        if let Some(form) = self.form_as(info, wanted) {
            return Ok(form);
        }
        let turn = tokio::select! {
            () = cancel.cancelled() => return Err(BuildError::canceled()),
            turn = self.turn(info, wanted.recipe, urgency) => turn?,
        };
        // Whoever had the turn before may have made it.
        if let Some(form) = self.form_as(info, wanted) {
            return Ok(form);
        }
        let (layers, stack, cancel) = (self.clone(), stack.clone(), cancel.clone());
        // The turn goes along: if nobody waits any more, it ends with the thread and not before.
        blocking::run(move || {
            let _turn = turn;
            match urgency {
                Urgency::Awaited => layers.make_form(&stack, index, wanted.recipe, &cancel),
                Urgency::Early => nicely(|| layers.make_form(&stack, index, wanted.recipe, &cancel)),
            }
        })
        .await
    }

    /// Always in this order, so that nobody who has a place waits for anybody.
    async fn turn(&self, info: &LayerInfo, recipe: Recipe, urgency: Urgency) -> Result<Turn, BuildError> {
        let encoders = &self.inner.encoders;
        let closed = |_| BuildError::bug("the places of encoders were closed");
        let early = match urgency {
            Urgency::Awaited => None,
            Urgency::Early => Some(Arc::clone(&encoders.early).acquire_owned().await.map_err(closed)?),
        };
        let flight = encoders.flights.take((info.diff_id, recipe)).await;
        let count = if info.size_bytes < SMALL_BYTES { 1 } else { PLACES };
        let places = Arc::clone(&encoders.places)
            .acquire_many_owned(count)
            .await
            .map_err(closed)?;
        Ok(Turn {
            _early: early,
            _flight: flight,
            _places: places,
        })
    }

    /// A blob of the store that holds the layer as `wanted`.
    fn form_as(&self, info: &LayerInfo, wanted: Wanted) -> Option<Descriptor> {
        let compression = wanted.recipe.compression();
        // A plain tar is what its diff ID says.
        let made: Option<Vec<Digest>> = (wanted.exact && compression != Compression::None).then(|| {
            let recipe = wanted.recipe.to_string();
            let made = self.inner.store.records().made_forms(info.diff_id).into_iter();
            made.filter(|(_, of)| *of == recipe).map(|(digest, _)| digest).collect()
        });
        let fits = |form: &Descriptor| {
            Compression::of_media_type(&form.media_type) == Some(compression)
                && made.as_ref().is_none_or(|made| made.contains(&form.digest))
                && self.has_blob(form.digest)
        };
        self.forms(info).into_iter().find(fits)
    }

    fn make_form(
        &self,
        stack: &Stack,
        index: usize,
        recipe: Recipe,
        cancel: &CancellationToken,
    ) -> Result<Descriptor, BuildError> {
        let _phase = Phase::Compress.start();
        let info = &stack.layers()[index].info;
        let plain = Cancellable {
            inner: self.open_tar(stack, index)?,
            cancel,
        };
        let blobs = self.inner.store.blobs();
        let mut ingest = blobs
            .ingest()
            .map_err(|error| store_failed(&error))?
            .digested_by_writer();
        let threads = if info.size_bytes < SMALL_BYTES { 1 } else { threads() };
        let compressed = compress::compress(plain, recipe, threads, &mut ingest);
        let (digest, size) = compressed.map_err(|error| failed(&error, cancel))?;
        self.hold(Held::Blob(digest));
        ingest.commit(digest, size).map_err(|error| store_failed(&error))?;
        let form = Descriptor::new(recipe.compression().media_type(), digest, size);
        let records = self.inner.store.records();
        records
            .add_made_form(info.diff_id, &form, &recipe.to_string())
            .map_err(|error| store_failed(&error))?;
        Ok(form)
    }

    /// The layer at `index` with times after `epoch` lowered to it; the same layer if it has none. It has a form of its own in the
    /// store: among layers that were lowered it has another chain, under which no snapshot is found.
    ///
    /// # Errors
    /// As [`Layers::encode`].
    pub fn clamp(&self, stack: &Stack, index: usize, epoch: i64) -> Result<Layer, BuildError> {
        let layer = &stack.layers()[index];
        let is_late = |tree: &Tree| tree.entries().iter().any(|entry| entry.mtime.seconds > epoch);
        let tree = self.known_tree(layer.info.diff_id);
        if tree.is_some_and(|tree| !is_late(&tree)) && self.local_form(&layer.info).is_some() {
            return Ok(layer.clone());
        }
        let mut plain = Retime::new(self.open_tar(stack, index)?, epoch);
        let mut ingest = self
            .inner
            .store
            .blobs()
            .ingest()
            .map_err(|error| store_failed(&error))?;
        let size = io::copy(&mut plain, &mut ingest).map_err(|error| store_failed(&error))?;
        ingest
            .flush()
            .map_err(|error| BuildError::environment(format!("cannot write to the store: {error}")))?;
        self.hold(Held::Blob(ingest.digest()));
        let digest = ingest.commit(None).map_err(|error| store_failed(&error))?;
        let form = Descriptor::new(Compression::None.media_type(), digest, size);
        Ok(Layer::built(DiffId(digest), size, vec![form]))
    }
}

fn failed(error: &CompressError, cancel: &CancellationToken) -> BuildError {
    if cancel.is_cancelled() {
        return BuildError::canceled();
    }
    store_failed(error)
}

/// More than there are processors gain nothing and cost memory.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// Runs `work` on a thread that steps go before; the threads it starts are as nice.
fn nicely<T: Send>(work: impl FnOnce() -> Result<T, BuildError> + Send) -> Result<T, BuildError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Of this thread alone, on Linux. Without it, compressing and steps share as equals.
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!(%error, "layers are compressed with the priority of steps");
            }
            work()
        });
        let joined = thread.join();
        joined.unwrap_or_else(|_| Err(BuildError::bug("a thread that compresses a layer has panicked")))
    })
}

/// Ends with an error when the build is cancelled.
struct Cancellable<'a> {
    inner: Box<dyn Read + Send>,
    cancel: &'a CancellationToken,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buffer)
    }
}
