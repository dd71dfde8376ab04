//! Layers that come as blobs: fetched if they are only elsewhere, and read while they come.
//!
//! All downloads of a stack run at once; unpacking goes upwards, since a layer may link to files of those below, and begins
//! with the first bytes of a layer. What was made of a layer counts only when its blob is whole and has its digest.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::blob::follow::{Follower, Progress};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use proto::digest::{ChainId, DiffId};
use proto::oci::Descriptor;
use proto::record::LayerInfo;
use proto::tree::Tree;
use tokio::sync::oneshot;

use super::damage::broken_layer;
use super::{Held, Layers, compression_of, lost, store_failed};
use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::fetch;
use crate::layer::apply::{self, LayerSource, UnpackError};
use crate::layer::limits::Limits;
use crate::layer::lower::LowerTrees;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::snapshot::{self, CreateError, Snapshotter};
use crate::stack::{Layer, Origin, Stack};

/// The blob of a layer.
#[derive(Debug)]
enum Arrival {
    /// It is in the store.
    Here(Descriptor),
    /// It is being downloaded.
    Coming(Descriptor, Follower),
}

/// A blob that is open: its bytes, and what becomes of it if it is still coming.
type Opened = (Descriptor, LayerSource<Box<dyn Read + Send>>, Option<Progress>);

/// A layer on its way: what brings it, and where that tells of it.
type OnTheWay<'a> = (BoxFuture<'a, Result<(), BuildError>>, oneshot::Receiver<Arrival>);

impl Layers {
    /// The trees of all layers of `stack`, base first. Layers that were never unpacked are read once for it.
    ///
    /// # Errors
    /// Blobs that cannot be fetched or do not hold what they should.
    pub async fn trees(&self, stack: &Stack, job: &Job, step: StepNumber) -> Result<Vec<Arc<Tree>>, BuildError> {
        let mut downloads = Vec::new();
        let mut sources = Vec::new();
        for layer in stack.layers() {
            let source = self.known_tree(layer.info.diff_id).ok_or_else(|| {
                let (download, arrival) = self.bring(layer, job, step);
                downloads.push(download);
                arrival
            });
            sources.push((layer, source));
        }
        let scan = async {
            let mut trees: Vec<Arc<Tree>> = Vec::with_capacity(sources.len());
            for (layer, source) in sources {
                let tree = match source {
                    Ok(tree) => tree,
                    Err(arrival) => self.scan(layer, trees.clone(), arrival).await?,
                };
                trees.push(tree);
            }
            Ok(trees)
        };
        let ((), trees) = tokio::try_join!(async { try_join_all(downloads).await.map(drop) }, scan)?;
        Ok(trees)
    }

    async fn scan(
        &self,
        layer: &Layer,
        below: Vec<Arc<Tree>>,
        arrival: oneshot::Receiver<Arrival>,
    ) -> Result<Arc<Tree>, BuildError> {
        let arrival = arrival.await.map_err(|_| gave_up(layer))?;
        let (layers, expected) = (self.clone(), layer.info.diff_id);
        blocking::run(move || {
            let _phase = Phase::Scan.start();
            // Another build may have been faster.
            if let Some(tree) = layers.known_tree(expected) {
                return Ok(tree);
            }
            let (blob, source, progress) = layers.open_arrival(arrival, expected)?;
            let lower = LowerTrees(below.iter().rev().map(Arc::as_ref).collect());
            let scanned = apply::scan(source, &lower, &Limits::default());
            let scanned = scanned.map_err(|error| unreadable(&blob, progress.as_ref(), &error))?;
            layers.remember_tree(expected, scanned.tree)
        })
        .await
    }

    /// Brings a blob of `layer` into the store if there is none.
    fn bring<'a>(&'a self, layer: &'a Layer, job: &'a Job, step: StepNumber) -> OnTheWay<'a> {
        let (tell, told) = oneshot::channel();
        let bring = async move {
            if let Some(form) = self.local_form(&layer.info) {
                // Nobody listens if unpacking has failed elsewhere.
                drop(tell.send(Arrival::Here(form)));
                return Ok(());
            }
            if layer.origin == Origin::Built {
                return Err(lost(&format!("layer {}", layer.info.diff_id)));
            }
            let form = self.forms(&layer.info).into_iter().next();
            let form = form.ok_or_else(|| BuildError::bug(format!("layer {} has no blob", layer.info.diff_id)))?;
            let mut tell = Some(tell);
            let coming = |follower| {
                if let Some(tell) = tell.take() {
                    drop(tell.send(Arrival::Coming(form.clone(), follower)));
                }
            };
            fetch::followed(&layer.origin, &form, job, step, coming).await?;
            if let Some(tell) = tell {
                drop(tell.send(Arrival::Here(form)));
            }
            Ok(())
        };
        (bring.boxed(), told)
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
        let missing = (0..stack.layers().len()).filter(|index| !self.has_snapshot(stack.chains()[*index]));
        let (downloads, arrivals): (Vec<_>, Vec<_>) = missing
            .map(|index| {
                let (download, arrival) = self.bring(&stack.layers()[index], job, step);
                (download, (index, arrival))
            })
            .unzip();
        let unpack = async {
            for (index, arrival) in arrivals {
                let arrival = arrival.await.map_err(|_| gave_up(&stack.layers()[index]))?;
                self.unpack_one(stack, index, arrival).await?;
            }
            Ok(())
        };
        // Downloads first: if one fails, it knows better why than whoever waits for it.
        tokio::try_join!(async { try_join_all(downloads).await.map(drop) }, unpack).map(drop)
    }

    fn has_snapshot(&self, chain: ChainId) -> bool {
        self.inner.snapshots.contains(&chain)
    }

    async fn unpack_one(&self, stack: &Stack, index: usize, arrival: Arrival) -> Result<(), BuildError> {
        let chain = stack.chains()[index];
        let _turn = self.inner.unpacking.take(chain).await;
        if self.has_snapshot(chain) {
            return Ok(());
        }
        let (layers, info) = (self.clone(), stack.layers()[index].info.clone());
        let below: Vec<ChainId> = stack.chains()[..index].to_vec();
        blocking::run(move || layers.unpack_blob(arrival, &info, chain, &below)).await
    }

    fn unpack_blob(
        &self,
        arrival: Arrival,
        info: &LayerInfo,
        chain: ChainId,
        below: &[ChainId],
    ) -> Result<(), BuildError> {
        let _phase = Phase::Unpack.start();
        let (blob, source, progress) = self.open_arrival(arrival, info.diff_id)?;
        let fill = |dest: &Path, lowers: &[PathBuf]| {
            let unpacked = apply::unpack(source, dest, lowers, &Limits::default());
            let unpacked = unpacked.map_err(|error| unreadable(&blob, progress.as_ref(), &error))?;
            // Before the snapshot is there: whoever finds it can compare it.
            self.remember_tree(info.diff_id, unpacked.tree)
        };
        let created = snapshot::create(&*self.inner.snapshots, below, &chain, fill);
        created.map(drop).map_err(|error| match error {
            CreateError::Fill(error) => error,
            CreateError::Snapshot(error) => store_failed(&error),
        })
    }

    fn open_arrival(&self, arrival: Arrival, expected: DiffId) -> Result<Opened, BuildError> {
        let (blob, reader, progress): (_, Box<dyn Read + Send>, _) = match arrival {
            Arrival::Here(blob) => (blob.clone(), self.open_blob(&blob)?, None),
            Arrival::Coming(blob, follower) => {
                let progress = follower.progress();
                (blob, Box::new(follower), Some(progress))
            }
        };
        let source = LayerSource {
            compression: compression_of(&blob)?,
            reader,
            expected,
        };
        Ok((blob, source, progress))
    }
}

/// Why a layer could not be read: if it is not even what the registry promised, its download is about to say so.
fn unreadable(blob: &Descriptor, progress: Option<&Progress>, error: &UnpackError) -> BuildError {
    if progress.is_some_and(|progress| !progress.was_committed()) {
        return BuildError::environment(format!("blob {} did not arrive", blob.digest));
    }
    broken_layer(blob, error)
}

/// Nobody tells of a layer whose download has failed; that failure is what the build ends with.
fn gave_up(layer: &Layer) -> BuildError {
    BuildError::environment(format!("layer {} did not arrive", layer.info.diff_id))
}
