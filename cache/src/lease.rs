//! Leases: what a running build or client keeps alive.
//!
//! One process owns the store, so leases are in memory and end with it. Whatever a lease holds is not collected: the check
//! and the removal of a thing happen under one lock, so there is no moment between them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use proto::digest::{ChainId, DiffId, Digest};
use proto::record::CacheKey;

use crate::cache_mounts::MountName;
use crate::durable::lock;
use crate::index::{Index, Used};
use crate::kept::KeptName;

/// A thing that a lease can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Held {
    /// A blob.
    Blob(Digest),
    /// A record, with the forms, tree and snapshot it leads to.
    Record(CacheKey),
    /// A snapshot.
    Chain(ChainId),
    /// The tree and the further forms of a layer.
    Layer(DiffId),
    /// A cache mount.
    CacheMount(MountName),
    /// What a failed step left.
    Kept(KeptName),
}

/// All leases of this process.
#[derive(Debug)]
pub struct Leases {
    counts: Mutex<HashMap<Held, usize>>,
    taken: Mutex<Taken>,
    index: Arc<Index>,
}

/// Which leases there are, by the order in which they were taken.
#[derive(Debug, Default)]
struct Taken {
    next: u64,
    live: BTreeSet<u64>,
}

/// A moment in the life of a store, by which leases there were; no clock is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Holds things until it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    number: u64,
    held: Mutex<HashSet<Held>>,
}

impl Leases {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self {
            counts: Mutex::default(),
            taken: Mutex::default(),
            index,
        }
    }

    /// A lease that holds nothing yet.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Lease {
        let mut taken = lock(&self.taken);
        let number = taken.next;
        taken.next += 1;
        taken.live.insert(number);
        Lease {
            leases: Arc::clone(self),
            number,
            held: Mutex::default(),
        }
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(lock(&self.taken).next)
    }

    /// Whether every lease that was there at `moment` has ended: what only their holders knew of, nobody knows of any more.
    #[must_use]
    pub fn all_ended_since(&self, moment: Moment) -> bool {
        lock(&self.taken).live.first().is_none_or(|oldest| *oldest >= moment.0)
    }

    /// Everything that is held now.
    #[must_use]
    pub fn held(&self) -> HashSet<Held> {
        lock(&self.counts).keys().copied().collect()
    }

    /// Runs `remove` unless one of `things` is held; nobody can take hold of them meanwhile.
    pub(crate) fn unless_held<T>(&self, things: &[Held], remove: impl FnOnce() -> T) -> Option<T> {
        let counts = lock(&self.counts);
        let free = !things.iter().any(|thing| counts.contains_key(thing));
        free.then(remove)
    }
}

impl Lease {
    /// Holds `thing`, whether it is there yet or not. To use what is there: hold it first, then look it up.
    pub fn hold(&self, thing: Held) {
        if lock(&self.held).insert(thing) {
            *lock(&self.leases.counts).entry(thing).or_default() += 1;
        }
        match thing {
            Held::Blob(digest) => self.leases.index.touch(Used::Blob(digest)),
            Held::Record(key) => self.leases.index.touch(Used::Record(key)),
            Held::Chain(chain) => self.leases.index.touch(Used::Chain(chain)),
            Held::Layer(diff_id) => self.leases.index.touch(Used::Blob(diff_id.0)),
            Held::CacheMount(name) => self.leases.index.touch(Used::CacheMount(name)),
            // It goes by the time when it was kept, however often it was looked into.
            Held::Kept(_) => {}
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.leases.taken).live.remove(&self.number);
        let mut counts = lock(&self.leases.counts);
        for thing in lock(&self.held).drain() {
            if let Some(count) = counts.get_mut(&thing) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&thing);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_over_when_all_its_leases_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let index = Arc::new(Index::new(dir.path().to_owned(), Arc::new(|| 0)));
        let leases = Arc::new(Leases::new(index));
        let before = leases.now();
        let (first, second) = (leases.take(), leases.take());
        let moment = leases.now();
        let later = leases.take();
        assert!(leases.all_ended_since(before), "there was none then");
        drop(second);
        assert!(!leases.all_ended_since(moment));
        drop(first);
        assert!(leases.all_ended_since(moment), "the one that is left came later");
        drop(later);
    }
}
