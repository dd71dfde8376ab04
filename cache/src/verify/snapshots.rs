//! Snapshots: the files of each are compared with the tree of its layer.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;

use proto::digest::{ChainId, DiffId};
use proto::tree::Tree;
use proto::v1;

use super::finding::{Finding, Part, Remedy, Wrong};
use super::small::digest_of;
use super::{Run, VerifyError};
use crate::lease::{Held, Moment};
use crate::sealed::{self, Inspected};
use crate::trees;

/// How a snapshot compares with its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It is as it should be; so many files were read.
    Same {
        /// Files whose bytes were compared.
        files: u64,
    },
    /// It is not, and this is the first difference.
    Differs(String),
    /// It was removed meanwhile.
    Gone,
    /// Whoever was told of the bytes wants no more of it.
    Stopped,
}

/// The snapshots, as far as reading them has to know them.
pub trait SnapshotCheck {
    /// All committed snapshots.
    ///
    /// # Errors
    /// What the system reports.
    fn list(&self) -> io::Result<Vec<ChainId>>;

    /// Compares the files of one with `tree`, telling `read` of bytes as they are read.
    fn compare(&self, chain: ChainId, tree: &Tree, read: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Compared;

    /// Takes one out of sight. Steps that run on it keep it until they end.
    fn set_aside(&self, chain: ChainId);

    /// Whether it is there.
    fn contains(&self, chain: ChainId) -> bool;

    /// Names of what lies beside the snapshots: what is being written, or removed.
    ///
    /// # Errors
    /// What the system reports.
    fn others(&self) -> io::Result<Vec<String>>;

    /// Removes one of [`SnapshotCheck::others`].
    ///
    /// # Errors
    /// What the system reports.
    fn remove_other(&self, name: &str) -> io::Result<()>;
}

impl Run<'_> {
    pub(super) fn snapshots(&mut self, began: Moment) -> Result<(), VerifyError> {
        let chains = self.snapshots.list()?;
        let mut layers = self.layers_of(&chains)?;
        if chains.iter().any(|chain| !layers.contains_key(chain)) {
            // Their trees may have been pending when these were listed.
            self.commit()?;
            layers = self.layers_of(&chains)?;
        }
        let total = chains.len();
        for (done, chain) in chains.into_iter().enumerate() {
            self.progress(Part::Snapshot, done, total)?;
            match layers.get(&chain).and_then(|layer| Some((*layer, self.tree(*layer)?))) {
                Some((layer, tree)) => self.snapshot(chain, layer, &tree, (done, total))?,
                None => self.snapshot_without_tree(chain, layers.get(&chain), began)?,
            }
        }
        Ok(())
    }

    /// The topmost layer of each chain, as far as records, images and trees tell.
    fn layers_of(&self, chains: &[ChainId]) -> io::Result<HashMap<ChainId, DiffId>> {
        let mut layers = self.known.layers();
        let names = self.store.disk().files("trees")?;
        let trees: Vec<DiffId> = names
            .iter()
            .filter_map(|(name, _)| digest_of(name))
            .map(DiffId)
            .collect();
        layers.extend(trees.iter().map(|layer| (ChainId::append(None, *layer), *layer)));
        // Base images that no record names: whose chain is on one that is there, with a layer whose tree is there.
        let mut unknown: Vec<ChainId> = chains
            .iter()
            .filter(|chain| !layers.contains_key(chain))
            .copied()
            .collect();
        let mut parents: Vec<ChainId> = chains.to_vec();
        while let (false, Some(parent)) = (unknown.is_empty(), parents.pop()) {
            for layer in &trees {
                let chain = ChainId::append(Some(parent), *layer);
                if let Some(at) = unknown.iter().position(|other| *other == chain) {
                    unknown.swap_remove(at);
                    layers.insert(chain, *layer);
                }
            }
        }
        Ok(layers)
    }

    /// The tree of a layer; a damaged one was named before.
    fn tree(&self, layer: DiffId) -> Option<Tree> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::Tree, Tree>(&payload);
        match sealed::inspect(self.store.disk(), &trees::tree_name(layer), trees::MAX_BYTES, parse) {
            Inspected::Good(tree) => Some(tree),
            Inspected::Absent | Inspected::Damaged(_) | Inspected::Unreadable(_) => None,
        }
    }

    fn snapshot(
        &mut self,
        chain: ChainId,
        layer: DiffId,
        tree: &Tree,
        (done, total): (usize, usize),
    ) -> Result<(), VerifyError> {
        let snapshots = self.snapshots;
        let compared = snapshots.compare(chain, tree, &mut |bytes| {
            self.summary.bytes += bytes;
            match self.progress(Part::Snapshot, done, total) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        let detail = match compared {
            Compared::Same { files } => {
                self.summary.files += files;
                return Ok(());
            }
            Compared::Gone => return Ok(()),
            Compared::Stopped => return Err(VerifyError::Stopped),
            Compared::Differs(detail) => detail,
        };
        self.known.bad_snapshots.insert(chain);
        let remedy = self.mend(Remedy::SetAside, || {
            snapshots.set_aside(chain);
            Ok(!snapshots.contains(chain))
        });
        self.found(Finding {
            detail,
            needed_by: self.known.users_of_layer(layer),
            remedy,
            ..Finding::new(Part::Snapshot, Wrong::Damaged, chain.to_string())
        })
    }

    /// What a build makes now may lack its tree for a moment.
    fn snapshot_without_tree(
        &mut self,
        chain: ChainId,
        layer: Option<&DiffId>,
        began: Moment,
    ) -> Result<(), VerifyError> {
        let (snapshots, store) = (self.snapshots, self.store);
        // A collection may have taken the tree first: then nothing builds on what is left.
        let Some(layer) = layer.filter(|layer| self.known.needs(**layer)) else {
            self.summary.unchecked += u64::from(snapshots.contains(chain));
            return Ok(());
        };
        let is_free = || store.leases().unless_held(&[Held::Chain(chain)], || ()).is_some();
        if !is_free() || !self.all_ended_since(began) {
            self.summary.in_use += 1;
            return Ok(());
        }
        if self.tree(*layer).is_some() || !snapshots.contains(chain) {
            return Ok(());
        }
        self.known.bad_snapshots.insert(chain);
        let remedy = self.mend(Remedy::SetAside, || {
            let done = store
                .leases()
                .unless_held(&[Held::Chain(chain)], || snapshots.set_aside(chain));
            Ok(done.is_some() && !snapshots.contains(chain))
        });
        self.found(Finding {
            detail: "no tree says what is in it".to_owned(),
            needed_by: self.known.users_of_layer(*layer),
            remedy,
            ..Finding::new(Part::Snapshot, Wrong::Missing, chain.to_string())
        })
    }
}
