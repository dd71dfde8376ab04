//! Leases: what a running build or client keeps alive.
//!
//! One process owns the store, so leases are in memory and end with it. Whatever a lease holds is not collected: the check
//! and the removal of a thing happen under one lock, so there is no moment between them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use proto::digest::{ChainId, DiffId, Digest};
use proto::record::CacheKey;

use crate::cache_mounts::MountName;
use crate::durable::lock;
use crate::index::{Index, Used};

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
}

/// All leases of this process.
#[derive(Debug)]
pub struct Leases {
    counts: Mutex<HashMap<Held, usize>>,
    index: Arc<Index>,
}

/// Holds things until it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    held: Mutex<HashSet<Held>>,
}

impl Leases {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self {
            counts: Mutex::default(),
            index,
        }
    }

    /// A lease that holds nothing yet.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Lease {
        Lease {
            leases: Arc::clone(self),
            held: Mutex::default(),
        }
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
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
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
