//! Files of a layer that lies in the store as a plain tar, found by their content: what a client need not send again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proto::digest::ContentDigest;
use proto::oci::Compression;
use proto::record::LayerInfo;
use proto::tree::EntryKind;

use super::{Layers, compression_of};
use crate::layer::tar;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Files by content, and the tar that holds them.
#[derive(Debug, Clone)]
pub struct KnownFiles {
    tar: Arc<File>,
    /// Where the bytes of each begin.
    starts: Arc<HashMap<(ContentDigest, u64), u64>>,
}

impl Layers {
    /// The files of a layer, if it is here uncompressed and its tree is known.
    #[must_use]
    pub fn known_files(&self, layer: &LayerInfo) -> Option<KnownFiles> {
        let tree = self.known_tree(layer.diff_id)?;
        let form = self.local_form(layer)?;
        if !matches!(compression_of(&form), Ok(Compression::None)) {
            return None;
        }
        // Whatever is wrong with it, the client has the files too.
        let tar = self.inner.store.blobs().unverified(form.digest).ok()??;
        let starts = tar::body_starts(&tree).filter_map(|(entry, start)| match entry.kind {
            EntryKind::File { size, content } => Some(((content, size), start)),
            _ => None,
        });
        Some(KnownFiles {
            tar: Arc::new(tar),
            starts: Arc::new(starts.collect()),
        })
    }
}

impl KnownFiles {
    /// Whether a file of that size and content is among them.
    #[must_use]
    pub fn has(&self, kind: &EntryKind) -> bool {
        matches!(kind, EntryKind::File { size, content } if self.starts.contains_key(&(*content, *size)))
    }

    /// Reads a file of that size and content; nothing if it is not among them, or not any more.
    #[must_use]
    pub fn open(&self, kind: &EntryKind) -> Option<Box<dyn Read + Send>> {
        let EntryKind::File { size, content } = kind else {
            return None;
        };
        let at = *self.starts.get(&(*content, *size))?;
        let part = || Part {
            tar: Arc::clone(&self.tar),
            at,
            left: *size,
        };
        // The digest of the tar was not compared, and a disk may be bad: each file is compared before it is used.
        let mut hasher = blake3::Hasher::new();
        let mut reader = io::BufReader::with_capacity(CHUNK_BYTES, part());
        let is_whole = hasher.update_reader(&mut reader).is_ok() && ContentDigest::from(hasher.finalize()) == *content;
        is_whole.then(|| Box::new(part()) as Box<dyn Read + Send>)
    }
}

/// The bytes of one file in the tar.
struct Part {
    tar: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.tar.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
