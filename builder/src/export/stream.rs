//! Bytes of an output on their way to the client: a writer for threads that block, over the session.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::blocking;
use crate::build::Job;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::session::Session;

/// Bytes of one chunk. The queue to the client holds some dozens.
const CHUNK: usize = 256 << 10;

/// Runs `write` on a thread, its bytes going to output number `output` of the client, and waits until they are durable there.
///
/// # Errors
/// What `write` reports; what the client says.
pub async fn to_client<F>(output: u32, job: &Job, write: F) -> Result<(), BuildError>
where
    F: FnOnce(&mut Chunks) -> Result<(), BuildError> + Send + 'static,
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

/// The bytes of one output, cut into messages.
pub struct Chunks {
    session: Arc<Session>,
    output: u32,
    runtime: Handle,
    buffer: Vec<u8>,
    /// Nothing was sent yet.
    first: bool,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks")
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

impl Chunks {
    /// Sends all bytes of `reader`, read straight into the messages, and returns how many there were.
    ///
    /// # Errors
    /// Those of `reader`; a client that has gone.
    pub fn send_all(&mut self, reader: &mut dyn Read) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let start = self.buffer.len();
            self.buffer.resize(CHUNK, 0);
            let read = reader.read(&mut self.buffer[start..]);
            self.buffer.truncate(start + read.as_ref().map_or(0, |count| *count));
            match read {
                Ok(0) => return Ok(total),
                Ok(count) => total += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.send_full()?;
        }
    }

    fn send_full(&mut self) -> io::Result<()> {
        if self.buffer.len() < CHUNK {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let first = std::mem::take(&mut self.first);
        self.runtime
            .block_on(self.session.write_output(self.output, chunk, first))
            .map_err(io::Error::other)
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        self.send_full()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        // The end of the output sends what is left.
        Ok(())
    }
}
