//! Policies by key and by scope.

use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use crate::resource::{Authorization, Scope, Workload};

/// Policies by key, in an order that repeats.
type ByKey = RedBlackTreeMapSync<Arc<str>, Arc<Authorization>>;

#[derive(Clone)]
pub(super) struct Policies {
    by_key: ByKey,
    global: ByKey,
    by_namespace: HashTrieMapSync<Arc<str>, ByKey>,
}

/// One of the policies that apply to a workload.
#[derive(Clone, Copy, Debug)]
pub enum AppliedPolicy<'a> {
    /// The policy.
    Known(&'a Arc<Authorization>),
    /// The workload names a policy of this key, but there is none: not yet, or no longer.
    Unknown(&'a Arc<str>),
}

impl Policies {
    pub(super) fn insert(&mut self, policy: Arc<Authorization>) {
        self.remove(policy.key());
        match policy.scope {
            Scope::Global => self.global.insert_mut(policy.key().clone(), policy.clone()),
            Scope::Namespace => {
                let mut policies =
                    self.by_namespace.get(&policy.namespace).cloned().unwrap_or_else(ByKey::new_sync);
                policies.insert_mut(policy.key().clone(), policy.clone());
                self.by_namespace.insert_mut(policy.namespace.clone(), policies);
            }
            Scope::WorkloadSelector => {}
        }
        self.by_key.insert_mut(policy.key().clone(), policy);
    }

    pub(super) fn remove(&mut self, key: &str) -> bool {
        let Some(policy) = self.by_key.get(key).cloned() else { return false };
        self.by_key.remove_mut(key);
        self.global.remove_mut(key);
        if let Some(mut policies) = self.by_namespace.get(&policy.namespace).cloned() {
            policies.remove_mut(key);
            if policies.is_empty() {
                self.by_namespace.remove_mut(&policy.namespace);
            } else {
                self.by_namespace.insert_mut(policy.namespace.clone(), policies);
            }
        }
        true
    }

    /// Those of the workload's namespace, the global ones, and those that the workload names.
    pub(super) fn applied_to<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = AppliedPolicy<'a>> {
        let namespace = self.by_namespace.get(&workload.namespace).into_iter().flat_map(ByKey::values);
        let named = workload.authorization_policies.iter().map(|key| match self.by_key.get(key) {
            Some(policy) => AppliedPolicy::Known(policy),
            None => AppliedPolicy::Unknown(key),
        });
        namespace.chain(self.global.values()).map(AppliedPolicy::Known).chain(named)
    }

    pub(super) fn by_key(&self, key: &str) -> Option<&Arc<Authorization>> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.by_key.values()
    }

    #[cfg(test)]
    pub(super) fn has_no_traces(&self) -> bool {
        self.by_key.is_empty() && self.global.is_empty() && self.by_namespace.is_empty()
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            by_key: ByKey::new_sync(),
            global: ByKey::new_sync(),
            by_namespace: HashTrieMapSync::new_sync(),
        }
    }
}
