//! Policies by key and by scope.

use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use super::refused::RefusedPolicy;
use crate::resource::{Authorization, Scope, Workload};

/// Policies by key, in an order that repeats.
type ByKey = RedBlackTreeMapSync<Arc<str>, Arc<Authorization>>;

#[derive(Clone)]
pub(super) struct Policies {
    by_key: ByKey,
    global: ByKey,
    by_namespace: HashTrieMapSync<Arc<str>, ByKey>,
    /// Never of a key that `by_key` has. Few, looked through one by one.
    refused: RedBlackTreeMapSync<Arc<str>, Arc<RefusedPolicy>>,
}

/// One of the policies that apply to a workload.
#[derive(Clone, Copy, Debug)]
pub enum AppliedPolicy<'a> {
    /// The policy.
    Known(&'a Arc<Authorization>),
    /// The workload names a policy of this key, but there is none: not yet, or no longer.
    Unknown(&'a Arc<str>),
    /// There is a policy, but it could not be read.
    Refused(&'a Arc<RefusedPolicy>),
}

impl Policies {
    /// Says whether anything changed.
    pub(super) fn insert(&mut self, policy: Arc<Authorization>) -> bool {
        if self.by_key.get(policy.key()).is_some_and(|known| *known == policy) {
            return false;
        }
        self.remove(policy.key());
        match policy.scope {
            Scope::Global => self.global.insert_mut(policy.key().clone(), policy.clone()),
            Scope::Namespace => {
                let (key, policy) = (policy.key().clone(), policy.clone());
                if let Some(policies) = self.by_namespace.get_mut(&policy.namespace) {
                    policies.insert_mut(key, policy);
                } else {
                    let namespace = policy.namespace.clone();
                    let mut policies = ByKey::new_sync();
                    policies.insert_mut(key, policy);
                    self.by_namespace.insert_mut(namespace, policies);
                }
            }
            Scope::WorkloadSelector => {}
        }
        self.by_key.insert_mut(policy.key().clone(), policy);
        true
    }

    /// Says whether anything changed.
    pub(super) fn refuse(&mut self, policy: Arc<RefusedPolicy>) -> bool {
        let stays = policy.key.is_empty()
            || self.by_key.contains_key(&policy.key)
            || self.refused.get(&policy.key).is_some_and(|known| *known == policy);
        if !stays {
            self.refused.insert_mut(policy.key.clone(), policy);
        }
        !stays
    }

    /// Says whether there was one.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let Some(policy) = self.by_key.get(key).cloned() else { return self.refused.remove_mut(key) };
        self.by_key.remove_mut(key);
        self.global.remove_mut(key);
        if let Some(policies) = self.by_namespace.get_mut(&policy.namespace) {
            policies.remove_mut(key);
            if policies.is_empty() {
                self.by_namespace.remove_mut(&policy.namespace);
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
        let refused = self.refused.values().filter(|policy| policy.covers(&workload.namespace));
        let named = workload.authorization_policies.iter().map(|key| {
            let refused = || self.refused.get(key).map(AppliedPolicy::Refused);
            let known = self.by_key.get(key).map(AppliedPolicy::Known);
            known.or_else(refused).unwrap_or(AppliedPolicy::Unknown(key))
        });
        let known = namespace.chain(self.global.values()).map(AppliedPolicy::Known);
        known.chain(refused.map(AppliedPolicy::Refused)).chain(named)
    }

    pub(super) fn by_key(&self, key: &str) -> Option<&Arc<Authorization>> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.by_key.values()
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = &Arc<RefusedPolicy>> {
        self.refused.values()
    }

    pub(super) fn refused_by_key(&self, key: &str) -> Option<&Arc<RefusedPolicy>> {
        self.refused.get(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty() && self.refused.is_empty()
    }

    #[cfg(test)]
    pub(super) fn has_no_traces(&self) -> bool {
        self.is_empty() && self.global.is_empty() && self.by_namespace.is_empty()
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            by_key: ByKey::new_sync(),
            global: ByKey::new_sync(),
            by_namespace: HashTrieMapSync::new_sync(),
            refused: RedBlackTreeMapSync::new_sync(),
        }
    }
}
