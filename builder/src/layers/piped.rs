//! The tar of a snapshot, written by a thread while it is read.

use std::io::{self, Read};
use std::thread::JoinHandle;

use cache::blob::Damaged;
use proto::digest::{ChainId, DiffId};

use super::Layers;
use crate::layer::entry::LayerEntry;
use crate::layer::tar;
use crate::request::BuildError;

/// What the writing thread may be ahead.
const PIPE_BYTES: usize = 1 << 20;

/// The reading end, checked where it ends.
struct Piped {
    reader: io::PipeReader,
    thread: Option<JoinHandle<bool>>,
    diff_id: DiffId,
    chain: ChainId,
    layers: Layers,
}

/// The tar of `entries`, which are files of the snapshot `chain`. Reading ends with an error if it is not `diff_id`.
pub(super) fn tar_of(
    entries: Vec<LayerEntry>,
    diff_id: DiffId,
    chain: ChainId,
    layers: &Layers,
) -> Result<Box<dyn Read + Send>, BuildError> {
    let (reader, mut writer) =
        io::pipe().map_err(|error| BuildError::environment(format!("cannot make a pipe: {error}")))?;
    // Fewer changes between the two threads. Where the limit on pipes is reached, the usual size does as well.
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES) {
        tracing::trace!(%error, "a pipe keeps its size");
    }
    let result = std::thread::Builder::new().name("layer tar".to_owned()).spawn(move || {
        // A reader that goes away early is reported where it went away.
        tar::write(&entries, None, &mut writer)
            .map(|written| written.diff_id == diff_id)
            .unwrap_or(false)
    });
    let thread = result.map_err(|error| BuildError::environment(format!("cannot start a thread: {error}")))?;
    Ok(Box::new(Piped {
        reader,
        thread: Some(thread),
        diff_id,
        chain,
        layers: layers.clone(),
    }))
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(thread) = self.thread.take()
            && !thread.join().unwrap_or(false)
        {
            // Like a blob that does not match its digest: out of the way with it, so that its step makes it again.
            self.layers.set_aside(self.chain);
            return Err(io::Error::other(Damaged(self.diff_id.0)));
        }
        Ok(count)
    }
}
