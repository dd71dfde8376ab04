//! Digests remembered between walks, so that an unchanged context costs a walk and no reading.
//!
//! The file: a version line, records of 85 bytes in order of device and inode, each of these once (device, inode, size, times of content
//! and of change, digest, 1 if there are extended attributes, and the number of the walk that saw it last; numbers little-endian), and
//! the BLAKE3 digest of all that. Records are searched where they lie: most walks need all of them and write none.
//!
//! Several walks may look at different parts of one context, so what a walk did not see is kept, up to a limit. The file only
//! ever saves work: a damaged, missing or unwritable one is a cold cache, so none of its errors is reported.

use std::cmp::Ordering;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proto::digest::ContentDigest;
use proto::tree::Timestamp;

use super::dir::Stamp;

const VERSION: &[u8] = b"rbuild stat cache 3\n";
const RECORD_BYTES: usize = 85;
const TRAILER_BYTES: usize = 32;

/// Almost three million files; a larger file is not ours.
const MAX_FILE_BYTES: u64 = 240 << 20;

/// Files that are kept although the last walk did not see them: 4 MB, read and verified in two milliseconds.
const UNSEEN_KEPT: usize = 50_000;

/// A file written to within the granularity of its file system's clock after it was hashed keeps its stamp. Two seconds are
/// the coarsest clock in use (FAT), so a stamp that much older than the walk has seen its last write.
const RACY_SECONDS: i64 = 2;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) content: ContentDigest,
    /// Whether it has extended attributes that count. Setting one changes the stamp.
    pub(super) has_xattrs: bool,
    /// The record that says so.
    place: usize,
}

/// One file, as the cache has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    stamp: Stamp,
    content: ContentDigest,
    has_xattrs: bool,
    /// Number of the walk, of those that wrote the file.
    walk: u32,
}

/// The cache of one root.
#[derive(Debug)]
pub(super) struct StatCache {
    file: Option<PathBuf>,
    now: Timestamp,
    /// The bytes of the file, verified; empty without one.
    bytes: Vec<u8>,
    /// Which of its records this walk has seen.
    seen: Vec<bool>,
    /// What this walk read.
    new: Vec<Record>,
}

impl StatCache {
    /// Reads `file`, if there is one; `now` is the time before the walk looked at the first file.
    pub(super) fn load(file: Option<&Path>, now: Timestamp) -> Self {
        let bytes = file.and_then(read).unwrap_or_default();
        let seen = vec![false; records(&bytes).len()];
        Self {
            file: file.map(Path::to_owned),
            now,
            bytes,
            seen,
            new: Vec::new(),
        }
    }

    /// What is known of the file with this stamp.
    pub(super) fn lookup(&self, stamp: &Stamp) -> Option<Known> {
        let records = records(&self.bytes);
        let place = records.binary_search_by(|record| by_file(record, stamp)).ok()?;
        let record = Record::decode(&records[place]);
        let known = Known {
            content: record.content,
            has_xattrs: record.has_xattrs,
            place,
        };
        (record.stamp == *stamp && !self.is_racy(stamp)).then_some(known)
    }

    /// Notes that this walk has seen what was looked up.
    pub(super) fn saw(&mut self, known: &Known) {
        self.seen[known.place] = true;
    }

    /// Remembers a digest, unless the file is so young that it may change without its stamp.
    pub(super) fn insert(&mut self, stamp: Stamp, content: ContentDigest, has_xattrs: bool) {
        if self.file.is_some() && !self.is_racy(&stamp) {
            self.new.push(Record {
                stamp,
                content,
                has_xattrs,
                walk: 0,
            });
        }
    }

    /// Writes what is known now, if this walk has news.
    pub(super) fn save(mut self) {
        let Some(file) = self.file.take().filter(|_| !self.new.is_empty()) else {
            return;
        };
        if let Err(error) = write(&file, &self.into_bytes()) {
            // The next walk reads the files again: slower, not wrong.
            tracing::debug!(file = %file.display(), %error, "stat cache not written");
        }
    }

    /// The file as it will be.
    fn into_bytes(self) -> Vec<u8> {
        let old: Vec<Record> = records(&self.bytes).iter().map(Record::decode).collect();
        let walk = old
            .iter()
            .map(|record| record.walk)
            .max()
            .unwrap_or(0)
            .saturating_add(1);
        let (seen, mut unseen): (Vec<_>, Vec<_>) = old.into_iter().zip(self.seen).partition(|(_, seen)| *seen);
        // Those of the oldest walks go first; of one walk it does not matter which.
        unseen.sort_by_key(|(record, _)| std::cmp::Reverse(record.walk));
        unseen.truncate(UNSEEN_KEPT);
        let current = self.new.into_iter().chain(seen.into_iter().map(|(record, _)| record));
        let mut all: Vec<Record> = current.map(|record| Record { walk, ..record }).collect();
        all.extend(unseen.into_iter().map(|(record, _)| record));
        // Sorted so that of several records of one file the one of this walk comes first and stays.
        all.sort_by_key(|record| record.stamp.file());
        all.dedup_by_key(|record| record.stamp.file());
        encode(&all)
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
fn read(file: &Path) -> Option<Vec<u8>> {
    if fs::metadata(file).ok()?.len() > MAX_FILE_BYTES {
        return None;
    }
    let bytes = fs::read(file).ok()?;
    is_whole(&bytes).then_some(bytes)
}

fn is_whole(bytes: &[u8]) -> bool {
    let split = bytes.len().checked_sub(TRAILER_BYTES);
    let Some((signed, trailer)) = split.and_then(|at| bytes.split_at_checked(at)) else {
        return false;
    };
    let records = signed.strip_prefix(VERSION);
    let whole = records.is_some_and(|records| records.len().is_multiple_of(RECORD_BYTES));
    whole && blake3::hash(signed).as_bytes() == trailer
}

/// The records of a file that is whole, or of none.
fn records(bytes: &[u8]) -> &[[u8; RECORD_BYTES]] {
    let end = bytes.len().saturating_sub(TRAILER_BYTES);
    bytes.get(VERSION.len()..end).unwrap_or_default().as_chunks().0
}

/// Where a record lies as seen from the file of `stamp`.
fn by_file(record: &[u8; RECORD_BYTES], stamp: &Stamp) -> Ordering {
    let wide = |at: usize| u64::from_le_bytes(part(record, at));
    (wide(0), wide(8)).cmp(&stamp.file())
}

impl Record {
    fn decode(record: &[u8; RECORD_BYTES]) -> Self {
        let wide = |at: usize| u64::from_le_bytes(part(record, at));
        let time = |at: usize| Timestamp {
            seconds: i64::from_le_bytes(part(record, at)),
            nanoseconds: u32::from_le_bytes(part(record, at + 8)),
        };
        Self {
            stamp: Stamp {
                device: wide(0),
                inode: wide(8),
                size_bytes: wide(16),
                mtime: time(24),
                ctime: time(36),
            },
            content: ContentDigest::from_bytes(part(record, 48)),
            has_xattrs: record[80] != 0,
            walk: u32::from_le_bytes(part(record, 81)),
        }
    }
}

fn part<const N: usize>(record: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&record[at..at + N]);
    bytes
}

fn encode(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(VERSION.len() + records.len() * RECORD_BYTES + TRAILER_BYTES);
    bytes.extend_from_slice(VERSION);
    for record in records {
        let stamp = &record.stamp;
        for number in [stamp.device, stamp.inode, stamp.size_bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in [stamp.mtime, stamp.ctime] {
            bytes.extend_from_slice(&time.seconds.to_le_bytes());
            bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(record.content.as_bytes());
        bytes.push(u8::from(record.has_xattrs));
        bytes.extend_from_slice(&record.walk.to_le_bytes());
    }
    let trailer = blake3::hash(&bytes);
    bytes.extend_from_slice(trailer.as_bytes());
    bytes
}

/// Under another name first: a reader finds the old file or the new one. Not synced: a torn one fails its checksum.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    // A file of that name is left from a process that died; whatever is wrong with removing it shows in creating.
    drop(fs::remove_file(&temporary));
    let mut handle = fs::File::create_new(&temporary)?;
    let written = handle.write_all(bytes).and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&temporary));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp {
            seconds,
            nanoseconds: 5,
        }
    }

    fn stamp(inode: u64, seconds: i64) -> Stamp {
        Stamp {
            device: 1,
            inode,
            size_bytes: 3,
            mtime: at(seconds),
            ctime: Timestamp::default(),
        }
    }

    fn record(inode: u64, walk: u32) -> Record {
        Record {
            stamp: stamp(inode, -4),
            content: ContentDigest::of(&inode.to_le_bytes()),
            has_xattrs: inode.is_multiple_of(2),
            walk,
        }
    }

    /// A cache that was read from a file with these records.
    fn cache(records: &[Record]) -> StatCache {
        StatCache {
            file: Some(PathBuf::from("unused")),
            now: at(100),
            seen: vec![false; records.len()],
            bytes: encode(records),
            new: Vec::new(),
        }
    }

    #[test]
    fn records_survive_encoding_and_no_damage_does() {
        let written = [record(1, 1), record(2, u32::MAX)];
        let bytes = encode(&written);
        assert!(is_whole(&bytes));
        assert_eq!(records(&bytes).iter().map(Record::decode).collect::<Vec<_>>(), written);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(!is_whole(&damaged), "byte {at}");
            assert!(!is_whole(&bytes[..at]), "cut at {at}");
        }
        assert!(records(&[]).is_empty());
    }

    #[test]
    fn a_record_is_found_by_its_whole_stamp() {
        let all: Vec<Record> = (0..50).map(|inode| record(inode * 3, 1)).collect();
        let cache = cache(&all);
        for inode in 0..150 {
            let known = cache
                .lookup(&stamp(inode, -4))
                .map(|known| (known.content, known.has_xattrs));
            let expected = inode.is_multiple_of(3).then(|| record(inode, 1));
            assert_eq!(
                known,
                expected.map(|record| (record.content, record.has_xattrs)),
                "{inode}"
            );
            assert_eq!(cache.lookup(&stamp(inode, -3)), None);
        }
    }

    #[test]
    fn what_a_walk_did_not_see_is_kept_and_what_it_read_replaces_the_old() {
        let mut cache = cache(&[record(1, 1), record(2, 2), record(3, 2)]);
        let known = cache.lookup(&stamp(1, -4)).unwrap();
        cache.saw(&known);
        cache.insert(stamp(3, 9), ContentDigest::of(b"new"), false);
        cache.insert(stamp(4, 9), ContentDigest::of(b"4"), false);
        let bytes = cache.into_bytes();
        let kept: Vec<(u64, u32, i64)> = records(&bytes)
            .iter()
            .map(Record::decode)
            .map(|record| (record.stamp.inode, record.walk, record.stamp.mtime.seconds))
            .collect();
        assert_eq!(kept, [(1, 3, -4), (2, 2, -4), (3, 3, 9), (4, 3, 9)]);
    }

    #[test]
    fn of_what_was_not_seen_the_oldest_goes_when_there_is_too_much() {
        let unseen = UNSEEN_KEPT as u64;
        let all: Vec<Record> = (0..unseen + 2)
            .map(|inode| record(inode, 7 + u32::from(inode != 40)))
            .collect();
        let mut cache = cache(&all);
        cache.insert(stamp(unseen + 7, 9), ContentDigest::of(b"new"), false);
        let bytes = cache.into_bytes();
        assert_eq!(records(&bytes).len(), UNSEEN_KEPT + 1);
        let inodes = records(&bytes).iter().map(|record| Record::decode(record).stamp.inode);
        assert!(inodes.clone().all(|inode| inode != 40));
        assert!(inodes.is_sorted());
    }

    #[test]
    fn young_files_are_neither_stored_nor_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache");
        let mut cache = StatCache::load(Some(&file), at(12));
        cache.insert(stamp(1, 11), ContentDigest::of(b"young"), false);
        cache.insert(stamp(2, 9), ContentDigest::of(b"old"), false);
        cache.save();
        let cache = StatCache::load(Some(&file), at(100));
        assert_eq!(cache.lookup(&stamp(1, 11)), None);
        let known = cache.lookup(&stamp(2, 9)).unwrap();
        assert_eq!((known.content, known.has_xattrs), (ContentDigest::of(b"old"), false));
        let cache = StatCache::load(Some(&file), at(10));
        assert_eq!(cache.lookup(&stamp(2, 9)), None);
        // An old time of the content can be set by anybody; the time of change counts as well.
        let fresh_change = Stamp {
            ctime: at(11),
            ..stamp(2, 9)
        };
        assert!(cache.is_racy(&fresh_change));
    }
}
