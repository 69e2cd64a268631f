//! The mesh as the proxy knows it.
//!
//! A [`Snapshot`] is immutable; the store holds the current one. A reader loads it without a lock and keeps a
//! consistent view for as long as it likes. A writer edits a copy and publishes it: an update is visible whole or not
//! at all. The maps are persistent, so the copy shares everything that the update does not touch: changing one
//! workload among 100,000 costs a few dozen small nodes.

mod multimap;
mod policies;
mod refused;
mod services;
mod snapshot;
mod update;
mod workloads;

pub use policies::AppliedPolicy;
pub use refused::{RefusedPolicy, Tombstone};
pub use snapshot::{Dump, Snapshot};
pub use update::Update;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

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
    /// Tells the generation of `current`, once it is the current one.
    generation: watch::Sender<u64>,
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

    /// Tells the generation of each snapshot that is published; of several in a row perhaps only the last.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// Applies changes as one update: readers see all of them or none. Concurrent updates run one after the other.
    /// If `changes` panics nothing becomes visible.
    pub fn update<R>(&self, changes: impl FnOnce(&mut Edit) -> R) -> R {
        // The guarded value is `()`, so a panic of an earlier writer cannot have left it inconsistent.
        let _writer = self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut edit = Edit { next: Snapshot::clone(&self.load()) };
        let result = changes(&mut edit);
        edit.next.generation += 1;
        let generation = edit.next.generation;
        self.shared.current.store(Arc::new(edit.next));
        self.shared.generation.send_replace(generation);
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
    /// Inserts a workload, in place of an earlier one of the same uid, or of its tombstone.
    pub fn insert_workload(&mut self, workload: impl Into<Arc<Workload>>) {
        let workload = workload.into();
        self.next.tombstones.remove(&workload.uid);
        self.next.workloads.insert(workload);
    }

    /// Inserts a service, in place of an earlier one of the same key, or of its tombstone. It has at once the endpoints
    /// that name it, whether they came before or come after.
    pub fn insert_service(&mut self, service: impl Into<Arc<Service>>) {
        let service = service.into();
        if !self.next.tombstones.is_empty() {
            self.next.tombstones.remove(&service.key().to_string());
        }
        self.next.services.insert(service);
    }

    /// Inserts a policy, in place of an earlier one of the same key, or of what is left of a refused one.
    pub fn insert_policy(&mut self, policy: impl Into<Arc<Authorization>>) {
        let changed = self.next.policies.insert(policy.into());
        self.count_policy_change(changed);
    }

    /// Marks the addresses of a resource that was refused, unless a good version of it is known: that stays. A good
    /// version or a removal that comes later clears the mark.
    pub fn refuse_address(&mut self, tombstone: impl Into<Arc<Tombstone>>) {
        let tombstone = tombstone.into();
        let name = &*tombstone.name;
        let service = || name.parse().ok().and_then(|key| self.next.services.by_key(&key));
        if self.next.workloads.by_uid(name).is_none() && service().is_none() {
            self.next.tombstones.insert(tombstone);
        }
    }

    /// Denies everything that a refused policy may have been meant for, unless a good version of it is known: that
    /// stays. A good version or a removal that comes later ends it. A policy without a key is not kept, since neither
    /// could come.
    pub fn refuse_policy(&mut self, policy: impl Into<Arc<RefusedPolicy>>) {
        let changed = self.next.policies.refuse(policy.into());
        self.count_policy_change(changed);
    }

    /// Removes what an Address resource of this name stood for: a workload by its uid, else a service by
    /// `namespace/hostname`; or what was left of it when it was refused. Says whether there was something.
    pub fn remove_address(&mut self, name: &str) -> bool {
        self.next.workloads.remove(name)
            || name.parse::<NamespacedHostname>().is_ok_and(|key| self.next.services.remove(&key))
            || self.next.tombstones.remove(name)
    }

    /// Removes a policy by `namespace/name`, or what was left of it when it was refused. Says whether there was
    /// something.
    pub fn remove_policy(&mut self, key: &str) -> bool {
        let changed = self.next.policies.remove(key);
        self.count_policy_change(changed);
        changed
    }

    /// Notes that the control plane was asked for this name and has answered, whether it exists or not.
    pub fn answer(&mut self, name: impl Into<Arc<str>>) {
        self.next.answered.insert_mut(name.into());
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        let (generation, policy_generation) = (self.next.generation, self.next.policy_generation);
        let had_policies = !self.next.policies.is_empty();
        self.next = Snapshot { generation, policy_generation, ..Snapshot::default() };
        self.count_policy_change(had_policies);
    }

    /// The mesh as it will be once the update is published.
    pub fn snapshot(&self) -> &Snapshot {
        &self.next
    }

    fn count_policy_change(&mut self, changed: bool) {
        self.next.policy_generation += u64::from(changed);
    }
}

#[cfg(test)]
mod tests;
