//! Compressed forms of a layer, and back.
//!
//! The bytes depend on the input, the form and the level alone: gzip is a sequence of members of 1 MiB of input each, made in
//! parallel and put out in order, so neither the number of threads nor their timing can be seen; zstd is one frame of
//! jobs whose size the level decides.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use proto::digest::{Digest, Hasher};
use proto::oci::Compression;

use super::limits::{LimitExceeded, Limits};

/// Input bytes of one gzip member. Part of the bytes we produce: changing it changes digests.
const MEMBER_BYTES: usize = 1 << 20;
/// gzip level if none is asked for. The result is as small as that of other builders, which call their own levels 5 or 6; ours of
/// that name takes 40 % longer for 4 % less.
const GZIP_LEVEL: i32 = 3;
/// zstd level if none is asked for.
const ZSTD_LEVEL: i32 = 3;

/// Why a layer could not be compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The form has no such level.
    #[error("{form} has no compression level {level}")]
    Level {
        /// The form.
        form: &'static str,
        /// What was asked for.
        level: i32,
    },
    /// Reading the input, or decompressing it.
    #[error("the layer's bytes cannot be read")]
    Read(#[source] io::Error),
    /// Writing the output.
    #[error("the compressed layer cannot be written")]
    Write(#[source] io::Error),
}

/// Compresses all of `reader` into `sink` and returns digest and size of what was written.
///
/// `level` is gzip's 1 to 12 or zstd's 1 to 22; nothing means the default. Work runs on `threads` threads (at least one); the
/// output does not depend on their number.
///
/// # Errors
/// Levels out of range, and what reader and sink report; what was written so far is useless then.
pub fn compress(
    reader: impl Read,
    compression: Compression,
    level: Option<i32>,
    threads: usize,
    sink: &mut dyn Write,
) -> Result<(Digest, u64), CompressError> {
    let mut out = Measured::new(sink);
    match compression {
        Compression::None => copy(reader, &mut out)?,
        Compression::Gzip => gzip(reader, gzip_level(level)?, threads.max(1), &mut out)?,
        Compression::Zstd => zstd_frame(reader, zstd_level(level)?, threads.max(1), &mut out)?,
    }
    Ok(out.finish())
}

/// Turns a layer from one form into another. The uncompressed digest is returned too, so that the caller can compare it.
///
/// # Errors
/// As [`compress`].
pub fn recompress(
    reader: impl Read + Send,
    from: Compression,
    to: Compression,
    level: Option<i32>,
    sink: &mut dyn Write,
) -> Result<Recompressed, CompressError> {
    let plain = decompress(reader, from, &Limits::default()).map_err(CompressError::Read)?;
    let mut plain = Hashed::new(plain);
    let (digest, size_bytes) = compress(&mut plain, to, level, 2, sink)?;
    let (uncompressed, _) = plain.finish();
    Ok(Recompressed {
        digest,
        size_bytes,
        uncompressed,
    })
}

/// What [`recompress`] produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recompressed {
    /// Digest of the new form.
    pub digest: Digest,
    /// Size of the new form in bytes.
    pub size_bytes: u64,
    /// Digest of the uncompressed bytes: the diff ID, if the input was what it claimed to be.
    pub uncompressed: Digest,
}

/// A reader over the uncompressed bytes of `reader`, which ends with an error when a limit is exceeded.
///
/// # Errors
/// If the decoder cannot be set up.
pub fn decompress<'a>(
    reader: impl Read + Send + 'a,
    compression: Compression,
    limits: &Limits,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    bounded(reader, limits, |counted| match compression {
        Compression::None => Ok(Box::new(counted)),
        Compression::Gzip => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(counted))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(counted)?;
            decoder.window_log_max(limits.zstd_window_log)?;
            Ok(Box::new(decoder))
        }
    })
}

/// What `decoder` makes of `reader`, held to the limits on size and ratio.
pub(crate) fn bounded<'a, R: Read + Send + 'a>(
    reader: R,
    limits: &Limits,
    decoder: impl FnOnce(io::BufReader<Counted<R>>) -> io::Result<Box<dyn Read + Send + 'a>>,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        inner: reader,
        taken: Arc::clone(&taken),
    };
    let inner = decoder(io::BufReader::with_capacity(256 << 10, counted))?;
    Ok(Box::new(Bounded {
        inner,
        taken,
        given: 0,
        limits: *limits,
    }))
}

fn gzip_level(level: Option<i32>) -> Result<libdeflater::CompressionLvl, CompressError> {
    let level = level.unwrap_or(GZIP_LEVEL);
    let bad = CompressError::Level { form: "gzip", level };
    if level < 1 {
        return Err(bad);
    }
    libdeflater::CompressionLvl::new(level).map_err(|_| bad)
}

fn zstd_level(level: Option<i32>) -> Result<i32, CompressError> {
    let level = level.unwrap_or(ZSTD_LEVEL);
    if (1..=22).contains(&level) {
        Ok(level)
    } else {
        Err(CompressError::Level { form: "zstd", level })
    }
}

fn copy(mut reader: impl Read, out: &mut Measured<'_>) -> Result<(), CompressError> {
    loop {
        let block = read_block(&mut reader)?;
        out.write_all(&block).map_err(CompressError::Write)?;
        if block.len() < MEMBER_BYTES {
            return Ok(());
        }
    }
}

fn zstd_frame(mut reader: impl Read, level: i32, threads: usize, out: &mut Measured<'_>) -> Result<(), CompressError> {
    let mut encoder = zstd::stream::write::Encoder::new(out, level).map_err(CompressError::Write)?;
    // With threads, even with one, the library cuts the input into jobs of a size that the level decides.
    let threads = u32::try_from(threads).unwrap_or(u32::MAX);
    encoder.multithread(threads).map_err(CompressError::Write)?;
    loop {
        let block = read_block(&mut reader)?;
        encoder.write_all(&block).map_err(CompressError::Write)?;
        if block.len() < MEMBER_BYTES {
            return encoder.finish().map(|_| ()).map_err(CompressError::Write);
        }
    }
}

/// The next [`MEMBER_BYTES`] of input; fewer only at its end.
fn read_block(reader: &mut impl Read) -> Result<Vec<u8>, CompressError> {
    let mut block = Vec::new();
    reader
        .by_ref()
        .take(MEMBER_BYTES as u64)
        .read_to_end(&mut block)
        .map_err(CompressError::Read)?;
    Ok(block)
}

fn gzip(
    mut reader: impl Read,
    level: libdeflater::CompressionLvl,
    threads: usize,
    out: &mut Measured<'_>,
) -> Result<(), CompressError> {
    let workers: Vec<GzipWorker> = (0..threads).map(|_| GzipWorker::start(level)).collect();
    // Members go round the workers and come back in the same order. Two per worker keep everyone busy while this thread reads
    // and writes, and bound the memory.
    let mut waiting: VecDeque<usize> = VecDeque::new();
    let mut turn = 0;
    loop {
        let block = read_block(&mut reader)?;
        let last = block.len() < MEMBER_BYTES;
        // An empty input still needs one member to be gzip at all; an empty rest needs none.
        if !block.is_empty() || turn == 0 {
            let worker = turn % workers.len();
            if waiting.len() == 2 * workers.len() {
                let oldest = waiting.pop_front().unwrap_or(worker);
                out.write_all(&workers[oldest].take()?).map_err(CompressError::Write)?;
            }
            workers[worker].give(block)?;
            waiting.push_back(worker);
            turn += 1;
        }
        if last {
            break;
        }
    }
    for worker in waiting {
        out.write_all(&workers[worker].take()?).map_err(CompressError::Write)?;
    }
    Ok(())
}

/// A thread that turns blocks into gzip members. It ends when it is dropped.
struct GzipWorker {
    blocks: SyncSender<Vec<u8>>,
    members: Receiver<io::Result<Vec<u8>>>,
    _thread: JoinHandle<()>,
}

impl GzipWorker {
    fn start(level: libdeflater::CompressionLvl) -> Self {
        let (blocks, incoming) = sync_channel::<Vec<u8>>(2);
        let (outgoing, members) = sync_channel(2);
        let thread = thread::spawn(move || {
            let mut compressor = libdeflater::Compressor::new(level);
            for block in incoming {
                // Nobody listens any more: the layer has failed elsewhere.
                if outgoing.send(member(&mut compressor, &block)).is_err() {
                    return;
                }
            }
        });
        Self {
            blocks,
            members,
            _thread: thread,
        }
    }

    fn give(&self, block: Vec<u8>) -> Result<(), CompressError> {
        self.blocks.send(block).map_err(|_| stopped())
    }

    fn take(&self) -> Result<Vec<u8>, CompressError> {
        self.members
            .recv()
            .map_err(|_| stopped())?
            .map_err(CompressError::Write)
    }
}

fn stopped() -> CompressError {
    CompressError::Write(io::Error::other("a compression thread has stopped"))
}

fn member(compressor: &mut libdeflater::Compressor, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
    let length = compressor.gzip_compress(block, &mut out).map_err(io::Error::other)?;
    out.truncate(length);
    Ok(out)
}

/// Counts and hashes what goes to a sink.
struct Measured<'a> {
    sink: &'a mut dyn Write,
    hasher: Hasher,
    size_bytes: u64,
}

impl<'a> Measured<'a> {
    fn new(sink: &'a mut dyn Write) -> Self {
        Self {
            sink,
            hasher: Hasher::new(),
            size_bytes: 0,
        }
    }

    fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.size_bytes)
    }
}

impl Write for Measured<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// Counts and hashes what is read.
pub(super) struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    size_bytes: u64,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            size_bytes: 0,
        }
    }

    pub(super) fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.size_bytes)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.size_bytes += length as u64;
        Ok(length)
    }
}

/// Counts compressed bytes as they are taken.
pub(crate) struct Counted<R> {
    inner: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.taken.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Stops a decompression bomb.
struct Bounded<'a> {
    inner: Box<dyn Read + Send + 'a>,
    taken: Arc<AtomicU64>,
    given: u64,
    limits: Limits,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.given += length as u64;
        if self.given > self.limits.unpacked_bytes {
            return Err(LimitExceeded::UnpackedBytes(self.limits.unpacked_bytes).into_io());
        }
        let taken = self.taken.load(Ordering::Relaxed).max(1);
        if self.given > self.limits.ratio_from_bytes && self.given / taken > self.limits.ratio {
            return Err(LimitExceeded::Ratio(self.limits.ratio).into_io());
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at * at / 7 % 251).unwrap()).collect()
    }

    fn squeeze(bytes: &[u8], compression: Compression, threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let (digest, size) = compress(bytes, compression, None, threads, &mut out).unwrap();
        assert_eq!((digest, size), (Digest::of(&out), out.len() as u64));
        out
    }

    fn expand(bytes: &[u8], compression: Compression, limits: &Limits) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes, compression, limits)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_form_comes_back_at_every_size_around_a_member() {
        for length in [0, 1, MEMBER_BYTES - 1, MEMBER_BYTES, MEMBER_BYTES + 1, 5 * MEMBER_BYTES] {
            let bytes = sample(length);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let squeezed = squeeze(&bytes, compression, 2);
                assert!(
                    expand(&squeezed, compression, &Limits::default()).unwrap() == bytes,
                    "{compression:?} {length}"
                );
            }
        }
    }

    #[test]
    fn gzip_does_not_depend_on_the_number_of_threads() {
        let bytes = sample(7 * MEMBER_BYTES + 13);
        let one = squeeze(&bytes, Compression::Gzip, 1);
        for threads in [2, 3, 8] {
            assert!(squeeze(&bytes, Compression::Gzip, threads) == one, "{threads}");
        }
        assert_eq!(one[4..8], [0; 4], "no clock in the header");
    }

    #[test]
    fn zstd_does_not_depend_on_the_number_of_threads() {
        // Several jobs of four windows each.
        let bytes = sample(21 * MEMBER_BYTES + 13);
        let one = squeeze(&bytes, Compression::Zstd, 1);
        for threads in [2, 3, 8] {
            assert!(squeeze(&bytes, Compression::Zstd, threads) == one, "{threads}");
        }
    }

    #[test]
    fn levels_are_checked() {
        for (compression, level) in [(Compression::Gzip, 0), (Compression::Gzip, 13), (Compression::Zstd, 23)] {
            let error = compress(&b""[..], compression, Some(level), 1, &mut Vec::new()).unwrap_err();
            assert!(matches!(error, CompressError::Level { level: found, .. } if found == level));
        }
    }

    #[test]
    fn a_bomb_stops_at_the_ratio_and_at_the_size() {
        let bomb = squeeze(&vec![0; 8 << 20], Compression::Gzip, 2);
        let ratio = Limits {
            ratio: 100,
            ratio_from_bytes: 1 << 20,
            ..Limits::default()
        };
        let error = expand(&bomb, Compression::Gzip, &ratio).unwrap_err();
        assert_eq!(LimitExceeded::from_io(&error), Some(LimitExceeded::Ratio(100)));
        let size = Limits {
            unpacked_bytes: 5 << 20,
            ..Limits::default()
        };
        let error = expand(&bomb, Compression::Gzip, &size).unwrap_err();
        assert_eq!(
            LimitExceeded::from_io(&error),
            Some(LimitExceeded::UnpackedBytes(5 << 20))
        );
    }

    #[test]
    fn a_zstd_window_above_the_limit_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(&sample(1000)).unwrap();
        let frame = encoder.finish().unwrap();
        assert!(expand(&frame, Compression::Zstd, &Limits::default()).is_err());
    }

    #[test]
    fn recompressing_keeps_the_uncompressed_digest() {
        let bytes = sample(MEMBER_BYTES + 5);
        let gzip = squeeze(&bytes, Compression::Gzip, 2);
        let mut out = Vec::new();
        let done = recompress(&gzip[..], Compression::Gzip, Compression::Zstd, None, &mut out).unwrap();
        assert_eq!(done.uncompressed, Digest::of(&bytes));
        assert!(expand(&out, Compression::Zstd, &Limits::default()).unwrap() == bytes);
    }

    #[test]
    fn truncated_gzip_is_an_error() {
        let gzip = squeeze(&sample(MEMBER_BYTES), Compression::Gzip, 1);
        assert!(expand(&gzip[..gzip.len() - 4], Compression::Gzip, &Limits::default()).is_err());
    }
}
