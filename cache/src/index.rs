//! The index: when each thing was last used. The one fact that files do not know.
//!
//! Kept in `sled`, which neither promises durability nor survives damage without a panic. So it is a hint and nothing more:
//! it is opened on a thread of its own that may panic, it is deleted and made anew when it is bad, and whoever asks it gets
//! an answer from the files' times when it has none. Uses are noted in memory and written by [`Index::flush`], never on the
//! way of a build.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proto::digest::{ChainId, Digest};
use proto::record::CacheKey;

use crate::cache_mounts::MountName;
use crate::durable::lock;

/// What sled may keep in memory while it is open, which is for as long as reading everything once takes.
const CACHE_BYTES: u64 = 1 << 20;
/// Longest wait for the lock of the files.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks at it.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Tells the time in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Used {
    /// A record.
    Record(CacheKey),
    /// A blob, or a layer by its diff ID.
    Blob(Digest),
    /// A snapshot.
    Chain(ChainId),
    /// A cache mount.
    CacheMount(MountName),
}

impl Used {
    /// One letter for the kind, then the name.
    fn bytes(self) -> [u8; 33] {
        let (kind, name) = match self {
            Self::Record(key) => (b'r', *key.0.as_bytes()),
            Self::Blob(digest) => (b'b', *digest.as_bytes()),
            Self::Chain(chain) => (b'c', *chain.0.as_bytes()),
            Self::CacheMount(name) => (b'm', *name.digest().as_bytes()),
        };
        let mut bytes = [kind; 33];
        bytes[1..].copy_from_slice(&name);
        bytes
    }
}

/// Last uses, as far as they are known.
pub struct Index {
    dir: PathBuf,
    clock: Clock,
    noted: Mutex<HashMap<[u8; 33], Option<u64>>>,
    // Nothing until the first question: opening takes longer than a build that finds everything.
    known: Mutex<Option<Uses>>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Index {
    pub(crate) fn new(dir: PathBuf, clock: Clock) -> Self {
        Self {
            dir,
            clock,
            noted: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Notes that `thing` is used now.
    pub fn touch(&self, thing: Used) {
        lock(&self.noted).insert(thing.bytes(), Some((self.clock)()));
    }

    /// Notes that `thing` is gone.
    pub fn forget(&self, thing: Used) {
        lock(&self.noted).insert(thing.bytes(), None);
    }

    /// The time by the index's clock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// When `thing` was used last, if that is known.
    #[must_use]
    pub fn last_use_ms(&self, thing: Used) -> Option<u64> {
        let name = thing.bytes();
        if let Some(noted) = lock(&self.noted).get(&name) {
            return *noted;
        }
        let mut known = lock(&self.known);
        known
            .get_or_insert_with(|| exchange(&self.dir, Vec::new()))
            .get(&name)
            .copied()
    }

    /// Writes what was noted. A failure loses hints, never results, and is one line of the log.
    pub fn flush(&self) {
        let noted: Vec<Note> = lock(&self.noted).drain().collect();
        if noted.is_empty() {
            return;
        }
        // Locked meanwhile: two cannot have the files open.
        let mut known = lock(&self.known);
        *known = Some(exchange(&self.dir, noted));
    }

    /// What is wrong with the files, as far as reading all of them tells. Nothing if there are none: that is an empty index.
    pub(crate) fn damage(&self) -> Option<String> {
        let _nobody_else = lock(&self.known);
        match self.dir.exists() {
            true => guarded(&self.dir, Vec::new()).err(),
            false => None,
        }
    }

    /// Writes the index anew with what it knows.
    pub(crate) fn renew(&self) {
        let mut known = lock(&self.known);
        let mut uses = known.take().unwrap_or_else(|| exchange(&self.dir, Vec::new()));
        for (name, at) in lock(&self.noted).drain() {
            match at {
                Some(at) => uses.insert(name, at),
                None => uses.remove(&name),
            };
        }
        remove(&self.dir);
        let notes = uses.into_iter().map(|(name, at)| (name, Some(at))).collect();
        *known = Some(exchange(&self.dir, notes));
    }

    /// Forgets everything and starts an empty index: the times of the files answer from now on.
    pub fn rebuild(&self) {
        let mut known = lock(&self.known);
        remove(&self.dir);
        *known = Some(exchange(&self.dir, Vec::new()));
    }
}

type Uses = HashMap<[u8; 33], u64>;
type Note = ([u8; 33], Option<u64>);

/// Adds `noted` and returns everything. A bad index is replaced by one that knows only `noted`; a second failure leaves just
/// these in memory.
fn exchange(dir: &Path, noted: Vec<Note>) -> Uses {
    match guarded(dir, noted.clone()) {
        Ok(uses) => uses,
        Err(reason) => {
            tracing::warn!(%reason, "the index was damaged and is made anew; nothing is lost but the times of last use");
            remove(dir);
            guarded(dir, noted.clone()).unwrap_or_else(|reason| {
                tracing::warn!(%reason, "there is no index; last uses are taken from the files");
                noted.into_iter().filter_map(|(name, at)| Some((name, at?))).collect()
            })
        }
    }
}

/// Runs sled on a thread that may panic; what is left of a panic is its text.
fn guarded(dir: &Path, noted: Vec<Note>) -> Result<Uses, String> {
    let dir = dir.to_owned();
    let thread = thread::Builder::new().name("index".to_owned());
    let running = thread.spawn(move || write_and_read(&dir, &noted).map_err(|error| error.to_string()));
    let running = running.map_err(|error| error.to_string())?;
    running.join().unwrap_or_else(|_| Err("sled panicked".to_owned()))
}

/// Opens the files. Whoever had them open last, in this process, may hold their lock a little longer: sled ends in the background,
/// and a child that was just forked has everything until it runs its program. That is no damage.
fn open(dir: &Path) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let mut left = LOCK_PATIENCE;
    loop {
        match config.open() {
            // It has no kind of its own.
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") && !left.is_zero() => {
                thread::sleep(LOCK_POLL);
                left = left.saturating_sub(LOCK_POLL);
            }
            opened => return opened,
        }
    }
}

fn write_and_read(dir: &Path, noted: &[Note]) -> sled::Result<Uses> {
    let db = open(dir)?;
    let mut batch = sled::Batch::default();
    for (name, at) in noted {
        match at {
            Some(at) => batch.insert(name.as_slice(), &at.to_le_bytes()),
            None => batch.remove(name.as_slice()),
        }
    }
    db.apply_batch(batch)?;
    let mut uses = Uses::new();
    for entry in db.iter() {
        let (name, at) = entry?;
        if let (Ok(name), Ok(at)) = (name.as_ref().try_into(), at.as_ref().try_into()) {
            uses.insert(name, u64::from_le_bytes(at));
        }
    }
    db.flush()?;
    Ok(uses)
}

fn remove(dir: &Path) {
    let removed = if dir.is_dir() {
        fs::remove_dir_all(dir)
    } else {
        fs::remove_file(dir)
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %dir.display(), %error, "the damaged index cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn index(dir: &Path, now: u64) -> Index {
        let now = AtomicU64::new(now);
        Index::new(dir.to_owned(), Arc::new(move || now.load(Ordering::Relaxed)))
    }

    fn thing(name: &str) -> Used {
        Used::Blob(Digest::of(name.as_bytes()))
    }

    #[test]
    fn uses_outlive_the_process_once_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let first = index(&path, 5);
        first.touch(thing("a"));
        first.flush();
        drop(first);
        let second = index(&path, 9);
        assert_eq!(second.last_use_ms(thing("a")), Some(5));
        assert_eq!(second.last_use_ms(thing("b")), None);
    }

    #[test]
    fn a_damaged_index_is_made_anew_and_nothing_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let first = index(&path, 5);
        first.touch(thing("a"));
        first.flush();
        drop(first);
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                let mut bytes = fs::read(&file).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
                fs::write(&file, bytes).unwrap();
            }
        }
        let second = index(&path, 9);
        assert_eq!(second.last_use_ms(thing("a")), None);
        second.touch(thing("b"));
        second.flush();
        drop(second);
        assert_eq!(index(&path, 10).last_use_ms(thing("b")), Some(9));
    }

    #[test]
    fn a_file_in_the_place_of_the_index_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        fs::write(&path, b"not a directory").unwrap();
        let index = index(&path, 3);
        index.touch(thing("a"));
        index.flush();
        assert!(path.is_dir());
    }
}
