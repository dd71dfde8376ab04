//! zstd: one frame, made in jobs of one size by the threads of the library.

use std::io::{Read, Write};
use std::thread;

use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder;

use super::blocks::{Ahead, Block, Spare};
use super::compress::CompressError;

/// Input bytes of a job. Part of the bytes we produce. A level's own would be four windows, 8 MiB at the default level, and what
/// the library holds is some jobs for each thread; these cost 0.3 % in size.
const JOB_BYTES: u32 = 2 << 20;

/// Largest window, as a power of two: 8 MiB is what every decoder has to take (RFC 8878, 3.1.1.1.2), and no level needs more to be useful.
const WINDOW_LOG: u32 = 23;
/// From this level on, the window would be larger.
const WIDE_LEVEL: i32 = 20;

/// Writes all of `reader` to `out` as one frame. Nothing of it depends on the number of threads.
pub(super) fn frame(
    mut reader: impl Read + Send,
    level: i32,
    threads: usize,
    out: &mut dyn Write,
) -> Result<(), CompressError> {
    let spare = Spare::default();
    let first = Block::read(&mut reader, &spare).map_err(CompressError::Read)?;
    let mut encoder = Encoder::new(out, level).map_err(CompressError::Write)?;
    if level >= WIDE_LEVEL {
        encoder.window_log(WINDOW_LOG).map_err(CompressError::Write)?;
    }
    if first.is_last() {
        // Most layers are this small: tables of their size, and no threads.
        let length = Some(first.bytes().len() as u64);
        encoder.set_pledged_src_size(length).map_err(CompressError::Write)?;
        encoder.write_all(first.bytes()).map_err(CompressError::Write)?;
        return encoder.finish().map(drop).map_err(CompressError::Write);
    }
    // With threads, even with one, the library cuts the input into jobs.
    let threads = u32::try_from(threads).unwrap_or(u32::MAX);
    encoder.multithread(threads).map_err(CompressError::Write)?;
    let jobs = CParameter::JobSize(JOB_BYTES);
    encoder.set_parameter(jobs).map_err(CompressError::Write)?;
    thread::scope(|scope| {
        let ahead = Ahead::start(scope, first, reader, &spare);
        while let Some(block) = ahead.next() {
            encoder.write_all(block.bytes()).map_err(CompressError::Write)?;
            spare.give(block.into_buffer());
        }
        // A layer that was not read to its end has no end of a frame either.
        ahead.finish().map_err(CompressError::Read)?;
        encoder.finish().map(drop).map_err(CompressError::Write)
    })
}
