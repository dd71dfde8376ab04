//! Values that are kept in memory while there is room: those that were used last.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Values under keys, each with a weight, up to a limit of all weights together.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    values: HashMap<K, (V, usize)>,
    /// The longest unused first.
    order: VecDeque<K>,
    weight: usize,
    limit: usize,
}

impl<K: Copy + Eq + Hash, V: Clone> Recent<K, V> {
    /// Room for so much weight.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            values: HashMap::new(),
            order: VecDeque::new(),
            weight: 0,
            limit,
        }
    }

    /// The value, if it is kept. From now on it is the one that was used last.
    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let value = self.values.get(key)?.0.clone();
        self.order.retain(|other| other != key);
        self.order.push_back(*key);
        Some(value)
    }

    /// Keeps a value as the one that was used last, instead of one with the same key; others go for it. One that is too heavy by
    /// itself is not kept.
    pub(crate) fn keep(&mut self, key: K, value: V, weight: usize) {
        if weight > self.limit {
            return;
        }
        self.order.retain(|other| *other != key);
        self.forget(&key);
        while self.weight + weight > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.forget(&oldest);
        }
        self.values.insert(key, (value, weight));
        self.order.push_back(key);
        self.weight += weight;
    }

    /// All of them, the longest unused first.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        let values = self.order.iter().filter_map(|key| self.values.get(key));
        values.map(|(value, _)| value)
    }

    fn forget(&mut self, key: &K) {
        self.weight -= self.values.remove(key).map_or(0, |(_, weight)| weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let mut recent = Recent::new(10);
        for key in ["a", "b", "c"] {
            recent.keep(key, key, 3);
        }
        assert_eq!(recent.get(&"a"), Some("a"));
        recent.keep("d", "d", 3);
        assert_eq!(recent.get(&"b"), None);
        assert_eq!(recent.values().collect::<Vec<_>>(), [&"c", &"a", &"d"]);
        assert_eq!(recent.weight, 9);
    }

    #[test]
    fn one_key_has_one_value_and_weighs_once() {
        let mut recent = Recent::new(10);
        recent.keep("a", 1, 4);
        recent.keep("b", 2, 4);
        recent.keep("a", 3, 6);
        assert_eq!(recent.values().collect::<Vec<_>>(), [&2, &3]);
        assert_eq!(recent.weight, 10);
    }

    #[test]
    fn what_is_too_heavy_takes_nothing_away() {
        let mut recent = Recent::new(10);
        recent.keep("a", 1, 10);
        recent.keep("b", 2, 11);
        assert_eq!((recent.get(&"a"), recent.get(&"b")), (Some(1), None));
    }
}
