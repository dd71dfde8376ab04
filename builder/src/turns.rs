//! One at a time for each key: equal work of concurrent builds is done by one of them, while the others wait and then find it done.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Turns for keys of one kind.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    locks: Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            locks: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits until nobody else has the turn for `key`. It ends when the guard is dropped, however the work ended.
    pub(crate) async fn take(&self, key: K) -> OwnedMutexGuard<()> {
        self.lock(key).lock_owned().await
    }

    fn lock(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_waited_for_and_leaves_nothing() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").await;
        drop(turns.take("b").await);
        let second = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { drop(turns.take("a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap();
        drop(turns.take("c").await);
        assert_eq!(turns.locks.lock().unwrap().len(), 1);
    }
}
