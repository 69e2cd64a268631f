//! The mesh as the proxy knows it.
//!
//! A [`Snapshot`] is immutable; the store holds the current one. A reader loads it without a lock and keeps a
//! consistent view for as long as it likes. A writer edits a copy and publishes it: an update is visible whole or not
//! at all. The maps are persistent, so the copy shares everything that the update does not touch: changing one
//! workload among 100,000 costs a few dozen small nodes.

mod multimap;
mod policies;
mod services;
mod snapshot;
mod workloads;

pub use policies::AppliedPolicy;
pub use snapshot::{Dump, Snapshot};

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use crate::resource::{Authorization, NamespacedHostname, Service, Workload};

/// A handle on the current [`Snapshot`]; its clones share it.
#[derive(Clone, Default)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    current: ArcSwap<Snapshot>,
    /// Held while a writer edits, so that no update is lost. Readers never take it.
    writer: Mutex<()>,
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current snapshot, lock-free. Hold the guard for one decision; to keep the snapshot longer, clone the `Arc`.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.shared.current.load()
    }

    /// Applies changes as one update: readers see all of them or none. Concurrent updates run one after the other.
    /// If `changes` panics nothing becomes visible.
    pub fn update<R>(&self, changes: impl FnOnce(&mut Edit) -> R) -> R {
        // The guarded value is `()`, so a panic of an earlier writer cannot have left it inconsistent.
        let _writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut edit = Edit { next: Snapshot::clone(&self.load()) };
        let result = changes(&mut edit);
        edit.next.generation += 1;
        self.shared.current.store(Arc::new(edit.next));
        result
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&*self.load()).finish()
    }
}

/// An update in the making; see [`Store::update`].
pub struct Edit {
    next: Snapshot,
}

impl Edit {
    /// Inserts a workload, in place of an earlier one of the same uid.
    pub fn insert_workload(&mut self, workload: impl Into<Arc<Workload>>) {
        self.next.workloads.insert(workload.into());
    }

    /// Inserts a service, in place of an earlier one of the same key. It has at once the endpoints that name it,
    /// whether they came before or come after.
    pub fn insert_service(&mut self, service: impl Into<Arc<Service>>) {
        self.next.services.insert(service.into());
    }

    /// Inserts a policy, in place of an earlier one of the same key.
    pub fn insert_policy(&mut self, policy: impl Into<Arc<Authorization>>) {
        self.next.policies.insert(policy.into());
    }

    /// Removes what an Address resource of this name stood for: a workload by its uid, else a service by
    /// `namespace/hostname`. Says whether there was one.
    pub fn remove_address(&mut self, name: &str) -> bool {
        self.next.workloads.remove(name)
            || name.parse::<NamespacedHostname>().is_ok_and(|key| self.next.services.remove(&key))
    }

    /// Removes a policy by `namespace/name`. Says whether there was one.
    pub fn remove_policy(&mut self, key: &str) -> bool {
        self.next.policies.remove(key)
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.next = Snapshot { generation: self.next.generation, ..Snapshot::default() };
    }

    /// The mesh as it will be once the update is published.
    pub fn snapshot(&self) -> &Snapshot {
        &self.next
    }
}

#[cfg(test)]
mod tests;
