//! gzip, in parallel: members of [`BLOCK_BYTES`] of input or less, made by several threads and put out in order.
//!
//! A reader of gzip takes members that follow each other for one stream (RFC 1952, 2.2). Where a block has [`noise`] in it, that
//! becomes a member of stored blocks: compressing it would gain nothing, and takes longer than all the rest.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};

use super::blocks::{BLOCK_BYTES, Block, Spare, feed, joined};
use super::compress::CompressError;
use super::noise;

/// Most bytes of a stored block of deflate.
const STORED_BYTES: usize = 65_535;

/// Magic, deflate, no flags, no time, no hint, unknown system: nothing that depends on where or when.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Writes all of `reader` to `out`. The lanes are threads that compress; nothing of the output depends on how many there are.
pub(super) fn gzip(
    mut reader: impl Read + Send,
    level: i32,
    lanes: usize,
    out: &mut dyn Write,
) -> Result<(), CompressError> {
    let spare = Spare::default();
    let first = Block::read(&mut reader, &spare).map_err(CompressError::Read)?;
    if first.is_last() {
        // Most layers are this small: not worth a thread. An empty one still needs a member to be gzip at all.
        let mut members = Vec::new();
        Deflater::new(level)
            .members(first.bytes(), &mut members)
            .map_err(CompressError::Write)?;
        return out.write_all(&members).map_err(CompressError::Write);
    }
    thread::scope(|scope| {
        let (mut givers, mut takers) = (Vec::with_capacity(lanes), Vec::with_capacity(lanes));
        for _ in 0..lanes {
            let (giver, blocks) = sync_channel(1);
            let (done, taker) = sync_channel(1);
            let spare = &spare;
            scope.spawn(move || lane(level, &blocks, &done, spare));
            givers.push(giver);
            takers.push(taker);
        }
        let spare = &spare;
        let reading = scope.spawn(move || deal(first, &mut reader, &givers, spare));
        let written = collect(takers, out, spare);
        joined(reading).map_err(CompressError::Read)?;
        written
    })
}

/// Deals blocks out in turn. A lane that takes no more means that writing failed, which is told where it happened.
fn deal(first: Block, reader: &mut impl Read, lanes: &[SyncSender<Block>], spare: &Spare) -> io::Result<()> {
    let mut turn = lanes.iter().cycle();
    feed(first, reader, spare, |block| {
        turn.next().is_some_and(|lane| lane.send(block).is_ok())
    })
}

/// Writes what the lanes made, in turn: the order in which they got it.
fn collect(lanes: Vec<Receiver<io::Result<Vec<u8>>>>, out: &mut dyn Write, spare: &Spare) -> Result<(), CompressError> {
    for lane in lanes.iter().cycle() {
        // Nothing more in the lane whose turn it is: nothing more in any.
        let Ok(members) = lane.recv() else { break };
        let members = members.map_err(CompressError::Write)?;
        out.write_all(&members).map_err(CompressError::Write)?;
        spare.give(members);
    }
    Ok(())
}

/// One thread: blocks in, members out, until either end is closed.
fn lane(level: i32, blocks: &Receiver<Block>, done: &SyncSender<io::Result<Vec<u8>>>, spare: &Spare) {
    let mut deflater = Deflater::new(level);
    for block in blocks {
        let mut members = spare.take();
        members.clear();
        let made = deflater.members(block.bytes(), &mut members).map(|()| members);
        spare.give(block.into_buffer());
        if done.send(made).is_err() {
            return;
        }
    }
}

/// Makes members.
struct Deflater {
    /// Nothing: all is stored.
    compressor: Option<Compressor>,
}

impl Deflater {
    /// `level` was checked: 0 stores, what else there is, libdeflate has.
    fn new(level: i32) -> Self {
        let level = CompressionLvl::new(level).ok().filter(|_| level > 0);
        Self {
            compressor: level.map(Compressor::new),
        }
    }

    /// Appends `block` to `out`, as one member or several.
    fn members(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let Some(compressor) = &mut self.compressor else {
            store(block, out);
            return Ok(());
        };
        if block.is_empty() {
            return deflate(compressor, block, out);
        }
        let mut rest = block;
        for run in noise::runs(block) {
            let (bytes, after) = rest.split_at(run.length);
            rest = after;
            if run.is_noise {
                store(bytes, out);
            } else {
                deflate(compressor, bytes, out)?;
            }
        }
        Ok(())
    }
}

fn deflate(compressor: &mut Compressor, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.resize(start + compressor.gzip_compress_bound(bytes.len()), 0);
    let length = compressor
        .gzip_compress(bytes, &mut out[start..])
        .map_err(io::Error::other)?;
    out.truncate(start + length);
    Ok(())
}

/// A member whose bytes are as they were. Source: RFC 1951, 3.2.4; RFC 1952, 2.3.
fn store(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&HEADER);
    let mut chunks = bytes.chunks(STORED_BYTES).peekable();
    if chunks.peek().is_none() {
        stored_block(&[], true, out);
    }
    while let Some(chunk) = chunks.next() {
        stored_block(chunk, chunks.peek().is_none(), out);
    }
    out.extend_from_slice(&libdeflater::crc32(bytes).to_le_bytes());
    out.extend_from_slice(&size_field(bytes.len()));
}

fn stored_block(bytes: &[u8], is_final: bool, out: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).expect("chunks have at most STORED_BYTES, which is a u16");
    out.push(u8::from(is_final));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn size_field(length: usize) -> [u8; 4] {
    debug_assert!(length <= BLOCK_BYTES, "a member holds a block at most");
    u32::try_from(length).expect("a block is far below 4 GiB").to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squeeze(bytes: &[u8], level: i32, lanes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        gzip(bytes, level, lanes, &mut out).unwrap();
        out
    }

    fn expand(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn noise_is_stored_between_what_compresses() {
        let text: Vec<u8> = b"some words ".iter().copied().cycle().take(300_000).collect();
        let noise = noise(700_000);
        let layer = [&text[..], &noise, &text, &noise].concat();
        let squeezed = squeeze(&layer, 3, 2);
        assert!(expand(&squeezed) == layer);
        // What is stored is found as it was; what surrounds it is small.
        let stored = &noise[100_000..150_000];
        assert!(squeezed.windows(64).any(|window| window == &stored[..64]));
        assert!((1_400_000..1_440_000).contains(&squeezed.len()), "{}", squeezed.len());
    }

    #[test]
    fn level_zero_stores_everything() {
        for length in [0, 1, STORED_BYTES, STORED_BYTES + 1, BLOCK_BYTES + 7] {
            let bytes = vec![b'x'; length];
            let squeezed = squeeze(&bytes, 0, 2);
            assert!(expand(&squeezed) == bytes, "{length}");
            assert!(squeezed.len() >= length + 18);
        }
    }

    #[test]
    fn a_reader_that_fails_is_the_error_however_much_came_before() {
        struct Fails(usize);
        impl Read for Fails {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("gone"))?;
                Ok(buffer.len())
            }
        }
        for blocks in [0, 1, 2, 9] {
            let error = gzip(Fails(blocks), 1, 2, &mut io::sink()).unwrap_err();
            assert!(
                matches!(&error, CompressError::Read(source) if source.to_string() == "gone"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_sink_that_fails_stops_a_layer_without_end() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = gzip(io::repeat(7), 1, 2, &mut Full).unwrap_err();
        assert!(matches!(&error, CompressError::Write(source) if source.kind() == io::ErrorKind::StorageFull));
    }
}
