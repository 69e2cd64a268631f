//! Workloads by uid, address and name, and the endpoints of each service.

use std::net::IpAddr;
use std::sync::Arc;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use super::multimap::Multimap;
use crate::resource::{NamespacedHostname, TunnelProtocol, Workload};

/// Endpoints of one service by uid. The order makes the choice of an endpoint repeatable.
pub(super) type Endpoints = RedBlackTreeMapSync<Arc<str>, Arc<Workload>>;

/// Changed in place: what an update has copied once it doesn't copy again, so that a large one costs little more a
/// workload than a small one.
#[derive(Clone)]
pub(super) struct Workloads {
    by_uid: HashTrieMapSync<Arc<str>, Arc<Workload>>,
    /// Of all networks; the likeliest owner of the address comes first.
    by_address: Multimap<IpAddr, Arc<Workload>>,
    /// By (namespace, name).
    by_name: Multimap<(Arc<str>, Arc<str>), Arc<Workload>>,
    /// By the services that the workloads name. The service itself need not be known yet.
    endpoints: HashTrieMapSync<NamespacedHostname, Endpoints>,
}

impl Workloads {
    pub(super) fn insert(&mut self, workload: Arc<Workload>) {
        self.remove(&workload.uid);
        for address in owned_addresses(&workload) {
            // Of equal claims the newest counts: an address that is used again is often announced before its
            // former owner is withdrawn.
            let claim = claim(&workload);
            self.by_address.insert(*address, workload.clone(), |other| claim >= self::claim(other));
        }
        let name = (workload.namespace.clone(), workload.name.clone());
        self.by_name.insert(name, workload.clone(), |_| false);
        for (service, _) in workload.services.iter() {
            let (uid, workload) = (workload.uid.clone(), workload.clone());
            if let Some(endpoints) = self.endpoints.get_mut(service) {
                endpoints.insert_mut(uid, workload);
            } else {
                let mut endpoints = Endpoints::new_sync();
                endpoints.insert_mut(uid, workload);
                self.endpoints.insert_mut(service.clone(), endpoints);
            }
        }
        self.by_uid.insert_mut(workload.uid.clone(), workload);
    }

    pub(super) fn remove(&mut self, uid: &str) -> bool {
        let Some(workload) = self.by_uid.get(uid).cloned() else { return false };
        self.by_uid.remove_mut(uid);
        for address in owned_addresses(&workload) {
            self.by_address.remove(address, |other| *other.uid == *uid);
        }
        let name = (workload.namespace.clone(), workload.name.clone());
        self.by_name.remove(&name, |other| *other.uid == *uid);
        for (service, _) in workload.services.iter() {
            let Some(endpoints) = self.endpoints.get_mut(service) else { continue };
            endpoints.remove_mut(uid);
            if endpoints.is_empty() {
                self.endpoints.remove_mut(service);
            }
        }
        true
    }

    pub(super) fn by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    pub(super) fn by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address).iter().find(|workload| *workload.network == *network)
    }

    pub(super) fn by_name(&self, namespace: &str, name: &str) -> &[Arc<Workload>] {
        self.by_name.get(&(Arc::from(namespace), Arc::from(name)))
    }

    pub(super) fn endpoints(&self, service: &NamespacedHostname) -> Option<&Endpoints> {
        self.endpoints.get(service)
    }

    pub(super) fn endpoints_by_service(&self) -> impl Iterator<Item = (&NamespacedHostname, &Endpoints)> {
        self.endpoints.iter()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_uid.size()
    }

    #[cfg(test)]
    pub(super) fn has_no_traces(&self) -> bool {
        self.by_uid.is_empty()
            && self.by_address.is_empty()
            && self.by_name.is_empty()
            && self.endpoints.is_empty()
    }
}

impl Default for Workloads {
    fn default() -> Self {
        Self {
            by_uid: HashTrieMapSync::new_sync(),
            by_address: Multimap::default(),
            by_name: Multimap::default(),
            endpoints: HashTrieMapSync::new_sync(),
        }
    }
}

/// The addresses by which a workload is found: none in host network, where they are the node's.
fn owned_addresses(workload: &Workload) -> &[IpAddr] {
    if workload.is_host_network() { &[] } else { &workload.addresses }
}

/// How well a workload's claim to its address is founded. A pod's address is given by the cluster, not written by a
/// user; a workload in the mesh says more about what is behind the address than one outside.
fn claim(workload: &Workload) -> impl Ord + use<> {
    let is_pod = workload.uid.contains("//Pod/");
    let in_mesh = workload.tunnel_protocol == TunnelProtocol::Hbone;
    (is_pod, in_mesh)
}
