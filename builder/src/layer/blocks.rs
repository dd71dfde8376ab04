//! Input of a compressor in blocks of one size, whose buffers go round instead of being made anew.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

/// Bytes of a block. Part of the recipes of compressed forms: changing it changes digests.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Blocks that are read before somebody wants them.
const AHEAD: usize = 2;

/// Some input: [`BLOCK_BYTES`] of it, fewer only at its end.
pub(super) struct Block {
    buffer: Vec<u8>,
    length: usize,
}

impl Block {
    /// Fills itself from `reader`, anew.
    pub(super) fn read(reader: &mut impl Read, spare: &Spare) -> io::Result<Self> {
        let mut buffer = spare.take();
        buffer.resize(BLOCK_BYTES, 0);
        let mut length = 0;
        while length < BLOCK_BYTES {
            match reader.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { buffer, length })
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Whether the input ends with it.
    pub(super) fn is_last(&self) -> bool {
        self.length < BLOCK_BYTES
    }

    /// Its buffer, for others to use.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

/// Buffers that nobody uses at the moment.
#[derive(Default)]
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// One of them, or a new one.
    pub(super) fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_default()
    }

    /// Gives one back.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Blocks of a reader, read by a thread of its own: reading, and whatever the reader compares, goes on beside the work.
pub(super) struct Ahead<'scope> {
    blocks: Receiver<Block>,
    thread: ScopedJoinHandle<'scope, io::Result<()>>,
}

impl<'scope> Ahead<'scope> {
    /// Starts to read what comes after `first`.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        first: Block,
        mut reader: impl Read + Send + 'scope,
        spare: &'scope Spare,
    ) -> Self {
        let (sender, blocks) = sync_channel(AHEAD);
        let thread = scope.spawn(move || feed(first, &mut reader, spare, |block| send(&sender, block)));
        Self { blocks, thread }
    }

    /// The next block; nothing after the last one, or after one that could not be read.
    pub(super) fn next(&self) -> Option<Block> {
        self.blocks.recv().ok()
    }

    /// Whether all was read.
    pub(super) fn finish(self) -> io::Result<()> {
        // Whoever stops early lets the thread stop too.
        drop(self.blocks);
        joined(self.thread)
    }
}

/// Gives `first` and all blocks of `reader` to `take`, until that wants no more.
pub(super) fn feed(
    first: Block,
    reader: &mut impl Read,
    spare: &Spare,
    mut take: impl FnMut(Block) -> bool,
) -> io::Result<()> {
    let mut block = first;
    loop {
        let last = block.is_last();
        // An empty rest is nothing to compress.
        if (!block.bytes().is_empty() && !take(block)) || last {
            return Ok(());
        }
        block = Block::read(reader, spare)?;
    }
}

fn send(sender: &SyncSender<Block>, block: Block) -> bool {
    sender.send(block).is_ok()
}

/// What a thread that reads came to.
pub(super) fn joined(thread: ScopedJoinHandle<'_, io::Result<()>>) -> io::Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that reads the layer has stopped")))
}
