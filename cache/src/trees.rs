//! Trees of layers: diff ID → what the layer changes. Keys of `COPY --from` are computed from these alone.

use std::sync::Arc;

use prost::Message;
use proto::digest::DiffId;
use proto::tree::Tree;
use proto::v1;

use crate::durable::{Disk, Sync, WriteError};
use crate::records::file_name;
use crate::sealed;

/// Most bytes of the tree of one layer: some millions of files.
pub(crate) const MAX_BYTES: u64 = 1 << 30;

/// Trees as files.
#[derive(Debug)]
pub struct Trees {
    disk: Arc<Disk>,
}

pub(crate) fn tree_name(diff_id: DiffId) -> String {
    file_name("trees", &diff_id.0.hex())
}

impl Trees {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }

    /// The tree of the layer `diff_id`, or nothing if it is not known; a damaged one is not known.
    #[must_use]
    pub fn tree(&self, diff_id: DiffId) -> Option<Tree> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::Tree, Tree>(&payload);
        sealed::read(&self.disk, &tree_name(diff_id), MAX_BYTES, parse)
    }

    /// Whether a tree of that name is kept; it is verified when it is read.
    #[must_use]
    pub fn contains(&self, diff_id: DiffId) -> bool {
        // A directory that cannot be read is the same as a tree that is not there: it is made again.
        matches!(self.disk.open_file(&tree_name(diff_id)), Ok(Some(_)))
    }

    /// Keeps `tree` as that of the layer `diff_id`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, diff_id: DiffId, tree: &Tree) -> Result<(), WriteError> {
        let payload = v1::Tree::from(tree).encode_to_vec();
        sealed::write(&self.disk, &tree_name(diff_id), payload, Sync::Group)
    }
}
