//! The whole mesh at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rpds::HashTrieSetSync;
use serde::Serialize;

use super::policies::{AppliedPolicy, Policies};
use super::refused::{RefusedPolicy, Tombstone, Tombstones};
use super::services::Services;
use super::workloads::{Endpoints, Workloads};
use crate::resource::{
    Authorization, HealthPolicy, HealthStatus, NamespacedHostname, PortMap, Service, Workload,
};
use crate::upstream::Endpoint;

/// The whole mesh at one moment. Never changes; cloning shares everything.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) workloads: Workloads,
    pub(super) services: Services,
    pub(super) policies: Policies,
    pub(super) tombstones: Tombstones,
    pub(super) answered: HashTrieSetSync<Arc<str>>,
    pub(super) generation: u64,
    pub(super) policy_generation: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            workloads: Workloads::default(),
            services: Services::default(),
            policies: Policies::default(),
            tombstones: Tombstones::default(),
            answered: HashTrieSetSync::new_sync(),
            generation: 0,
            policy_generation: 0,
        }
    }
}

impl Snapshot {
    /// Rises with each update of the store.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Rises only when a policy comes, goes, changes or is refused. What a workload names is not its matter.
    pub fn policy_generation(&self) -> u64 {
        self.policy_generation
    }

    /// A workload by its uid.
    pub fn workload_by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.by_uid(uid)
    }

    /// The workload that owns an address. If several claim it: a pod before what users wrote, one in the mesh before
    /// one outside, then the newest. Workloads in host network own no address.
    pub fn workload_by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.by_address(network, address.to_canonical())
    }

    /// The workload that a pod of this node is, by what the node agent knows of the pod.
    pub fn local_workload(
        &self,
        namespace: &str,
        name: &str,
        service_account: &str,
        node: Option<&str>,
    ) -> Option<&Arc<Workload>> {
        self.workloads.by_name(namespace, name).iter().find(|workload| {
            *workload.service_account == *service_account && node.is_none_or(|node| *workload.node == *node)
        })
    }

    /// A service by its key.
    pub fn service_by_key(&self, key: &NamespacedHostname) -> Option<&Arc<Service>> {
        self.services.by_key(key)
    }

    /// The service that a client in `client_namespace` means by a hostname: that of its own namespace, else a canonical
    /// one, else the first by key; only those visible to it. Names are the same in every case.
    pub fn service_by_hostname(&self, client_namespace: &str, hostname: &str) -> Option<&Arc<Service>> {
        self.services.by_hostname(hostname, client_namespace)
    }

    /// All services with a hostname, visible to a client or not, by key. Names are the same in every case.
    pub fn services_by_hostname(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        self.services.all_by_hostname(hostname)
    }

    /// The service that a client in `client_namespace` means by a virtual address. An exact address comes before a
    /// range; otherwise as [`Snapshot::service_by_hostname`], the longer of two ranges before canonical.
    pub fn service_by_vip(
        &self,
        network: &str,
        address: IpAddr,
        client_namespace: &str,
    ) -> Option<&Arc<Service>> {
        self.services.by_vip(network, address.to_canonical(), Some(client_namespace))
    }

    /// The service at a virtual address as the mesh itself sees it, visible to a client or not.
    pub fn any_service_by_vip(&self, network: &str, address: IpAddr) -> Option<&Arc<Service>> {
        self.services.by_vip(network, address.to_canonical(), None)
    }

    /// The endpoints of a service that its health policy admits, by uid.
    pub fn endpoints<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = Endpoint<'a>> {
        let admits_all = service.health_policy() == HealthPolicy::AllowAll;
        self.all_endpoints(service.key())
            .filter(move |endpoint| admits_all || endpoint.workload.status == HealthStatus::Healthy)
    }

    /// Whether the workload is an endpoint of the service and its health policy admits it.
    pub fn is_endpoint(&self, service: &Service, uid: &str) -> bool {
        self.workloads.endpoints(service.key()).and_then(|endpoints| endpoints.get(uid)).is_some_and(
            |workload| {
                service.health_policy() == HealthPolicy::AllowAll || workload.status == HealthStatus::Healthy
            },
        )
    }

    /// The workload or service at an address that was refused, of which no good version is known. Only meaningful where
    /// no workload and no service that is known has the address.
    pub fn refused_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Tombstone>> {
        self.tombstones.by_address(network, address.to_canonical())
    }

    /// Whether the control plane was asked for this name and has answered, whether it exists or not.
    pub fn is_answered(&self, name: &str) -> bool {
        self.answered.contains(name)
    }

    /// The names of which [`Snapshot::is_answered`] holds, in no order.
    pub(crate) fn answered(&self) -> impl Iterator<Item = &Arc<str>> {
        self.answered.iter()
    }

    /// What is left of a workload or service that was refused, by its name.
    pub(crate) fn tombstone(&self, name: &str) -> Option<&Arc<Tombstone>> {
        self.tombstones.by_name(name)
    }

    /// What is left of a policy that was refused, by its key.
    pub(crate) fn refused_policy(&self, key: &str) -> Option<&Arc<RefusedPolicy>> {
        self.policies.refused_by_key(key)
    }

    /// A policy by its key `namespace/name`.
    pub fn policy_by_key(&self, key: &str) -> Option<&Arc<Authorization>> {
        self.policies.by_key(key)
    }

    /// The policies that apply to a workload: those of its namespace, the global ones, and those that it names, which
    /// may be unknown. Among them are those that were refused and may have been meant for it.
    pub fn policies_for<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = AppliedPolicy<'a>> {
        self.policies.applied_to(workload)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// All policies, by key.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.iter()
    }

    /// The keys `workloads`, `services`, `policies` and `stagedServices` of `/config_dump`, and one of our own:
    /// `refusedResources`, if there are any.
    pub fn dump(&self) -> Dump<'_> {
        let mut workloads: Vec<_> = self.workloads().map(Arc::as_ref).collect();
        workloads.sort_unstable_by_key(|workload| &workload.uid);
        let mut services: Vec<_> = self.services().map(Arc::as_ref).collect();
        services.sort_unstable_by_key(|service| (&service.hostname, &service.namespace));
        let staged = self.workloads.endpoints_by_service().map(|(service, _)| service);
        Dump {
            workloads,
            services: services
                .into_iter()
                .map(|service| ServiceDump { service, endpoints: dump_endpoints(self.endpoints(service)) })
                .collect(),
            policies: self.policies().map(Arc::as_ref).collect(),
            staged_services: staged
                .filter(|service| self.service_by_key(service).is_none())
                .map(|service| (service, dump_endpoints(self.all_endpoints(service))))
                .collect(),
            refused_resources: self
                .tombstones
                .iter()
                .map(|tombstone| RefusedDump::Address(tombstone))
                .chain(self.policies.refused().map(|policy| RefusedDump::Policy(policy)))
                .collect(),
        }
    }

    fn all_endpoints<'a>(&'a self, service: &'a NamespacedHostname) -> impl Iterator<Item = Endpoint<'a>> {
        let workloads = self.workloads.endpoints(service).into_iter().flat_map(Endpoints::values);
        workloads.filter_map(|workload| Some(Endpoint { workload, ports: workload.services.get(service)? }))
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("workloads", &self.workloads.len())
            .field("services", &self.services.len())
            .field("policies", &self.policies().count())
            .finish()
    }
}

/// A snapshot in the shape that `istioctl ztunnel-config` reads; flatten it into the rest of `/config_dump`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dump<'a> {
    workloads: Vec<&'a Workload>,
    services: Vec<ServiceDump<'a>>,
    policies: Vec<&'a Authorization>,
    staged_services: BTreeMap<&'a NamespacedHostname, EndpointDumps<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused_resources: Vec<RefusedDump<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum RefusedDump<'a> {
    Address(&'a Tombstone),
    Policy(&'a RefusedPolicy),
}

#[derive(Serialize)]
struct ServiceDump<'a> {
    #[serde(flatten)]
    service: &'a Service,
    endpoints: EndpointDumps<'a>,
}

/// By uid.
type EndpointDumps<'a> = BTreeMap<&'a str, EndpointDump<'a>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointDump<'a> {
    workload_uid: &'a str,
    port: &'a PortMap,
    status: HealthStatus,
}

fn dump_endpoints<'a>(endpoints: impl Iterator<Item = Endpoint<'a>>) -> EndpointDumps<'a> {
    endpoints
        .map(|Endpoint { workload, ports }| {
            (
                &*workload.uid,
                EndpointDump { workload_uid: &workload.uid, port: ports, status: workload.status },
            )
        })
        .collect()
}
