//! Bytes of an output on their way to the client: a writer for threads that block, over the session.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use cache::blob::VerifiedReader;
use proto::v1;
use tokio::runtime::Handle;

use crate::blocking;
use crate::build::Job;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::session::Session;

/// Bytes of one chunk. The queue to the client holds some dozens.
const CHUNK: usize = 256 << 10;

/// Smaller blobs are sent as bytes: that is one message as well.
const FILE_FROM: u64 = CHUNK as u64;

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
    let session_is_local = session.is_same_user();
    let cancel = job.cancel.clone();
    let (rest, first) = blocking::run(move || {
        let mut chunks = Chunks {
            session,
            output,
            runtime,
            buffer: Vec::with_capacity(CHUNK),
            first: true,
            passes_files: session_is_local,
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
    /// The client may see files of this process; not any more after it refused one.
    passes_files: bool,
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

    /// Sends all bytes of a blob, which `open` opens at its first byte: as a file if the client takes it, verified meanwhile. What
    /// does not match its digest is an error, so that the output never ends.
    ///
    /// # Errors
    /// As [`Chunks::send_all`].
    pub fn send_blob(&mut self, open: &dyn Fn() -> io::Result<VerifiedReader>) -> io::Result<u64> {
        let mut reader = open()?;
        if self.passes_files && reader.size_bytes() >= FILE_FROM {
            if let Some(sent) = self.pass(&mut reader)? {
                return Ok(sent);
            }
            self.passes_files = false;
            reader = open()?;
        }
        self.send_all(&mut reader)
    }

    /// Offers the file of a blob; nothing if the client does not take it.
    fn pass(&mut self, reader: &mut VerifiedReader) -> io::Result<Option<u64>> {
        let Some(file) = reader.file() else {
            return Ok(None);
        };
        let facts = rustix::fs::fstat(file)?;
        let offer = v1::OutputFile {
            output: self.output,
            first: self.first && self.buffer.is_empty(),
            pid: std::process::id(),
            descriptor: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
            device: facts.st_dev,
            inode: facts.st_ino,
            size: reader.size_bytes(),
        };
        if !self.buffer.is_empty() {
            self.send_buffer()?;
        }
        let (session, runtime) = (Arc::clone(&self.session), self.runtime.clone());
        let (taken, verified) = std::thread::scope(|scope| {
            let verifying = scope.spawn(|| io::copy(&mut io::BufReader::with_capacity(CHUNK, reader), &mut io::sink()));
            let taken = runtime.block_on(session.offer_file(offer));
            let verified = verifying.join();
            (
                taken,
                verified.unwrap_or_else(|_| Err(io::Error::other("the thread that compares a blob has stopped"))),
            )
        });
        let (taken, size) = (taken.map_err(io::Error::other)?, verified?);
        if taken {
            self.first = false;
        }
        Ok(taken.then_some(size))
    }

    fn send_full(&mut self) -> io::Result<()> {
        if self.buffer.len() < CHUNK {
            return Ok(());
        }
        self.send_buffer()
    }

    fn send_buffer(&mut self) -> io::Result<()> {
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
