//! Services by key, hostname, address and address range.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use super::multimap::Multimap;
use crate::resource::{NamespacedHostname, Service};

/// A service in the network that one of its addresses belongs to.
type InNetwork = (Arc<str>, Arc<Service>);

/// Lists are ordered by service key, so that the choice does not depend on the order of arrival.
#[derive(Clone)]
pub(super) struct Services {
    by_key: HashTrieMapSync<NamespacedHostname, Arc<Service>>,
    /// In lower case: names are the same in every case (RFC 4343).
    by_hostname: Multimap<Arc<str>, Arc<Service>>,
    by_vip: Multimap<IpAddr, InNetwork>,
    by_range: Multimap<IpNet, InNetwork>,
    /// How many ranges there are of each prefix, the zero address of the family standing for its bits: a look-up
    /// tries only these prefixes.
    prefixes: RedBlackTreeMapSync<(IpAddr, u8), usize>,
}

impl Services {
    pub(super) fn insert(&mut self, service: Arc<Service>) {
        self.remove(service.key());
        self.by_hostname
            .insert(folded(&service.hostname), service.clone(), |other| other.key() > service.key());
        let is_after = |(_, other): &InNetwork| other.key() > service.key();
        for vip in &service.vips {
            let entry = (vip.network().clone(), service.clone());
            self.by_vip.insert(vip.address(), entry, is_after);
        }
        for range in &service.cidr_vips {
            let entry = (range.network().clone(), service.clone());
            self.by_range.insert(range.cidr(), entry, is_after);
            self.count_prefix(range.cidr(), |count| count + 1);
        }
        self.by_key.insert_mut(service.key().clone(), service);
    }

    pub(super) fn remove(&mut self, key: &NamespacedHostname) -> bool {
        let Some(service) = self.by_key.get(key).cloned() else { return false };
        self.by_key.remove_mut(key);
        self.by_hostname.remove(&folded(&service.hostname), |other| other.key() == key);
        let leaves = |(_, other): &InNetwork| other.key() == key;
        for vip in &service.vips {
            self.by_vip.remove(&vip.address(), leaves);
        }
        for range in &service.cidr_vips {
            self.by_range.remove(&range.cidr(), leaves);
            self.count_prefix(range.cidr(), |count| count - 1);
        }
        true
    }

    pub(super) fn by_key(&self, key: &NamespacedHostname) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    /// Of the services with this hostname that the client may use: the one of its own namespace, else a canonical
    /// one, else the first.
    pub(super) fn by_hostname(&self, hostname: &str, client_namespace: &str) -> Option<&Arc<Service>> {
        self.all_by_hostname(hostname)
            .filter(|service| service.is_visible_to(client_namespace))
            .max_by_key(|service| preference(service, Some(client_namespace), 0))
    }

    /// All services with this hostname, in any case, by key.
    pub(super) fn all_by_hostname(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        let has_upper = hostname.bytes().any(|byte| byte.is_ascii_uppercase());
        let hostname =
            if has_upper { Cow::Owned(hostname.to_ascii_lowercase()) } else { Cow::Borrowed(hostname) };
        self.by_hostname.get(&*hostname).iter()
    }

    /// Of the services with this very address that the client may use: the one of its own namespace, else a canonical
    /// one, else the first. Without one, of the services with a range around the address: the client's own namespace
    /// counts most, then the longer prefix, then canonical. Without a client all services may be used.
    pub(super) fn by_vip(
        &self,
        network: &str,
        address: IpAddr,
        client_namespace: Option<&str>,
    ) -> Option<&Arc<Service>> {
        let usable = |(in_network, service): &&InNetwork| {
            **in_network == *network && client_namespace.is_none_or(|client| service.is_visible_to(client))
        };
        let exact = self
            .by_vip
            .get(&address)
            .iter()
            .filter(usable)
            .max_by_key(|(_, service)| preference(service, client_namespace, 0));
        let in_range = || {
            self.ranges_around(address)
                .flat_map(|range| self.by_range.get(&range).iter().map(move |entry| (range, entry)))
                .filter(|(_, entry)| usable(entry))
                .max_by_key(|(range, (_, service))| preference(service, client_namespace, range.prefix_len()))
                .map(|(_, entry)| entry)
        };
        exact.or_else(in_range).map(|(_, service)| service)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_key.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.size()
    }

    #[cfg(test)]
    pub(super) fn has_no_traces(&self) -> bool {
        self.by_key.is_empty()
            && self.by_hostname.is_empty()
            && self.by_vip.is_empty()
            && self.by_range.is_empty()
            && self.prefixes.is_empty()
    }

    fn ranges_around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> {
        let zero = zero_of_family(address);
        self.prefixes
            .range((zero, 0)..=(zero, u8::MAX))
            .filter_map(move |((_, length), _)| IpNet::new(address, *length).ok())
            .map(|range| range.trunc())
    }

    fn count_prefix(&mut self, range: IpNet, change: impl FnOnce(usize) -> usize) {
        let prefix = (zero_of_family(range.addr()), range.prefix_len());
        match change(self.prefixes.get(&prefix).copied().unwrap_or(0)) {
            0 => {
                self.prefixes.remove_mut(&prefix);
            }
            count => self.prefixes.insert_mut(prefix, count),
        }
    }
}

impl Default for Services {
    fn default() -> Self {
        Self {
            by_key: HashTrieMapSync::new_sync(),
            by_hostname: Multimap::default(),
            by_vip: Multimap::default(),
            by_range: Multimap::default(),
            prefixes: RedBlackTreeMapSync::new_sync(),
        }
    }
}

/// Which of several services a client prefers (the greater); of equals the first by key.
fn preference<'a>(service: &'a Service, client_namespace: Option<&str>, prefix: u8) -> impl Ord + use<'a> {
    let own_namespace = client_namespace == Some(&*service.namespace);
    (own_namespace, prefix, service.canonical, std::cmp::Reverse(service.key()))
}

/// A hostname as it is looked up; nearly always the very same.
fn folded(hostname: &Arc<str>) -> Arc<str> {
    if hostname.bytes().any(|byte| byte.is_ascii_uppercase()) {
        hostname.to_ascii_lowercase().into()
    } else {
        hostname.clone()
    }
}

fn zero_of_family(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
