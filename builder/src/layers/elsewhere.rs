//! Layers that only a sandbox of another kind has unpacked: an ordinary user was given further ids since, or has asked for another
//! kind. Its directories cannot be mounted here, but the bytes of its files are as good, and the tree says everything else.

use std::path::PathBuf;
use std::sync::Arc;

use cache::blob::BlobStore;
use cache::records::RecordStore;
use proto::digest::ChainId;
use proto::oci::{Compression, Descriptor};
use rustix::fs::{Mode, OFlags};

use super::Layers;
use crate::layer::entry::SnapshotDir;
use crate::layer::tar;
use crate::stack::Layer;

impl Layers {
    /// Makes a plain tar of the layer out of what another kind of sandbox left, if one did. Only a tar with the layer's own digest
    /// counts; what cannot be read, since it belongs to somebody who is nobody here, is as good as missing.
    pub(super) fn adopt(&self, layer: &Layer, chain: ChainId) -> bool {
        let found = self.inner.elsewhere.iter().map(|root| fs_of(root, chain));
        let Some(directory) = found.into_iter().find(|directory| directory.is_dir()) else {
            return false;
        };
        match self.write_tar_of(&directory, layer, chain) {
            Ok(done) => done,
            Err(error) => {
                tracing::debug!(%error, %chain, "a layer of another kind of sandbox cannot be used here");
                false
            }
        }
    }

    fn write_tar_of(
        &self,
        directory: &PathBuf,
        layer: &Layer,
        chain: ChainId,
    ) -> Result<bool, Box<dyn std::error::Error>> {
        let diff_id = layer.info.diff_id;
        let Some(tree) = self.known_tree(diff_id) else {
            return Ok(false);
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())?;
        let entries = Self::entries_in(&Arc::new(SnapshotDir { chain, root }), &tree);
        let mut ingest = self.inner.store.blobs().ingest()?.digested_by_writer();
        let written = tar::write(&entries, None, &mut ingest)?;
        if written.diff_id != diff_id {
            return Ok(false);
        }
        ingest.commit(diff_id.0, written.size_bytes)?;
        let form = Descriptor::new(Compression::None.media_type(), diff_id.0, written.size_bytes);
        self.inner.store.records().add_form(diff_id, &form)?;
        Ok(true)
    }
}

fn fs_of(root: &std::path::Path, chain: ChainId) -> PathBuf {
    root.join(chain.0.hex()).join("fs")
}
