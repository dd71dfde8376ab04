//! Layers in every form: trees to plan with, snapshots to run on, blobs to send away; each made only when somebody asks.
//!
//! ```text
//! origin ─ fetch ─► blob ─┬─ scan ──► tree              COPY on a base that no step ran on
//!                         └─ unpack ► tree + snapshot   RUN
//! upper directory of a step ── commit ► tree + snapshot (no blob)
//! entries of a COPY ────────── write ─► tree + blob     (no snapshot)
//! blob or snapshot ─────────── encode ► compressed blob, remembered as a further form
//! ```

mod damage;
mod piped;
mod tree_cache;
mod verify;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use cache::blob::BlobStore;
use cache::lease::{Held, Lease, Moment};
use cache::records::RecordStore;
use cache::store::Store;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, TryFutureExt, TryStreamExt};
use proto::digest::{ChainId, DiffId};
use proto::oci::{Compression, Descriptor};
use proto::record::LayerInfo;
use proto::tree::Tree;
use rustix::io::Errno;

use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::fetch;
use crate::layer::apply::{self, LayerSource};
use crate::layer::entry::{Content, LayerEntry, SnapshotDir};
use crate::layer::limits::Limits;
use crate::layer::lower::LowerTrees;
use crate::layer::tar::WrittenLayer;
use crate::layer::{compress, tar};
use crate::phase::Phase;
use crate::request::{Blame, BuildError};
use crate::snapshot::overlay::{Hidden, OverlaySnapshotter};
use crate::snapshot::{self, Active, CreateError, Snapshotter};
use crate::stack::{Layer, Origin, Stack};

pub use crate::layer::entry::to_path;
use damage::broken_layer;
pub use damage::{is_damage, is_exhaustion, lost, store_failed};
use tree_cache::TreeCache;

/// Most threads that compress one layer, each with some megabytes to work on. The bytes do not depend on it.
const COMPRESS_THREADS: usize = 4;

/// The layers of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layers {
    inner: Arc<Inner>,
    /// Holds what is looked for, read and written through this handle.
    lease: Option<Arc<Lease>>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    snapshots: Arc<OverlaySnapshotter>,
    trees: Mutex<TreeCache>,
    /// One lock a chain that is being unpacked, so that builds that need it at the same time unpack it once.
    unpacking: Mutex<HashMap<ChainId, Arc<tokio::sync::Mutex<()>>>>,
    /// Damaged snapshots, each with the moment since when nobody finds it.
    set_aside: Mutex<Vec<(Moment, Hidden)>>,
}

impl Layers {
    /// The layers of `store`, with their snapshots in `snapshots`.
    #[must_use]
    pub fn new(store: Arc<Store>, snapshots: OverlaySnapshotter) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                snapshots: Arc::new(snapshots),
                trees: Mutex::default(),
                unpacking: Mutex::default(),
                set_aside: Mutex::default(),
            }),
            lease: None,
        }
    }

    /// The same layers for one build: whatever it looks for, reads or writes is held by `lease` before it is looked for.
    #[must_use]
    pub fn held_by(&self, lease: &Arc<Lease>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            lease: Some(Arc::clone(lease)),
        }
    }

    fn hold(&self, thing: Held) {
        if let Some(lease) = &self.lease {
            lease.hold(thing);
        }
    }

    /// Snapshots of the layers.
    #[must_use]
    pub fn snapshots(&self) -> &OverlaySnapshotter {
        &self.inner.snapshots
    }

    /// Makes everything that builds wrote durable: snapshots first, then blobs, last the records that name them. Does nothing if
    /// nothing was written.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn make_durable(&self) -> Result<(), BuildError> {
        let _phase = Phase::Sync.start();
        self.inner.snapshots.sync().map_err(|error| store_failed(&error))?;
        self.inner.store.commit_group().map_err(|error| store_failed(&error))
    }

    /// Whether the bytes of `layer`, the top of `chain`, are on this machine: as a blob, or as a snapshot with the tree that says
    /// in which order a tar has its files. From now on they stay for this build.
    #[must_use]
    pub fn is_local(&self, layer: &Layer, chain: ChainId) -> bool {
        self.hold(Held::Chain(chain));
        self.hold(Held::Layer(layer.info.diff_id));
        let unpacked =
            || self.inner.snapshots.contains(&chain) && self.inner.store.trees().contains(layer.info.diff_id);
        unpacked() || self.local_form(&layer.info).is_some()
    }

    /// Whether the store has a blob, which stays for this build then. One that cannot be read counts as absent: it is fetched or
    /// made again.
    #[must_use]
    pub fn has_blob(&self, digest: proto::digest::Digest) -> bool {
        self.hold(Held::Blob(digest));
        self.inner.store.blobs().size(digest).is_ok_and(|size| size.is_some())
    }

    /// A blob of the store that holds the layer, the cheapest to read first.
    fn local_form(&self, info: &LayerInfo) -> Option<Descriptor> {
        let mut forms = self.forms(info);
        forms.sort_by_key(|form| Compression::of_media_type(&form.media_type));
        forms.into_iter().find(|form| self.has_blob(form.digest))
    }

    /// All blobs that are known to hold the layer, here or elsewhere.
    fn forms(&self, info: &LayerInfo) -> Vec<Descriptor> {
        self.hold(Held::Layer(info.diff_id));
        let mut forms = info.forms.clone();
        for form in self.inner.store.records().forms(info.diff_id) {
            if !forms.iter().any(|known| known.digest == form.digest) {
                forms.push(form);
            }
        }
        forms
    }

    /// A blob of the store in `compression` that holds the layer.
    #[must_use]
    pub fn form_in(&self, info: &LayerInfo, compression: Compression) -> Option<Descriptor> {
        let fits = |form: &Descriptor| {
            Compression::of_media_type(&form.media_type) == Some(compression) && self.has_blob(form.digest)
        };
        self.forms(info).into_iter().find(fits)
    }

    /// The trees of all layers of `stack`, base first. Layers that were never unpacked are read once for it.
    ///
    /// # Errors
    /// Blobs that cannot be fetched or do not hold what they should.
    pub async fn trees(&self, stack: &Stack, job: &Job, step: StepNumber) -> Result<Vec<Arc<Tree>>, BuildError> {
        let unknown: Vec<&Layer> = stack
            .layers()
            .iter()
            .filter(|layer| self.known_tree(layer.info.diff_id).is_none())
            .collect();
        // All downloads at once; reading goes upwards, since a layer may link to files of those below.
        try_join_all(
            unknown
                .into_iter()
                .map(|layer| self.blob_at_hand(layer, job, step).boxed()),
        )
        .await?;
        let mut trees: Vec<Arc<Tree>> = Vec::with_capacity(stack.layers().len());
        for layer in stack.layers() {
            let tree = match self.known_tree(layer.info.diff_id) {
                Some(tree) => tree,
                None => self.scan(layer, trees.clone(), job, step).await?,
            };
            trees.push(tree);
        }
        Ok(trees)
    }

    async fn scan(
        &self,
        layer: &Layer,
        below: Vec<Arc<Tree>>,
        job: &Job,
        step: StepNumber,
    ) -> Result<Arc<Tree>, BuildError> {
        let blob = self.blob_at_hand(layer, job, step).await?;
        let (layers, expected) = (self.clone(), layer.info.diff_id);
        blocking::run(move || {
            let _phase = Phase::Scan.start();
            let source = LayerSource {
                reader: layers.open_blob(&blob)?,
                compression: compression_of(&blob)?,
                expected,
            };
            let lower = LowerTrees(below.iter().rev().map(Arc::as_ref).collect());
            let scanned =
                apply::scan(source, &lower, &Limits::default()).map_err(|error| broken_layer(&blob, &error))?;
            layers.remember_tree(expected, scanned.tree)
        })
        .await
    }

    fn known_tree(&self, diff_id: DiffId) -> Option<Arc<Tree>> {
        self.hold(Held::Layer(diff_id));
        let kept = self
            .inner
            .trees
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(diff_id);
        kept.or_else(|| {
            let tree = Arc::new(self.inner.store.trees().tree(diff_id)?);
            self.keep_tree(diff_id, &tree);
            Some(tree)
        })
    }

    fn keep_tree(&self, diff_id: DiffId, tree: &Arc<Tree>) {
        let mut trees = self.inner.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.put(diff_id, tree);
    }

    /// Makes the changes in `active`, over the layers that end in `below`, a layer: its bytes stay where they are.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn commit(&self, active: Active, below: Option<ChainId>, written: WrittenLayer) -> Result<Layer, BuildError> {
        let chain = ChainId::append(below, written.diff_id);
        self.hold(Held::Chain(chain));
        // The tree first: whoever finds the snapshot can compare it.
        let remembered = self.remember_tree(written.diff_id, written.tree);
        if let Err(error) = remembered {
            if let Err(left) = self.inner.snapshots.abandon(active) {
                tracing::warn!(error = %left, "a snapshot that cannot be kept stays until the next start");
            }
            return Err(error);
        }
        self.inner
            .snapshots
            .commit(active, &chain)
            .map_err(|error| store_failed(&error))?;
        Ok(Layer::built(written.diff_id, written.size_bytes, Vec::new()))
    }

    /// Keeps the tree of a layer in the store.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn remember_tree(&self, diff_id: DiffId, tree: Tree) -> Result<Arc<Tree>, BuildError> {
        self.hold(Held::Layer(diff_id));
        self.inner
            .store
            .trees()
            .put(diff_id, &tree)
            .map_err(|error| store_failed(&error))?;
        let tree = Arc::new(tree);
        self.keep_tree(diff_id, &tree);
        Ok(tree)
    }

    /// A blob of the store that holds the layer; fetched if it is only elsewhere.
    async fn blob_at_hand(&self, layer: &Layer, job: &Job, step: StepNumber) -> Result<Descriptor, BuildError> {
        if let Some(form) = self.local_form(&layer.info) {
            return Ok(form);
        }
        if layer.origin == Origin::Built {
            return Err(lost(&format!("layer {}", layer.info.diff_id)));
        }
        let form = self.forms(&layer.info).into_iter().next();
        let form = form.ok_or_else(|| BuildError::bug(format!("layer {} has no blob", layer.info.diff_id)))?;
        fetch::blob(&layer.origin, &form, job, step).await?;
        Ok(form)
    }

    /// Makes snapshots of all layers of `stack` that have none, so that steps can run on it.
    ///
    /// # Errors
    /// Blobs that cannot be fetched, do not hold what they should, or do not fit on the disk.
    pub async fn unpack(&self, stack: &Stack, job: &Job, step: StepNumber) -> Result<(), BuildError> {
        // Held before they are looked for: nobody takes them away in between, or under a step that runs on them.
        for chain in stack.chains() {
            self.hold(Held::Chain(*chain));
        }
        let missing: Vec<usize> = (0..stack.layers().len())
            .filter(|index| !self.inner.snapshots.contains(&stack.chains()[*index]))
            .collect();
        // All downloads at once. Unpacking goes upwards, since a layer may link to files of those below, and does not wait for
        // those above.
        let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
        let fetch = |index: usize| self.blob_at_hand(&stack.layers()[index], job, step).boxed();
        let mut downloads: FuturesOrdered<_> = missing
            .into_iter()
            .map(|index| fetch(index).map_ok(move |_| index))
            .collect();
        let download = async move {
            while let Some(index) = downloads.try_next().await? {
                if arrived.send(index).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let unpack = async {
            while let Some(index) = arrivals.recv().await {
                self.unpack_one(stack, index, job, step).await?;
            }
            Ok(())
        };
        tokio::try_join!(download, unpack).map(drop)
    }

    async fn unpack_one(&self, stack: &Stack, index: usize, job: &Job, step: StepNumber) -> Result<(), BuildError> {
        let chain = stack.chains()[index];
        let lock = {
            let mut unpacking = self.inner.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(unpacking.entry(chain).or_default())
        };
        let _guard = lock.lock().await;
        if !self.inner.snapshots.contains(&chain) {
            let layer = &stack.layers()[index];
            let blob = self.blob_at_hand(layer, job, step).await?;
            let (layers, info) = (self.clone(), layer.info.clone());
            let below: Vec<ChainId> = stack.chains()[..index].to_vec();
            blocking::run(move || layers.unpack_blob(&blob, &info, chain, &below)).await?;
        }
        self.inner
            .unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&chain);
        Ok(())
    }

    fn unpack_blob(
        &self,
        blob: &Descriptor,
        info: &LayerInfo,
        chain: ChainId,
        below: &[ChainId],
    ) -> Result<(), BuildError> {
        let _phase = Phase::Unpack.start();
        let compression = compression_of(blob)?;
        let created = snapshot::create(&*self.inner.snapshots, below, &chain, |dest, lowers| {
            let reader = self.open_blob(blob)?;
            let source = LayerSource {
                reader,
                compression,
                expected: info.diff_id,
            };
            let unpacked = apply::unpack(source, dest, lowers, &Limits::default());
            let tree = unpacked.map_err(|error| broken_layer(blob, &error))?.tree;
            // Before the snapshot is there: whoever finds it can compare it.
            self.remember_tree(info.diff_id, tree)
        });
        created.map(drop).map_err(|error| match error {
            CreateError::Fill(error) => error,
            CreateError::Snapshot(error) => store_failed(&error),
        })
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, BuildError> {
        match self
            .inner
            .store
            .blobs()
            .open(blob.digest)
            .map_err(|error| store_failed(&error))?
        {
            Some(reader) => Ok(Box::new(reader)),
            None => Err(lost(&format!("blob {}", blob.digest))),
        }
    }

    /// Writes `entries` as a layer into the store: a plain tar, no snapshot.
    ///
    /// # Errors
    /// Sources that cannot be read or changed meanwhile; a full disk.
    pub fn write(&self, entries: &[LayerEntry]) -> Result<Layer, BuildError> {
        let _phase = Phase::Write.start();
        let mut ingest = self
            .inner
            .store
            .blobs()
            .ingest()
            .map_err(|error| store_failed(&error))?
            .digested_by_writer();
        let written = tar::write(entries, None, &mut ingest).map_err(|error| self.unwritten(&error, entries))?;
        let digest = written.diff_id.0;
        self.hold(Held::Blob(digest));
        ingest
            .commit(digest, written.size_bytes)
            .map_err(|error| store_failed(&error))?;
        self.remember_tree(written.diff_id, written.tree)?;
        let form = Descriptor::new(Compression::None.media_type(), digest, written.size_bytes);
        Ok(Layer::built(written.diff_id, written.size_bytes, vec![form]))
    }

    /// The plain tar of the layer at `index`, from whatever holds it, and checked against its diff ID where it ends.
    fn open_tar(&self, stack: &Stack, index: usize) -> Result<Box<dyn Read + Send>, BuildError> {
        let layer = &stack.layers()[index];
        if let Some(form) = self.local_form(&layer.info) {
            let reader = self.open_blob(&form)?;
            let plain = compress::decompress(reader, compression_of(&form)?, &Limits::default());
            return plain.map_err(|error| broken_layer(&form, &error));
        }
        let chain = stack.chains()[index];
        let diff_id = layer.info.diff_id;
        let tree = self
            .known_tree(diff_id)
            .filter(|_| self.inner.snapshots.contains(&chain));
        let tree = tree.ok_or_else(|| lost(&format!("layer {diff_id}")))?;
        let entries = self.snapshot_entries(chain, &tree)?;
        piped::tar_of(entries, diff_id, chain, self)
    }

    /// The entries of a committed snapshot, their bytes in its directory.
    fn snapshot_entries(&self, chain: ChainId, tree: &Tree) -> Result<Vec<LayerEntry>, BuildError> {
        let directory = self.open_layer_dir(chain)?;
        let entry = |entry: &proto::tree::TreeEntry| LayerEntry {
            content: if matches!(entry.kind, proto::tree::EntryKind::File { .. }) {
                directory.content(&entry.path)
            } else {
                Content::None
            },
            entry: entry.clone(),
        };
        Ok(tree.entries().iter().map(entry).collect())
    }

    /// The directory of a committed snapshot, for reading files of it.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open_layer_dir(&self, chain: ChainId) -> Result<Arc<SnapshotDir>, BuildError> {
        use rustix::fs::{Mode, OFlags};
        let path = self.inner.snapshots.layer_dir(&chain);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(root) => Ok(Arc::new(SnapshotDir { chain, root })),
            Err(Errno::NOENT) => Err(lost(&format!("snapshot {chain}"))),
            Err(error) => {
                let message = format!("cannot open snapshot `{}`: {error}", path.display());
                Err(BuildError::environment(message))
            }
        }
    }

    /// A blob of the layer at `index` in `compression`, made now if there is none. Remembered, so nothing is compressed twice.
    ///
    /// # Errors
    /// A layer whose bytes are gone or damaged; a full disk.
    pub fn encode(&self, stack: &Stack, index: usize, compression: Compression) -> Result<Descriptor, BuildError> {
        let info = &stack.layers()[index].info;
        if let Some(form) = self.form_in(info, compression) {
            return Ok(form);
        }
        let _phase = Phase::Compress.start();
        let plain = self.open_tar(stack, index)?;
        let mut ingest = self
            .inner
            .store
            .blobs()
            .ingest()
            .map_err(|error| store_failed(&error))?
            .digested_by_writer();
        let (digest, size) = compress::compress(plain, compression, None, compress_threads(), &mut ingest)
            .map_err(|error| store_failed(&error))?;
        self.hold(Held::Blob(digest));
        ingest.commit(digest, size).map_err(|error| store_failed(&error))?;
        let form = Descriptor::new(compression.media_type(), digest, size);
        self.inner
            .store
            .records()
            .add_form(info.diff_id, &form)
            .map_err(|error| store_failed(&error))?;
        Ok(form)
    }

    /// The layer at `index` with times after `epoch` lowered to it; the same layer if it has none.
    ///
    /// # Errors
    /// As [`Layers::encode`].
    pub fn clamp(&self, stack: &Stack, index: usize, epoch: i64) -> Result<Layer, BuildError> {
        let layer = &stack.layers()[index];
        let is_late = |tree: &Tree| tree.entries().iter().any(|entry| entry.mtime.seconds > epoch);
        if self.known_tree(layer.info.diff_id).is_some_and(|tree| !is_late(&tree)) {
            return Ok(layer.clone());
        }
        let mut plain = crate::layer::retime::Retime::new(self.open_tar(stack, index)?, epoch);
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

/// More than there are processors gain nothing and cost memory.
fn compress_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(COMPRESS_THREADS)
}

fn compression_of(blob: &Descriptor) -> Result<Compression, BuildError> {
    Compression::of_media_type(&blob.media_type).ok_or_else(|| {
        BuildError::new(
            Blame::Remote,
            format!(
                "layer {} has the unknown media type `{}`",
                blob.digest,
                blob.media_type.escape_debug()
            ),
        )
    })
}
