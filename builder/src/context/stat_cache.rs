//! Digests remembered between walks, so that an unchanged context costs a walk and no reading.
//!
//! The file: a version line, records of 81 bytes (device, inode, size, times of content and of change, digest, and 1 if there
//! are extended attributes; numbers little-endian), and the BLAKE3 digest of all that. It only ever saves work: a damaged, missing or unwritable one is a cold
//! cache, so none of its errors is reported.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proto::digest::ContentDigest;
use proto::tree::Timestamp;

use super::dir::Stamp;

const VERSION: &[u8] = b"rbuild stat cache 2\n";
const RECORD_BYTES: usize = 81;
const TRAILER_BYTES: usize = 32;

/// Three million files; a larger file is not ours.
const MAX_FILE_BYTES: u64 = 240 << 20;

/// A file written to within the granularity of its file system's clock after it was hashed keeps its stamp. Two seconds are
/// the coarsest clock in use (FAT), so a stamp that much older than the walk has seen its last write.
const RACY_SECONDS: i64 = 2;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    content: ContentDigest,
    /// Whether it has extended attributes that count. Setting one changes the stamp.
    has_xattrs: bool,
}

/// The cache of one root.
#[derive(Debug)]
pub(super) struct StatCache {
    file: Option<PathBuf>,
    now: Timestamp,
    known: HashMap<Stamp, Known>,
    /// What this walk saw: nothing else is kept, so the file never outgrows the context.
    seen: HashMap<Stamp, Known>,
}

impl StatCache {
    /// Reads `file`, if there is one; `now` is the time before the walk looked at the first file.
    pub(super) fn load(file: Option<&Path>, now: Timestamp) -> Self {
        let known = file.and_then(read).unwrap_or_default();
        Self {
            file: file.map(Path::to_owned),
            now,
            known,
            seen: HashMap::new(),
        }
    }

    /// The digest of the file with this stamp.
    pub(super) fn lookup(&mut self, stamp: &Stamp) -> Option<ContentDigest> {
        if self.is_racy(stamp) {
            return None;
        }
        let known = *self.known.get(stamp)?;
        self.seen.insert(*stamp, known);
        Some(known.content)
    }

    /// Whether the file with this stamp has no extended attributes, and nobody need look.
    pub(super) fn has_no_xattrs(&self, stamp: &Stamp) -> bool {
        !self.is_racy(stamp) && self.known.get(stamp).is_some_and(|known| !known.has_xattrs)
    }

    /// Remembers a digest, unless the file is so young that it may change without its stamp.
    pub(super) fn insert(&mut self, stamp: Stamp, content: ContentDigest, has_xattrs: bool) {
        if self.file.is_some() && !self.is_racy(&stamp) {
            self.seen.insert(stamp, Known { content, has_xattrs });
        }
    }

    /// Writes what was seen, if that is news.
    pub(super) fn save(self) {
        let Some(file) = self.file.filter(|_| self.known != self.seen) else {
            return;
        };
        if let Err(error) = write(&file, &self.seen) {
            // The next walk reads the files again: slower, not wrong.
            tracing::debug!(file = %file.display(), %error, "stat cache not written");
        }
    }

    fn is_racy(&self, stamp: &Stamp) -> bool {
        let youngest = Timestamp {
            seconds: self.now.seconds.saturating_sub(RACY_SECONDS),
            ..self.now
        };
        stamp.mtime.max(stamp.ctime) > youngest
    }
}

/// Nothing for whatever reason: see the head of this file.
fn read(file: &Path) -> Option<HashMap<Stamp, Known>> {
    if fs::metadata(file).ok()?.len() > MAX_FILE_BYTES {
        return None;
    }
    decode(&fs::read(file).ok()?)
}

fn decode(bytes: &[u8]) -> Option<HashMap<Stamp, Known>> {
    let (signed, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_BYTES)?)?;
    if blake3::hash(signed).as_bytes() != trailer {
        return None;
    }
    let (records, rest) = signed.strip_prefix(VERSION)?.as_chunks::<RECORD_BYTES>();
    rest.is_empty().then(|| records.iter().map(decode_record).collect())
}

fn decode_record(record: &[u8; RECORD_BYTES]) -> (Stamp, Known) {
    let wide = |at: usize| u64::from_le_bytes(part(record, at));
    let time = |at: usize| Timestamp {
        seconds: i64::from_le_bytes(part(record, at)),
        nanoseconds: u32::from_le_bytes(part(record, at + 8)),
    };
    let stamp = Stamp {
        device: wide(0),
        inode: wide(8),
        size_bytes: wide(16),
        mtime: time(24),
        ctime: time(36),
    };
    let content = blake3::Hash::from_bytes(part(record, 48));
    let known = Known {
        content: content.into(),
        has_xattrs: record[80] != 0,
    };
    (stamp, known)
}

fn part<const N: usize>(record: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&record[at..at + N]);
    bytes
}

fn encode(entries: &HashMap<Stamp, Known>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(VERSION.len() + entries.len() * RECORD_BYTES + TRAILER_BYTES);
    bytes.extend_from_slice(VERSION);
    for (stamp, known) in entries {
        for number in [stamp.device, stamp.inode, stamp.size_bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in [stamp.mtime, stamp.ctime] {
            bytes.extend_from_slice(&time.seconds.to_le_bytes());
            bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(known.content.as_bytes());
        bytes.push(u8::from(known.has_xattrs));
    }
    let trailer = blake3::hash(&bytes);
    bytes.extend_from_slice(trailer.as_bytes());
    bytes
}

/// Under another name first: a reader finds the old file or the new one. Not synced: a torn one fails its checksum.
fn write(file: &Path, entries: &HashMap<Stamp, Known>) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    // A file of that name is left from a process that died; whatever is wrong with removing it shows in creating.
    drop(fs::remove_file(&temporary));
    let mut handle = fs::File::create_new(&temporary)?;
    let written = handle
        .write_all(&encode(entries))
        .and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&temporary));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64) -> Stamp {
        let time = Timestamp {
            seconds,
            nanoseconds: 5,
        };
        Stamp {
            device: 1,
            inode: 2,
            size_bytes: 3,
            mtime: time,
            ctime: Timestamp::default(),
        }
    }

    fn known(content: &[u8], has_xattrs: bool) -> Known {
        Known {
            content: ContentDigest::of(content),
            has_xattrs,
        }
    }

    #[test]
    fn entries_survive_encoding_and_no_damage_does() {
        let entries = HashMap::from([(stamp(-4), known(b"a", true)), (stamp(9), known(b"b", false))]);
        let bytes = encode(&entries);
        assert_eq!(decode(&bytes), Some(entries));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn young_files_are_neither_stored_nor_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache");
        let at = |seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        };
        let mut cache = StatCache::load(Some(&file), at(12));
        cache.insert(stamp(10), ContentDigest::of(b"young"), false);
        cache.insert(stamp(9), ContentDigest::of(b"old"), false);
        cache.save();
        let mut cache = StatCache::load(Some(&file), at(100));
        assert_eq!(cache.lookup(&stamp(10)), None);
        assert!(cache.has_no_xattrs(&stamp(9)) && !cache.has_no_xattrs(&stamp(10)));
        assert_eq!(cache.lookup(&stamp(9)), Some(ContentDigest::of(b"old")));
        let mut cache = StatCache::load(Some(&file), at(10));
        assert_eq!(cache.lookup(&stamp(9)), None);
        // An old time of the content can be set by anybody; the time of change counts as well.
        let fresh_change = Stamp {
            ctime: at(11),
            ..stamp(9)
        };
        assert!(cache.is_racy(&fresh_change));
    }
}
