//! Snapshots: file-system states that steps run on.
//!
//! Life of one: [`Snapshotter::prepare`] makes an active snapshot, writable, for one step. [`Snapshotter::commit`] names it after
//! its chain of layers, from then on it never changes; [`Snapshotter::abandon`] throws it away. Layers that come as tars go the
//! same way, see [`create`]. A snapshot is a cache of bytes that can be had again: any may be missing at any time.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use proto::digest::ChainId;

pub mod rootfs;
pub mod overlay;

use rootfs::Rootfs;

/// Why a snapshot cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It was never made, or was removed.
    #[error("the snapshot of {0} is missing")]
    Missing(ChainId),
    /// The store's file system refuses.
    #[error("the snapshot store failed at `{path}`")]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A writable snapshot. It must end in [`Snapshotter::commit`] or [`Snapshotter::abandon`]; what a dead process left is removed
/// by [`Snapshotter::sweep`].
#[derive(Debug)]
pub struct Active {
    /// What to mount.
    pub rootfs: Rootfs,
    /// The directory that becomes the layer, in overlay format.
    pub upper: PathBuf,
    /// What `upper` takes on disk, from whoever has counted it; otherwise it is counted when the snapshot is named.
    pub disk_bytes: Option<u64>,
    /// Everything of this snapshot.
    dir: PathBuf,
}

/// A committed snapshot, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name.
    pub chain: ChainId,
    /// Space it takes on disk in bytes.
    pub disk_bytes: u64,
}

/// Keeps snapshots. One process at a time owns a store.
pub trait Snapshotter: Send + Sync + fmt::Debug {
    /// Whether the topmost layer of `chain` is here, unpacked.
    fn contains(&self, chain: &ChainId) -> bool;

    /// Its directory in overlay format, whether it exists or not.
    fn layer_dir(&self, chain: &ChainId) -> PathBuf;

    /// A writable snapshot on `parents`, the chains of all layers from the base upwards.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`] names the first parent that is not here.
    fn prepare(&self, parents: &[ChainId]) -> Result<Active, SnapshotError>;

    /// Names the snapshot. If `chain` is there already, this one is dropped: both are the same by name. So it is if it cannot be
    /// named.
    ///
    /// # Errors
    /// What the file system reports.
    fn commit(&self, active: Active, chain: &ChainId) -> Result<(), SnapshotError>;

    /// Removes the snapshot.
    ///
    /// # Errors
    /// What the file system reports.
    fn abandon(&self, active: Active) -> Result<(), SnapshotError>;

    /// Puts everything that a snapshot holds into the directory `into`, which is empty, as it is: what a failed step left.
    ///
    /// # Errors
    /// What the file system reports. The snapshot is gone then, too.
    fn keep(&self, active: Active, into: &Path) -> Result<(), SnapshotError>;

    /// The directory in overlay format in what [`Snapshotter::keep`] put into `kept`.
    fn kept_dir(&self, kept: &Path) -> PathBuf;

    /// As [`Snapshotter::prepare`], on what [`Snapshotter::keep`] put into `kept`, which lay on `parents`.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    fn prepare_on_kept(&self, parents: &[ChainId], kept: &Path) -> Result<Active, SnapshotError>;

    /// A read-only root filesystem of `parents`, the chains of all layers from the base upwards.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`] names the first parent that is not here.
    fn view(&self, parents: &[ChainId]) -> Result<Rootfs, SnapshotError>;

    /// All committed snapshots in order of their names.
    ///
    /// # Errors
    /// What the file system reports.
    fn list(&self) -> Result<Vec<SnapshotInfo>, SnapshotError>;

    /// Removes a committed snapshot. It is no error if there is none.
    ///
    /// # Errors
    /// What the file system reports.
    fn remove(&self, chain: &ChainId) -> Result<(), SnapshotError>;

    /// Takes a committed snapshot out of sight because its files are not what they should be. Who runs on it goes on doing so:
    /// its bytes are what is returned, to be removed once nobody does. It is no error if there is none.
    ///
    /// # Errors
    /// What the file system reports.
    fn set_aside(&self, chain: &ChainId) -> Result<overlay::Hidden, SnapshotError>;

    /// Makes everything that is committed durable. Until then a snapshot may vanish when the machine stops; records that rely on
    /// snapshots are written after this.
    ///
    /// # Errors
    /// What the file system reports.
    fn sync(&self) -> Result<(), SnapshotError>;

    /// Removes what an earlier owner of the store left: active snapshots, half-done removals, and committed snapshots that were
    /// never made durable before the machine stopped. To be called once, before anything else.
    ///
    /// # Errors
    /// What the file system reports.
    fn sweep(&self) -> Result<(), SnapshotError>;
}

/// Why a layer was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError<E: std::error::Error + 'static> {
    /// The store.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Filling it.
    #[error(transparent)]
    Fill(E),
}

/// Makes the snapshot `chain` on `parents` by filling a new directory, for layers that come as tars.
///
/// `fill` gets the empty directory and the directories of the layers below, topmost first. The snapshot is there once it
/// succeeds; otherwise nothing is left.
///
/// # Errors
/// What the store or `fill` report.
pub fn create<T, E: std::error::Error + 'static>(
    snapshotter: &dyn Snapshotter,
    parents: &[ChainId],
    chain: &ChainId,
    fill: impl FnOnce(&Path, &[PathBuf]) -> Result<T, E>,
) -> Result<T, CreateError<E>> {
    let active = snapshotter.prepare(parents)?;
    let lowers: Vec<PathBuf> = parents
        .iter()
        .rev()
        .map(|parent| snapshotter.layer_dir(parent))
        .collect();
    match fill(&active.upper, &lowers) {
        Ok(done) => {
            snapshotter.commit(active, chain)?;
            Ok(done)
        }
        Err(error) => {
            if let Err(left) = snapshotter.abandon(active) {
                tracing::warn!(error = %left, "a failed snapshot could not be removed; the next start does it");
            }
            Err(CreateError::Fill(error))
        }
    }
}
