//! Names that the mesh itself knows: pure functions of its state.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use xds::resource::IpFamilies;
use xds::{NetworkAddress, Service, Snapshot};

use super::names::{self, Alias};

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

/// For whom a name is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    /// Its namespace, in Kubernetes' sense.
    pub(super) namespace: &'a str,
    /// Its network: virtual addresses of others mean nothing to it.
    pub(super) network: &'a str,
    /// What its resolver appends to names.
    pub(super) search: &'a [Arc<str>],
}

/// A name that the mesh knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Perhaps none: the name is there, but not in this family or network.
    pub(super) addresses: Vec<IpAddr>,
    /// The name is an alias of its first labels, as many as this.
    pub(super) alias_of: Option<usize>,
}

/// What the look-up of names goes by.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// The domain of the cluster's services.
    pub(super) cluster_domain: Arc<str>,
    /// Whose service counts where several namespaces have the name.
    pub(super) preferred_namespace: Option<String>,
    /// Whether IPv6 addresses are answered.
    pub(super) ipv6: bool,
}

impl Family {
    /// None for types that are not addresses.
    pub(super) fn of(record_type: RecordType) -> Option<Self> {
        match record_type {
            RecordType::A => Some(Self::Ipv4),
            RecordType::AAAA => Some(Self::Ipv6),
            _ => None,
        }
    }

    fn has(self, address: &IpAddr) -> bool {
        match self {
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }

    fn is_of(self, service: &Service) -> bool {
        match service.ip_families {
            None | Some(IpFamilies::Dual) => true,
            Some(IpFamilies::Ipv4) => self == Self::Ipv4,
            Some(IpFamilies::Ipv6) => self == Self::Ipv6,
        }
    }
}

impl Lookup {
    /// What the mesh knows of a name (in the form of [`names`]). None if that is nothing, so that others must be asked.
    pub(super) fn find(
        &self,
        mesh: &Snapshot,
        asker: Asker<'_>,
        asked: &str,
        family: Family,
    ) -> Option<Found> {
        let aliases = names::aliases(asked, asker.namespace, &self.cluster_domain, asker.search);
        aliases.iter().find_map(|alias| self.find_alias(mesh, asker, alias, family))
    }

    fn find_alias(&self, mesh: &Snapshot, asker: Asker<'_>, alias: &Alias, family: Family) -> Option<Found> {
        let answers = (self.ipv6 || family == Family::Ipv4).then_some(family);
        let addresses = |service: &Service| match answers {
            Some(family) if family.is_of(service) => service_addresses(mesh, asker, service, family),
            _ => Vec::new(),
        };
        if let Some(service) = self.service(mesh, asker, &alias.name) {
            return Some(Found { addresses: addresses(service), alias_of: alias.stripped });
        }
        if let Some((service, pods)) = self.pods(mesh, asker, &alias.name) {
            let family = answers.filter(|family| family.is_of(service));
            let addresses = family.map_or(Vec::new(), |family| first_addresses(pods.into_iter(), family));
            return Some(Found { addresses, alias_of: alias.stripped });
        }
        let service = names::wildcards(&alias.name).find_map(|name| self.service(mesh, asker, &name))?;
        // The user's own name stays: many names are one by a wildcard.
        Some(Found { addresses: addresses(service), alias_of: None })
    }

    /// The service that the asker means by a hostname: that of its own namespace, else a canonical one, else one of the
    /// preferred namespace, else the first by key.
    fn service<'a>(&self, mesh: &'a Snapshot, asker: Asker<'_>, hostname: &str) -> Option<&'a Service> {
        mesh.services_by_hostname(hostname)
            .map(Arc::as_ref)
            // One without addresses that isn't Kubernetes' own leads to hosts that the cluster's resolver knows.
            .filter(|service| !service.vips.is_empty() || self.is_kubernetes(hostname))
            .filter(|service| service.is_visible_to(asker.namespace))
            .max_by_key(|service| {
                let own = *service.namespace == *asker.namespace;
                let preferred = self.preferred_namespace.as_deref() == Some(&*service.namespace);
                (own, service.canonical, preferred, Reverse(service.key()))
            })
    }

    /// The endpoints of a headless service that have the name of a pod, `<pod>.<service>.<namespace>.svc.<domain>`, as the
    /// pods of a StatefulSet do.
    fn pods<'a>(
        &self,
        mesh: &'a Snapshot,
        asker: Asker<'_>,
        name: &str,
    ) -> Option<(&'a Service, Vec<&'a [IpAddr]>)> {
        let (pod, hostname) = name.split_once('.')?;
        let service = self.service(mesh, asker, hostname).filter(|service| service.vips.is_empty())?;
        let pods: Vec<_> = mesh
            .endpoints(service)
            .filter(|endpoint| *endpoint.workload.name == *pod)
            .map(|endpoint| endpoint.workload.addresses.as_slice())
            .collect();
        (!pods.is_empty()).then_some((service, pods))
    }

    fn is_kubernetes(&self, hostname: &str) -> bool {
        hostname.strip_suffix(&*self.cluster_domain).is_some_and(|rest| rest.ends_with(".svc."))
    }
}

/// The virtual addresses in the asker's network; of a headless service, one of each endpoint.
fn service_addresses(mesh: &Snapshot, asker: Asker<'_>, service: &Service, family: Family) -> Vec<IpAddr> {
    if service.vips.is_empty() {
        let endpoints = mesh.endpoints(service);
        return first_addresses(endpoints.map(|endpoint| endpoint.workload.addresses.as_slice()), family);
    }
    let callable = service.vips.iter().filter(|vip| **vip.network() == *asker.network);
    callable.map(NetworkAddress::address).filter(|address| family.has(address)).collect()
}

fn first_addresses<'a>(hosts: impl Iterator<Item = &'a [IpAddr]>, family: Family) -> Vec<IpAddr> {
    hosts.filter_map(|addresses| addresses.iter().copied().find(|address| family.has(address))).collect()
}

#[cfg(test)]
mod tests;
