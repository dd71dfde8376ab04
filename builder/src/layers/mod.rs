//! Layers in every form: trees to plan with, snapshots to run on, blobs to send away; each made only when somebody asks.
//!
//! ```text
//! origin ─ fetch ─► blob ─┬─ scan ──► tree              COPY on a base that no step ran on
//!                         └─ unpack ► tree + snapshot   RUN
//! upper directory of a step ── commit ► tree + snapshot (no blob)
//! entries of a COPY ────────── write ─► tree + blob     (no snapshot)
//! blob or snapshot ─────────── encode ► compressed blob, remembered as a further form
//! ```

mod arrive;
mod damage;
mod elsewhere;
mod known;
pub mod encode;
mod piped;
mod tree_cache;
mod verify;

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cache::blob::BlobStore;
use cache::lease::{Held, Lease, Moment};
use cache::store::Store;
use proto::digest::{ChainId, DiffId, Digest};
use proto::oci::{Compression, Descriptor};
use proto::record::LayerInfo;
use proto::tree::Tree;
use rustix::io::Errno;
use tokio::sync::OwnedMutexGuard;

use crate::layer::entry::{Content, LayerEntry, SnapshotDir};
use crate::layer::limits::Limits;
use crate::layer::tar::WrittenLayer;
use crate::layer::{compress, tar};
use crate::phase::Phase;
use crate::request::{Blame, BuildError};
use crate::snapshot::overlay::{Hidden, OverlaySnapshotter};
use crate::snapshot::{Active, Snapshotter};
use crate::stack::{Layer, Stack};
use crate::turns::Turns;

pub use crate::layer::entry::to_path;
use damage::broken_layer;
pub use damage::{is_damage, is_exhaustion, lost, store_failed};
pub use known::KnownFiles;
use tree_cache::TreeCache;

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
    /// Directories of snapshots that other kinds of sandboxes left in the store.
    elsewhere: Vec<PathBuf>,
    trees: Mutex<TreeCache>,
    /// Blobs that are being downloaded.
    downloads: Turns<Digest>,
    /// Chains that are being unpacked.
    unpacking: Turns<ChainId>,
    encoders: encode::Encoders,
    /// Damaged snapshots, each with the moment since when nobody finds it.
    set_aside: Mutex<Vec<(Moment, Hidden)>>,
}

impl Layers {
    /// The layers of `store`, with their snapshots in `snapshots`.
    #[must_use]
    pub fn new(store: Arc<Store>, snapshots: OverlaySnapshotter) -> Self {
        Self::beside(store, snapshots, Vec::new())
    }

    /// The same, beside snapshots `elsewhere`, which other kinds of sandboxes left.
    #[must_use]
    pub fn beside(store: Arc<Store>, snapshots: OverlaySnapshotter, elsewhere: Vec<PathBuf>) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                snapshots: Arc::new(snapshots),
                elsewhere,
                trees: Mutex::default(),
                downloads: Turns::default(),
                unpacking: Turns::default(),
                encoders: encode::Encoders::default(),
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

    /// Whoever has it downloads the blob; nobody else does meanwhile.
    pub(crate) async fn download_turn(&self, digest: Digest) -> OwnedMutexGuard<()> {
        self.inner.downloads.take(digest).await
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
        unpacked() || self.local_form(&layer.info).is_some() || self.adopt(layer, chain)
    }

    /// Whether the store has a blob, which stays for this build then. One that cannot be read counts as absent: it is fetched or
    /// made again.
    #[must_use]
    pub fn has_blob(&self, digest: Digest) -> bool {
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
        Ok(Self::entries_in(&self.open_layer_dir(chain)?, tree))
    }

    /// The entries of `tree`, their bytes in `directory`.
    fn entries_in(directory: &Arc<SnapshotDir>, tree: &Tree) -> Vec<LayerEntry> {
        let entry = |entry: &proto::tree::TreeEntry| LayerEntry {
            content: if matches!(entry.kind, proto::tree::EntryKind::File { .. }) {
                directory.content(&entry.path)
            } else {
                Content::None
            },
            entry: entry.clone(),
        };
        tree.entries().iter().map(entry).collect()
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
