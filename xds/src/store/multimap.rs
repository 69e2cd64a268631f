//! A persistent map from a key to a short, ordered list.

use std::hash::Hash;
use std::iter;
use std::sync::Arc;

use rpds::HashTrieMapSync;

/// Each list is replaced whole when it changes: meant for keys that nearly always have a single value.
#[derive(Clone)]
pub(super) struct Multimap<K: Eq + Hash, V> {
    lists: HashTrieMapSync<K, Arc<[V]>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Multimap<K, V> {
    /// The list of a key, empty if there is none.
    pub(super) fn get<Q>(&self, key: &Q) -> &[V]
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.lists.get(key).map_or(&[], |list| list)
    }

    /// Inserts before the first value of which `is_after` holds.
    pub(super) fn insert(&mut self, key: K, value: V, is_after: impl Fn(&V) -> bool) {
        let list = self.get(&key);
        let (before, after) = list.split_at(list.iter().position(is_after).unwrap_or(list.len()));
        let longer = before.iter().cloned().chain(iter::once(value)).chain(after.iter().cloned()).collect();
        self.lists.insert_mut(key, longer);
    }

    /// Removes the values of which `leaves` holds.
    pub(super) fn remove(&mut self, key: &K, leaves: impl Fn(&V) -> bool) {
        let list = self.get(key);
        let rest: Arc<[V]> = list.iter().filter(|value| !leaves(value)).cloned().collect();
        if rest.is_empty() {
            self.lists.remove_mut(key);
        } else if rest.len() != list.len() {
            self.lists.insert_mut(key.clone(), rest);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }
}

impl<K: Eq + Hash, V> Default for Multimap<K, V> {
    fn default() -> Self {
        Self { lists: HashTrieMapSync::new_sync() }
    }
}
