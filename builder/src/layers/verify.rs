//! Snapshots, as a check of the store sees them; and the end of those that were set aside.

use std::io;
use std::ops::ControlFlow;
use std::sync::PoisonError;

use cache::verify::{Compared, SnapshotCheck};
use proto::digest::ChainId;
use proto::tree::Tree;

use super::Layers;
use crate::layer::compare::{Difference, compare};
use crate::room::SnapshotsOf;
use crate::snapshot::Snapshotter;

impl Layers {
    /// Takes a damaged snapshot out of sight. Steps that run on it keep it; see [`Layers::remove_set_aside`].
    pub fn set_aside(&self, chain: ChainId) {
        tracing::warn!(%chain, "a snapshot is damaged and is set aside");
        match self.snapshots().set_aside(&chain) {
            // Only now: whoever takes a lease from here on does not find it any more.
            Ok(hidden) => {
                let entry = (self.inner.store.moment(), hidden);
                let mut set_aside = self.inner.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
                set_aside.push(entry);
            }
            Err(error) => tracing::warn!(%chain, %error, "a damaged snapshot cannot be set aside"),
        }
    }

    /// Whether snapshots that were set aside are still there.
    #[must_use]
    pub fn has_set_aside(&self) -> bool {
        let set_aside = self.inner.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
        !set_aside.is_empty()
    }

    /// Removes the snapshots that were set aside, as far as every build that could run on them has ended. What stays, for whatever
    /// reason, goes when the store is opened again.
    pub fn remove_set_aside(&self) {
        let unused = {
            let mut set_aside = self.inner.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
            let (unused, used) = std::mem::take(&mut *set_aside)
                .into_iter()
                .partition::<Vec<_>, _>(|(moment, _)| self.inner.store.all_ended_since(*moment));
            *set_aside = used;
            unused
        };
        for (_, hidden) in unused {
            if let Err(error) = self.snapshots().remove_hidden(hidden) {
                tracing::warn!(%error, "a damaged snapshot stays until the next start");
            }
        }
    }
}

impl SnapshotCheck for SnapshotsOf<'_> {
    fn list(&self) -> io::Result<Vec<ChainId>> {
        self.0.snapshots().chains().map_err(io::Error::other)
    }

    fn compare(&self, chain: ChainId, tree: &Tree, read: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Compared {
        // Gone, or soon to be: what cannot be opened is no snapshot that anybody would run on.
        let Ok(directory) = self.0.open_layer_dir(chain) else {
            return Compared::Gone;
        };
        let detail = match compare(&directory.root, tree, read) {
            Ok(files) => return Compared::Same { files },
            Err(Difference::Stopped) => return Compared::Stopped,
            Err(Difference::Found(detail)) => detail,
        };
        // A snapshot that is being removed loses its files one by one, but not before its name.
        let still = self.0.open_layer_dir(chain).is_ok_and(|now| {
            let inode = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
            inode(&now.root).is_ok_and(|found| inode(&directory.root) == Ok(found))
        });
        if still {
            Compared::Differs(detail)
        } else {
            Compared::Gone
        }
    }

    fn set_aside(&self, chain: ChainId) {
        self.0.set_aside(chain);
        self.0.remove_set_aside();
    }

    fn contains(&self, chain: ChainId) -> bool {
        self.0.snapshots().contains(&chain)
    }

    fn others(&self) -> io::Result<Vec<String>> {
        self.0.remove_set_aside();
        self.0.snapshots().others().map_err(io::Error::other)
    }

    fn remove_other(&self, name: &str) -> io::Result<()> {
        self.0.snapshots().remove_other(name).map_err(io::Error::other)
    }
}
