//! A persistent map from a key to a short, ordered list.

use std::hash::Hash;
use std::slice;

use rpds::HashTrieMapSync;

/// Meant for keys that nearly always have a single value. Within one update a list is changed in place; the first change
/// after a snapshot was taken copies it.
#[derive(Clone)]
pub(super) struct Multimap<K: Eq + Hash, V> {
    lists: HashTrieMapSync<K, List<V>>,
}

/// Never empty. A value that was always alone needs no allocation of its own.
#[derive(Clone)]
enum List<V> {
    One(V),
    Many(Vec<V>),
}

impl<K: Eq + Hash + Clone, V: Clone> Multimap<K, V> {
    /// The list of a key, empty if there is none.
    pub(super) fn get<Q>(&self, key: &Q) -> &[V]
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.lists.get(key).map_or(&[], List::as_slice)
    }

    /// Inserts before the first value of which `is_after` holds.
    pub(super) fn insert(&mut self, key: K, value: V, is_after: impl Fn(&V) -> bool) {
        let Some(list) = self.lists.get_mut(&key) else {
            return self.lists.insert_mut(key, List::One(value));
        };
        let values = list.as_slice();
        let index = values.iter().position(is_after).unwrap_or(values.len());
        list.insert(index, value);
    }

    /// Removes the values of which `leaves` holds.
    pub(super) fn remove(&mut self, key: &K, leaves: impl Fn(&V) -> bool) {
        if !self.get(key).iter().any(&leaves) {
            return; // so that no path is copied in vain
        }
        match self.lists.get_mut(key) {
            Some(List::Many(values)) if !values.iter().all(&leaves) => values.retain(|value| !leaves(value)),
            _ => {
                self.lists.remove_mut(key);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }
}

impl<V: Clone> List<V> {
    fn as_slice(&self) -> &[V] {
        match self {
            Self::One(value) => slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    fn insert(&mut self, index: usize, value: V) {
        match self {
            Self::One(other) => {
                let mut values = vec![other.clone()];
                values.insert(index, value);
                *self = Self::Many(values);
            }
            Self::Many(values) => values.insert(index, value),
        }
    }
}

impl<K: Eq + Hash, V> Default for Multimap<K, V> {
    fn default() -> Self {
        Self { lists: HashTrieMapSync::new_sync() }
    }
}
