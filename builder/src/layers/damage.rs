//! What is missing or wrong in the store is a miss: it is set aside, the build starts again, and what made it makes it again.
//!
//! Every failure to read something that the store should have ends here, so that none of them ends a build.

use std::io;

use cache::blob::Damaged;
use proto::digest::ChainId;
use proto::oci::Descriptor;

use super::Layers;
use crate::layer::entry::{Content, LayerEntry};
use crate::layer::tar::LayerWriteError;
use crate::request::{Blame, BuildError};
use crate::room;
use crate::snapshot::SnapshotError;

/// Bytes of the store that did not match their digest and were set aside: whoever made them makes them again.
fn damaged(what: &str) -> BuildError {
    BuildError::environment(format!("{what} was damaged in the store and has been set aside")).rewinding()
}

/// Something that the store had when this build looked, and has not any more.
#[must_use]
pub fn lost(what: &str) -> BuildError {
    BuildError::environment(format!("{what} is not in the store any more")).rewinding()
}

/// A store that fails is this machine's fault; what it lost or what was damaged in it can be made again.
#[must_use]
pub fn store_failed(error: &(dyn std::error::Error + 'static)) -> BuildError {
    if is_damage(error) {
        return damaged("something");
    }
    if is_loss(error) {
        return lost("a snapshot");
    }
    if let Some(no_room) = room::no_room(error) {
        return no_room;
    }
    BuildError::environment(error.to_string()).note(cause(error))
}

/// A layer that cannot be unpacked: its registry's fault, unless its blob went bad here.
pub(super) fn broken_layer(blob: &Descriptor, error: &(dyn std::error::Error + 'static)) -> BuildError {
    if is_damage(error) {
        return damaged(&format!("layer {}", blob.digest));
    }
    if let Some(no_room) = room::no_room(error) {
        return no_room;
    }
    BuildError::new(
        Blame::Remote,
        format!("layer {} cannot be unpacked: {error}", blob.digest),
    )
    .note(cause(error))
}

/// Whether damaged bytes of the store are at the root of `error`.
#[must_use]
pub fn is_damage(error: &(dyn std::error::Error + 'static)) -> bool {
    let damaged = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<io::Error>();
        error.is::<Damaged>() || io.is_some_and(|error| cache::blob::damaged(error).is_some())
    };
    chain_of(error).any(damaged)
}

/// Whether a snapshot that is not there is at the root of `error`.
fn is_loss(error: &(dyn std::error::Error + 'static)) -> bool {
    chain_of(error).any(|error| matches!(error.downcast_ref(), Some(SnapshotError::Missing(_))))
}

fn chain_of<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The innermost cause of an error, for a note.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    chain_of(error).last().unwrap_or(error).to_string()
}

impl Layers {
    /// Why `entries` could not be written as a layer. A file of a snapshot that is not what it should be is our fault and not
    /// that of whoever asked for it.
    #[must_use]
    pub fn unwritten(&self, error: &LayerWriteError, entries: &[LayerEntry]) -> BuildError {
        if let Some(chain) = guilty(error, entries) {
            self.set_aside(chain);
            return damaged("a snapshot");
        }
        match error {
            LayerWriteError::Write(_) => store_failed(error),
            _ => BuildError::user(error.to_string()).note(cause(error)),
        }
    }

    /// The error of a reader that met a file of the snapshot `chain` which is not what it should be; it is out of the way then.
    pub fn bad_file(&self, chain: ChainId) -> io::Error {
        self.set_aside(chain);
        io::Error::new(io::ErrorKind::InvalidData, Damaged(chain.0))
    }
}

/// The snapshot whose file made writing fail; nothing if it was something else.
fn guilty(error: &LayerWriteError, entries: &[LayerEntry]) -> Option<ChainId> {
    let path = match error {
        LayerWriteError::Changed(path) => path,
        LayerWriteError::Read { path, source } if !is_exhaustion(source) => path,
        _ => return None,
    };
    let entry = entries.iter().find(|entry| entry.entry.path == *path)?;
    match &entry.content {
        Content::Snapshot { directory, .. } => Some(directory.chain),
        _ => None,
    }
}

/// Whether this machine had no room for one more open file: that says nothing of the file.
#[must_use]
pub fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| exhausted.contains(&code))
}

#[cfg(test)]
mod tests {
    use proto::digest::Digest;

    use super::*;

    #[test]
    fn what_the_store_lost_starts_the_build_again_and_a_full_disk_does_not() {
        let digest = Digest::of(b"x");
        let damage = io::Error::other(Damaged(digest));
        assert!(store_failed(&damage).rewind);
        assert!(store_failed(&SnapshotError::Missing(ChainId(digest))).rewind);
        assert!(!store_failed(&io::Error::from(io::ErrorKind::StorageFull)).rewind);
    }

    #[test]
    fn too_many_open_files_is_no_damage() {
        assert!(is_exhaustion(&rustix::io::Errno::MFILE.into()));
        assert!(!is_exhaustion(&rustix::io::Errno::NOENT.into()));
    }
}
