//! Room in the store: what the server collects by itself, and what happens when there is none left.
//!
//! After a build the store is compared with the [`Marks`], by a guess that costs nothing; only beyond them, and once a day, is
//! it looked through. Where bytes do not fit, what nobody uses is collected once and the build goes on; if that gave nothing,
//! this build fails and the others go on.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cache::blob::BlobError;
use cache::budget::{Amount, Guess, OverLimit, Space};
use cache::durable::WriteError;
use cache::gc::{FoundSnapshot, Freed, GcError, Policy, Removal, SnapshotSweep};
use cache::store::Store;
use proto::digest::ChainId;
use tokio::sync::Mutex;

use crate::blocking;
use crate::layers::Layers;
use crate::request::BuildError;
use crate::snapshot::{SnapshotInfo, Snapshotter};

/// Most that the store keeps unless told otherwise, on large disks.
const KEEP_BYTES: u64 = 100 << 30;
/// What the store may have unless told otherwise, on large disks.
const RESERVED_BYTES: u64 = 10 << 30;
/// What stays free on the disk unless told otherwise, if it is large.
const MIN_FREE_BYTES: u64 = 20 << 30;
/// After so long things go unless told otherwise: sixty days.
const MAX_AGE: Duration = Duration::from_secs(60 * 24 * 3600);
/// What a build that found no room gets at least, if there is so much to collect.
const ROOM_BYTES: u64 = 1 << 30;
/// Most that is kept of what failed steps left.
const KEPT_BYTES: u64 = 5 << 30;
/// And the part of the limit, or of the disk, that it may be.
const KEPT_PERCENT: u8 = 10;
/// With less than this the disk counts as full: not even metadata of file systems fits.
const FULL_BYTES: u64 = 1 << 20;

/// When the server collects by itself. What is not said has a default that depends on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Collect when the store is larger: by default 60 % of its disk, at most 100 GiB.
    pub keep: Option<Amount>,
    /// Collect when less is free on the disk: by default 10 % of it, at most 20 GiB.
    pub min_free: Option<Amount>,
    /// But never make the store smaller than this: by default 10 % of its disk, at most 10 GiB.
    pub reserved: Option<Amount>,
    /// Collect what was not used for longer: by default 60 days.
    pub max_age: Option<Duration>,
    /// Refuse to let the store be larger: by default its disk is the limit.
    pub limit: Option<Amount>,
}

/// The marks on one disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    keep_bytes: u64,
    min_free_bytes: u64,
    reserved_bytes: u64,
    max_age_ms: u64,
}

impl Marks {
    fn on(&self, total_bytes: u64) -> Rule {
        let or = |amount: Option<Amount>, percent: u8, most: u64| match amount {
            Some(amount) => amount.of(total_bytes),
            None => Amount::Percent(percent).of(total_bytes).min(most),
        };
        let max_age = self.max_age.unwrap_or(MAX_AGE);
        Rule {
            keep_bytes: or(self.keep, 60, KEEP_BYTES),
            min_free_bytes: or(self.min_free, 10, MIN_FREE_BYTES),
            reserved_bytes: or(self.reserved, 10, RESERVED_BYTES),
            max_age_ms: u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Rule {
    /// How small the store should be made; nothing if it is small enough, or was found to get no smaller.
    fn target(&self, guess: Guess, free_bytes: u64) -> Option<u64> {
        let used = guess.used_bytes;
        let stuck = guess.stuck_bytes;
        let missing = self.min_free_bytes.saturating_sub(free_bytes);
        let over_keep = used > self.keep_bytes;
        let over_free = missing > 0 && used > self.reserved_bytes;
        let grew = used > stuck.saturating_add(stuck / 20);
        if !(over_keep || over_free) || !grew {
            return None;
        }
        // A tenth below the mark, so that not every build collects.
        let by_size = if over_keep {
            self.keep_bytes - self.keep_bytes / 10
        } else {
            used
        };
        let by_room = used.saturating_sub(missing.saturating_add(missing / 10));
        Some(by_size.min(by_room).max(self.reserved_bytes).max(1))
    }

    fn policy(&self, keep_bytes: u64) -> Policy {
        Policy {
            keep_bytes,
            reserved_bytes: self.reserved_bytes,
            max_age_ms: Some(self.max_age_ms),
            // What was used last is the last to go anyway; a store that only grows for an hour may fill a disk.
            all: true,
            filters: Vec::new(),
        }
    }
}

/// The room of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Room {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    layers: Layers,
    marks: Marks,
    /// Most bytes of what failed steps left.
    kept_bytes: u64,
    /// One collection at a time.
    collecting: Mutex<()>,
    /// How often room was made for builds that had none.
    made: AtomicU64,
}

/// Snapshots, as collection sees them.
#[derive(Debug)]
pub struct SnapshotsOf<'a>(pub &'a Layers);

impl SnapshotSweep for SnapshotsOf<'_> {
    fn list(&self) -> Vec<FoundSnapshot> {
        let snapshots = self.0.snapshots();
        let found = |info: SnapshotInfo| FoundSnapshot {
            chain: info.chain,
            bytes: info.disk_bytes,
            created_ms: snapshots.committed_ms(&info.chain),
        };
        match snapshots.list() {
            Ok(infos) => infos.into_iter().map(found).collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot list snapshots: none of them is collected");
                Vec::new()
            }
        }
    }

    fn take_away(&self, chain: ChainId) -> io::Result<Removal<'_>> {
        let snapshots = self.0.snapshots();
        let hidden = snapshots.hide(&chain).map_err(io::Error::other)?;
        Ok(Box::new(move || {
            snapshots.remove_hidden(hidden).map_err(io::Error::other)
        }))
    }
}

impl Room {
    /// The room of `store`. A limit holds from now on; for it the store is measured.
    ///
    /// # Errors
    /// When the store cannot be looked through.
    pub fn new(store: &Arc<Store>, layers: &Layers, marks: Marks) -> io::Result<Self> {
        let total_bytes = Space::of(store.root())?.total_bytes;
        if let Some(limit) = marks.limit {
            let used_bytes = store.measure_usage()?.used_bytes;
            store.budget().limit_to(limit.of(total_bytes), used_bytes);
        }
        let most_bytes = marks.limit.map_or(total_bytes, |limit| limit.of(total_bytes));
        Ok(Self {
            inner: Arc::new(Inner {
                store: Arc::clone(store),
                layers: layers.clone(),
                marks,
                kept_bytes: Amount::Percent(KEPT_PERCENT).of(most_bytes).min(KEPT_BYTES),
                collecting: Mutex::default(),
                made: AtomicU64::new(0),
            }),
        })
    }

    /// Collects by `policy`. Blocks.
    ///
    /// # Errors
    /// When the store cannot be looked through.
    pub fn collect(&self, policy: &Policy) -> Result<Freed, GcError> {
        let inner = &self.inner;
        inner.layers.remove_set_aside();
        inner.store.gc(policy, Some(&SnapshotsOf(&inner.layers)))
    }

    /// Collects if the store is beyond its marks. A failure is a line of the log: the next build tries again.
    pub async fn after_build(&self) {
        if self.inner.layers.has_set_aside() {
            let layers = self.inner.layers.clone();
            let removed = blocking::run(move || {
                layers.remove_set_aside();
                Ok(())
            });
            // It fails only when the server ends, and the next one removes them.
            drop(removed.await);
        }
        // Whoever collects now sees what this build left, or the next build does.
        let Ok(_alone) = self.inner.collecting.try_lock() else {
            return;
        };
        let room = self.clone();
        let done = blocking::run(move || room.check().map_err(|error| crate::layers::store_failed(&error))).await;
        if let Err(error) = done {
            tracing::warn!(%error, "the store was not collected");
        }
    }

    /// How much is kept of what failed steps left, the newest first.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.inner.kept_bytes
    }

    fn check(&self) -> Result<(), GcError> {
        let store = &self.inner.store;
        store.kept().expire().map_err(GcError::List)?;
        let space = Space::of(store.root()).map_err(GcError::List)?;
        let rule = self.inner.marks.on(space.total_bytes);
        let guess = store.guess_usage().map_err(GcError::List)?;
        let is_due = guess.is_none();
        let guess = match guess {
            // A limit is worth exact numbers: cache mounts grew without asking.
            Some(guess) if !store.budget().is_limited() => guess,
            _ => store.measure_usage().map_err(GcError::List)?,
        };
        let target = match rule.target(guess, space.free_bytes) {
            Some(target) => target,
            None if is_due => rule.keep_bytes,
            None => return Ok(()),
        };
        let freed = self.collect(&rule.policy(target))?;
        let left = freed.before_bytes.saturating_sub(freed.bytes);
        if left > target {
            // The rest is held by images: no use in looking again before there is more.
            store.measured(left, left).map_err(GcError::List)?;
        }
        tracing::info!(freed_bytes = freed.bytes, left_bytes = left, "collected");
        Ok(())
    }

    /// Makes room for a build that found none. Returns whether there is more than before, so that it is worth another try.
    ///
    /// # Errors
    /// When the store cannot be looked through.
    pub async fn make(&self) -> Result<bool, BuildError> {
        let made = self.inner.made.load(Ordering::Acquire);
        let _alone = self.inner.collecting.lock().await;
        if self.inner.made.load(Ordering::Acquire) != made {
            // Another build had the same trouble, and what was done for it helps this one too.
            return Ok(true);
        }
        let room = self.clone();
        let freed = blocking::run(move || {
            let failed =
                |error: &dyn Error| BuildError::environment(format!("no room can be made in the store: {error}"));
            let used = room
                .inner
                .store
                .measure_usage()
                .map_err(|error| failed(&error))?
                .used_bytes;
            let policy = Policy {
                keep_bytes: used.saturating_sub(ROOM_BYTES.max(used / 10)).max(1),
                all: true,
                ..Policy::default()
            };
            room.collect(&policy).map_err(|error| failed(&error))
        });
        let freed = freed.await?;
        tracing::warn!(
            freed_bytes = freed.bytes,
            "the disk or the store is full: collected what nobody uses"
        );
        if freed.bytes > 0 {
            self.inner.made.fetch_add(1, Ordering::Release);
        }
        Ok(freed.bytes > 0)
    }

    /// Whether the disk of the store is full. One that cannot be asked is not: whoever writes finds out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        Space::of(self.inner.store.root()).is_ok_and(|space| space.left_bytes < FULL_BYTES)
    }
}

/// The failure of a build that found no room, if that is what `error` tells of.
#[must_use]
pub fn no_room(error: &(dyn Error + 'static)) -> Option<BuildError> {
    Some(match shortage(error)? {
        Shortage::Limit(limit) => full(BuildError::environment(limit.to_string()))
            .help("or let it be larger: `rbuild serve --max-storage`, RBUILD_MAX_STORAGE"),
        Shortage::Disk => {
            full(BuildError::environment(error.to_string()).note("No space left on device, on the disk of the store"))
        }
    })
}

/// Marks a failure as one of a full disk, and says what to do about it.
#[must_use]
pub fn full(mut error: BuildError) -> BuildError {
    error.full = true;
    error.help("make room: `rbuild prune --all` drops what no image needs, `rbuild rmi` removes images, `rbuild du` shows what is there")
}

enum Shortage {
    Limit(OverLimit),
    Disk,
}

/// Looks at an error, at what is inside of it, and at its causes.
fn shortage(error: &(dyn Error + 'static)) -> Option<Shortage> {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    use rustix::io::Errno;
    let found = if let Some(limit) = error.downcast_ref::<OverLimit>() {
        Some(Shortage::Limit(*limit))
    } else if let Some(error) = error.downcast_ref::<WriteError>() {
        match error {
            WriteError::OverLimit { limit, .. } => Some(Shortage::Limit(*limit)),
            WriteError::NoSpace { .. } => Some(Shortage::Disk),
            WriteError::Io { .. } => None,
        }
    } else if let Some(BlobError::Write(error)) = error.downcast_ref() {
        shortage(error)
    } else if let Some(error) = error.downcast_ref::<io::Error>() {
        let inner = error.get_ref().and_then(|inner| shortage(inner));
        inner.or_else(|| matches!(error.kind(), StorageFull | QuotaExceeded).then_some(Shortage::Disk))
    } else {
        matches!(error.downcast_ref(), Some(&(Errno::NOSPC | Errno::DQUOT))).then_some(Shortage::Disk)
    };
    found.or_else(|| shortage(error.source()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn guess(used: u64, stuck: u64) -> Guess {
        Guess {
            used_bytes: used,
            stuck_bytes: stuck,
        }
    }

    #[test]
    fn defaults_are_parts_of_small_disks_and_sizes_on_large_ones() {
        let small = Marks::default().on(50 * GIB);
        assert_eq!(small.keep_bytes, 30 * GIB);
        assert_eq!(small.min_free_bytes, 5 * GIB);
        let large = Marks::default().on(4000 * GIB);
        assert_eq!((large.keep_bytes, large.reserved_bytes), (100 * GIB, 10 * GIB));
        assert_eq!(large.min_free_bytes, 20 * GIB);
        let said = Marks {
            keep: Some(Amount::Bytes(7)),
            ..Marks::default()
        };
        assert_eq!(said.on(GIB).keep_bytes, 7);
    }

    #[test]
    fn a_store_beyond_a_mark_is_made_smaller_but_not_below_what_is_reserved() {
        let rule = Rule {
            keep_bytes: 100,
            min_free_bytes: 50,
            reserved_bytes: 20,
            max_age_ms: 1,
        };
        assert_eq!(rule.target(guess(100, 0), 50), None);
        assert_eq!(rule.target(guess(101, 0), 50), Some(90));
        assert_eq!(rule.target(guess(80, 0), 30), Some(58));
        assert_eq!(rule.target(guess(30, 0), 0), Some(20));
        assert_eq!(rule.target(guess(20, 0), 0), None);
        assert_eq!(rule.target(guess(120, 118), 50), None, "images hold it");
        assert_eq!(rule.target(guess(130, 118), 50), Some(90));
    }

    #[test]
    fn full_disks_are_recognised_however_deep() {
        let full = WriteError::NoSpace {
            needed_bytes: 1,
            path: "/x".into(),
        };
        let inside = BlobError::Write(full);
        assert!(no_room(&inside).unwrap().full);
        let limit = io::Error::new(io::ErrorKind::StorageFull, OverLimit { limit_bytes: 9 });
        let limit = io::Error::from(BlobError::Write(WriteError::new("/x".as_ref(), 1, limit)));
        let error = no_room(&limit).unwrap();
        assert!(error.message.contains("limit of 9 bytes"), "{}", error.message);
        assert!(no_room(&rustix::io::Errno::NOSPC).unwrap().full);
        assert!(no_room(&rustix::io::Errno::NOENT).is_none());
    }
}
