//! What is left of resources that were refused, so that not understanding them opens nothing.

use std::net::IpAddr;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use serde::Serialize;

use super::multimap::Multimap;
use crate::resource::{NetworkAddress, NetworkCidr, Scope};

/// What is left of a workload or service that was refused and of which no good version is known.
///
/// Nobody knows how its addresses must be reached; that plain text is wrong must be supposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tombstone {
    /// Name of the resource.
    pub name: Arc<str>,
    /// Why it was refused.
    pub reason: Arc<str>,
    /// Those of its addresses that could be read.
    pub addresses: Vec<NetworkAddress>,
    /// Those of its address ranges that could be read.
    pub ranges: Vec<NetworkCidr>,
}

impl Tombstone {
    fn has_range_around(&self, network: &str, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| **range.network() == *network && range.cidr().contains(&address))
    }
}

/// What is left of a policy that was refused and of which no good version is known. What it would have denied cannot be
/// said: it denies everything that it may have been meant for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedPolicy {
    /// Name of the resource: `namespace/name`, unless the control plane is confused.
    pub key: Arc<str>,
    /// Its scope, if that could be read.
    pub scope: Option<Scope>,
    /// Why it was refused.
    pub reason: Arc<str>,
}

impl RefusedPolicy {
    /// Whether the policy may have been meant for all workloads of a namespace. Without a scope it is taken for one of
    /// its own namespace; without a namespace for one of all.
    pub(super) fn covers(&self, namespace: &str) -> bool {
        match self.scope {
            Some(Scope::Global) => true,
            Some(Scope::WorkloadSelector) => false,
            Some(Scope::Namespace) | None => self.key.split_once('/').is_none_or(|(own, _)| own == namespace),
        }
    }
}

/// Tombstones by name and address.
#[derive(Clone)]
pub(super) struct Tombstones {
    by_name: RedBlackTreeMapSync<Arc<str>, Arc<Tombstone>>,
    by_address: Multimap<IpAddr, Arc<Tombstone>>,
    /// Those that have ranges: few, looked through one by one.
    with_ranges: RedBlackTreeMapSync<Arc<str>, Arc<Tombstone>>,
}

impl Tombstones {
    pub(super) fn insert(&mut self, tombstone: Arc<Tombstone>) {
        self.remove(&tombstone.name);
        for address in &tombstone.addresses {
            self.by_address.insert(address.address(), tombstone.clone(), |_| false);
        }
        if !tombstone.ranges.is_empty() {
            self.with_ranges.insert_mut(tombstone.name.clone(), tombstone.clone());
        }
        self.by_name.insert_mut(tombstone.name.clone(), tombstone);
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(tombstone) = self.by_name.get(name).cloned() else { return false };
        self.by_name.remove_mut(name);
        self.with_ranges.remove_mut(name);
        for address in &tombstone.addresses {
            self.by_address.remove(&address.address(), |other| *other.name == *name);
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Arc<Tombstone>> {
        self.by_name.get(name)
    }

    pub(super) fn by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Tombstone>> {
        let has_address = |tombstone: &&Arc<Tombstone>| {
            let mut addresses = tombstone.addresses.iter();
            addresses.any(|other| **other.network() == *network && other.address() == address)
        };
        let exact = self.by_address.get(&address).iter().find(has_address);
        let in_range =
            || self.with_ranges.values().find(|tombstone| tombstone.has_range_around(network, address));
        exact.or_else(in_range)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Tombstone>> {
        self.by_name.values()
    }

    #[cfg(test)]
    pub(super) fn has_no_traces(&self) -> bool {
        self.by_name.is_empty() && self.by_address.is_empty() && self.with_ranges.is_empty()
    }
}

impl Default for Tombstones {
    fn default() -> Self {
        Self {
            by_name: RedBlackTreeMapSync::new_sync(),
            by_address: Multimap::default(),
            with_ranges: RedBlackTreeMapSync::new_sync(),
        }
    }
}
