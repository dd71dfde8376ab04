//! How much the store may hold: the limit that is asked before bytes are written, and a guess of what it holds that costs
//! nothing.
//!
//! The limit counts files from their first byte and snapshots when they are committed; what steps write meanwhile, and into
//! cache mounts, is found by the next measurement. Downloads, and copies that fill a mount, are counted while they last, by a
//! [`Charge`]; archives that `ADD` unpacks are not: their own limits bound them, and their layer is counted beside them. Measuring walks the whole store, so its result is kept in the file `usage`
//! with the room that was free at that time: whatever the store grew by is missing there now. Others may have made room on the
//! same disk meanwhile, so what was written here is counted, too, and the larger of both is believed.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::durable::Disk;

/// What a file takes at least.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// After so long a measurement is not believed any more: others may have made room on the same disk.
const BELIEVED_MS: u64 = 24 * 3_600_000;
const FILE: &str = "usage";

/// A size, absolute or as a part of the store's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system, 0 to 100.
    Percent(u8),
}

impl Amount {
    /// In bytes, on a file system of `total_bytes`.
    #[must_use]
    pub fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total_bytes / 100 * u64::from(percent.min(100)),
        }
    }
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What is free for everybody.
    pub free_bytes: u64,
    /// What root can still write.
    pub left_bytes: u64,
}

impl Space {
    /// The room on the file system of `dir`.
    ///
    /// # Errors
    /// What the system reports.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let facts = rustix::fs::statvfs(dir)?;
        Ok(Self {
            total_bytes: facts.f_blocks.saturating_mul(facts.f_frsize),
            free_bytes: facts.f_bavail.saturating_mul(facts.f_frsize),
            left_bytes: facts.f_bfree.saturating_mul(facts.f_frsize),
        })
    }
}

/// The store is as large as it may be; inside of an [`io::Error`] of the kind [`io::ErrorKind::StorageFull`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store has reached its limit of {limit_bytes} bytes")]
pub struct OverLimit {
    /// What it may hold.
    pub limit_bytes: u64,
}

/// The limit of a store, what is used of it, and what was written since the store was measured.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
    grown_bytes: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            limit_bytes: AtomicU64::new(u64::MAX),
            used_bytes: AtomicU64::new(0),
            grown_bytes: AtomicU64::new(0),
        }
    }
}

impl Budget {
    /// From now on the store may hold `limit_bytes`, and holds `used_bytes` already.
    pub fn limit_to(&self, limit_bytes: u64, used_bytes: u64) {
        self.used_bytes.store(used_bytes, Ordering::Relaxed);
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Whether there is a limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limit_bytes.load(Ordering::Relaxed) != u64::MAX
    }

    /// What is used, by a measurement.
    pub fn correct(&self, used_bytes: u64) {
        self.used_bytes.store(used_bytes, Ordering::Relaxed);
        self.grown_bytes.store(0, Ordering::Relaxed);
    }

    /// Takes `bytes` of what is left.
    ///
    /// # Errors
    /// [`OverLimit`], if less is left.
    pub fn charge(&self, bytes: u64) -> io::Result<()> {
        let limit_bytes = self.limit_bytes.load(Ordering::Relaxed);
        if limit_bytes == u64::MAX {
            self.grown_bytes.fetch_add(bytes, Ordering::Relaxed);
            return Ok(());
        }
        let charged = self
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= limit_bytes)
            });
        if charged.is_err() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, OverLimit { limit_bytes }));
        }
        self.grown_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives `bytes` back.
    pub fn refund(&self, bytes: u64) {
        less(&self.grown_bytes, bytes);
        if self.is_limited() {
            less(&self.used_bytes, bytes);
        }
    }

    fn grown(&self) -> u64 {
        self.grown_bytes.load(Ordering::Relaxed)
    }
}

/// What was charged for a file without a name, or one that will be removed; given back when this is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Nothing yet.
    #[must_use]
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Takes further `bytes`.
    ///
    /// # Errors
    /// [`OverLimit`], if less is left.
    pub fn add(&mut self, bytes: u64) -> io::Result<()> {
        self.budget.charge(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives everything back: the file is empty again.
    pub fn clear(&mut self) {
        self.budget.refund(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

fn less(counter: &AtomicU64, bytes: u64) {
    let subtract = |before: u64| Some(before.saturating_sub(bytes));
    let changed = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract);
    debug_assert!(changed.is_ok(), "the closure never refuses");
}

/// What the last measurement found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) used_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) at_ms: u64,
    /// What the last automatic collection could not make smaller; 0 if it could.
    pub(crate) stuck_bytes: u64,
}

/// What the store holds, by a measurement and what became of the free room since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guess {
    /// In allocated bytes.
    pub used_bytes: u64,
    /// What the last automatic collection could not make smaller; 0 if it could.
    pub stuck_bytes: u64,
}

impl Measured {
    /// Nothing if the store was never measured, or too long ago.
    pub(crate) fn guess(disk: &Disk, now_ms: u64) -> io::Result<Option<Guess>> {
        let Some(measured) = Self::read(disk)? else {
            return Ok(None);
        };
        let missing = measured.free_bytes.saturating_sub(Space::of(disk.root())?.free_bytes);
        let believed = now_ms.checked_sub(measured.at_ms).is_some_and(|age| age < BELIEVED_MS);
        Ok(believed.then(|| Guess {
            used_bytes: measured.used_bytes + missing.max(disk.budget().grown()),
            stuck_bytes: measured.stuck_bytes,
        }))
    }

    /// Adds what was written since to the measurement, for the next process.
    pub(crate) fn note_growth(disk: &Disk) -> io::Result<()> {
        let grown_bytes = disk.budget().grown();
        match Self::read(disk)? {
            Some(measured) if grown_bytes > 0 => Self {
                used_bytes: measured.used_bytes + grown_bytes,
                free_bytes: measured.free_bytes.saturating_sub(grown_bytes),
                ..measured
            }
            .keep(disk),
            _ => Ok(()),
        }
    }

    fn read(disk: &Disk) -> io::Result<Option<Self>> {
        match fs::read_to_string(disk.root().join(FILE)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Only a hint, so nothing is synced.
    pub(crate) fn keep(self, disk: &Disk) -> io::Result<()> {
        let Self {
            used_bytes,
            free_bytes,
            at_ms,
            stuck_bytes,
        } = self;
        let text = format!("{used_bytes} {free_bytes} {at_ms} {stuck_bytes}\n");
        disk.write_uncounted(FILE, text.as_bytes())
    }

    fn parse(text: &str) -> Option<Self> {
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        // A file that a loss of power emptied says nothing, and the store is measured.
        let [used_bytes, free_bytes, at_ms, stuck_bytes] = numbers.ok()?.try_into().ok()?;
        Some(Self {
            used_bytes,
            free_bytes,
            at_ms,
            stuck_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_charged_beyond_the_limit() {
        let budget = Budget::default();
        budget.charge(100).unwrap();
        budget.refund(1);
        assert_eq!(budget.grown(), 99, "counted without a limit, too");
        budget.limit_to(10, 4);
        budget.charge(6).unwrap();
        let error = budget.charge(1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let inner = error.get_ref().unwrap().downcast_ref();
        assert_eq!(inner, Some(&OverLimit { limit_bytes: 10 }));
        budget.refund(3);
        budget.charge(3).unwrap();
        budget.correct(0);
        budget.charge(10).unwrap();
    }

    #[test]
    fn what_a_file_without_a_name_takes_is_given_back() {
        let budget = Arc::new(Budget::default());
        budget.limit_to(10, 0);
        let mut charge = Charge::new(&budget);
        charge.add(6).unwrap();
        assert!(charge.add(5).is_err());
        assert!(budget.charge(5).is_err());
        charge.clear();
        charge.add(10).unwrap();
        drop(charge);
        budget.charge(10).unwrap();
    }

    #[test]
    fn amounts_are_bytes_or_parts() {
        assert_eq!(Amount::Bytes(7).of(1000), 7);
        assert_eq!(Amount::Percent(60).of(1000), 600);
        assert_eq!(Amount::Percent(200).of(1000), 1000);
    }

    #[test]
    fn a_torn_measurement_is_none() {
        assert_eq!(Measured::parse("1 2 3"), None);
        assert_eq!(Measured::parse(""), None);
        assert!(Measured::parse("1 2 3 4\n").is_some());
    }
}
