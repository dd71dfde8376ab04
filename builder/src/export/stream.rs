//! Bytes of an output on their way to the client: a writer for threads that block, over the session.

use std::io::{self, Write};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::blocking;
use crate::build::Job;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::session::Session;

/// Bytes of one chunk.
const CHUNK: usize = 1 << 20;

/// Runs `write` on a thread, its bytes going to output number `output` of the client, and waits until they are durable there.
///
/// # Errors
/// What `write` reports; what the client says.
pub async fn to_client<F>(output: u32, job: &Job, write: F) -> Result<(), BuildError>
where
    F: FnOnce(&mut dyn Write) -> Result<(), BuildError> + Send + 'static,
{
    let _phase = Phase::Export.start();
    let runtime = Handle::current();
    let session = Arc::clone(&job.session);
    let cancel = job.cancel.clone();
    let (rest, first) = blocking::run(move || {
        let mut chunks = Chunks {
            session,
            output,
            runtime,
            buffer: Vec::with_capacity(CHUNK),
            first: true,
        };
        let result = write(&mut chunks);
        if cancel.is_cancelled() {
            return Err(BuildError::canceled());
        }
        result.map(|()| (chunks.buffer, chunks.first))
    })
    .await?;
    job.session.finish_output(output, rest, first).await
}

struct Chunks {
    session: Arc<Session>,
    output: u32,
    runtime: Handle,
    buffer: Vec<u8>,
    /// Nothing was sent yet.
    first: bool,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK {
            let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
            self.runtime
                .block_on(
                    self.session
                        .write_output(self.output, chunk, std::mem::take(&mut self.first)),
                )
                .map_err(io::Error::other)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // The end of the output sends what is left.
        Ok(())
    }
}
