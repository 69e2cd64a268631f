//! A workload: one pod, virtual machine or external endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{GatewayAddress, NamespacedHostname, PortMap, ResourceError, is_default, required};
use crate::identity::{DEFAULT_TRUST_DOMAIN, Identity};

/// A checked workload. Reads like its [`WorkloadSpec`].
///
/// Holds: `uid` is not empty; trust domain, namespace and service account make an [`Identity`]; addresses are
/// canonical (no IPv4-mapped IPv6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WorkloadSpec")]
pub struct Workload(WorkloadSpec);

impl Workload {
    /// Checks and seals. An empty trust domain, service account or cluster gets its default (`cluster.local`,
    /// `default`, `Kubernetes`), as the protocol says.
    pub fn new(mut spec: WorkloadSpec) -> Result<Self, ResourceError> {
        for (field, default) in [
            (&mut spec.trust_domain, DEFAULT_TRUST_DOMAIN),
            (&mut spec.service_account, "default"),
            (&mut spec.cluster_id, "Kubernetes"),
        ] {
            if field.is_empty() {
                *field = default.into();
            }
        }
        for address in &mut spec.addresses {
            *address = address.to_canonical();
        }
        required("uid", &spec.uid)?;
        spec.identity().map_err(|e| ResourceError::new("serviceAccount", e))?;
        Ok(Self(spec))
    }

    /// Who the workload is: what its certificate says.
    pub fn identity(&self) -> Identity {
        self.0.identity().expect("checked when the workload was made")
    }

    /// Whether the workload shares the network namespace of its node, so that its address is the node's and says
    /// nothing about it.
    pub fn is_host_network(&self) -> bool {
        self.network_mode == NetworkMode::HostNetwork
    }
}

impl Deref for Workload {
    type Target = WorkloadSpec;

    fn deref(&self) -> &WorkloadSpec {
        &self.0
    }
}

impl TryFrom<WorkloadSpec> for Workload {
    type Error = ResourceError;

    fn try_from(spec: WorkloadSpec) -> Result<Self, ResourceError> {
        Self::new(spec)
    }
}

/// The fields of a workload, unchecked (`istio.workload.Workload`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadSpec {
    /// Unique in the mesh, for example `Kubernetes//Pod/shop/web-1`.
    pub uid: Arc<str>,
    /// Name of the pod or entry.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Kubernetes service account.
    #[serde(skip_serializing_if = "is_default")]
    pub service_account: Arc<str>,
    /// SPIFFE trust domain.
    #[serde(skip_serializing_if = "is_default")]
    pub trust_domain: Arc<str>,
    /// IP addresses, at most one of a family in practice. Empty if only a hostname or a gateway leads there.
    #[serde(rename = "workloadIps")]
    pub addresses: Vec<IpAddr>,
    /// DNS name to resolve when there is no address.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: Arc<str>,
    /// Network that the addresses belong to; empty is the default one.
    #[serde(skip_serializing_if = "is_default")]
    pub network: Arc<str>,
    /// How the workload is reached.
    #[serde(rename = "protocol")]
    pub tunnel_protocol: TunnelProtocol,
    /// Whether its address is its own.
    pub network_mode: NetworkMode,
    /// The waypoint that traffic to this workload must pass.
    #[serde(skip_serializing_if = "is_default")]
    pub waypoint: Option<GatewayAddress>,
    /// The gateway through which other networks reach this workload.
    #[serde(skip_serializing_if = "is_default")]
    pub network_gateway: Option<GatewayAddress>,
    /// Kubernetes node.
    #[serde(skip_serializing_if = "is_default")]
    pub node: Arc<str>,
    /// Name of the owner, for example the deployment.
    #[serde(skip_serializing_if = "is_default")]
    pub workload_name: Arc<str>,
    /// Kind of the owner.
    pub workload_type: WorkloadType,
    /// Canonical service, for telemetry.
    #[serde(skip_serializing_if = "is_default")]
    pub canonical_name: Arc<str>,
    /// Revision of the canonical service, for telemetry.
    #[serde(skip_serializing_if = "is_default")]
    pub canonical_revision: Arc<str>,
    /// The workload speaks HBONE itself.
    #[serde(skip_serializing_if = "is_default")]
    pub native_tunnel: bool,
    /// How traffic that arrived by HBONE is handed to the application.
    #[serde(skip_serializing_if = "is_default")]
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Keys `namespace/name` of the policies that select this workload.
    #[serde(skip_serializing_if = "is_default")]
    pub authorization_policies: Vec<Arc<str>>,
    /// Health as the control plane knows it.
    pub status: HealthStatus,
    /// Cluster the workload runs in.
    pub cluster_id: Arc<str>,
    /// Where it runs.
    #[serde(skip_serializing_if = "is_default")]
    pub locality: Locality,
    /// The services that it is an endpoint of. Read as a map `namespace/hostname` → ports, dumped as a list of names.
    #[serde(skip_serializing_if = "is_default")]
    pub services: Memberships,
    /// Weight in load balancing; 0 takes no traffic.
    pub capacity: u32,
}

impl WorkloadSpec {
    fn identity(&self) -> Result<Identity, crate::identity::IdentityError> {
        Identity::new(self.trust_domain.clone(), self.namespace.clone(), self.service_account.clone())
    }
}

impl Default for WorkloadSpec {
    fn default() -> Self {
        Self {
            uid: Arc::default(),
            name: Arc::default(),
            namespace: Arc::default(),
            service_account: Arc::default(),
            trust_domain: Arc::default(),
            addresses: Vec::new(),
            hostname: Arc::default(),
            network: Arc::default(),
            tunnel_protocol: TunnelProtocol::default(),
            network_mode: NetworkMode::default(),
            waypoint: None,
            network_gateway: None,
            node: Arc::default(),
            workload_name: Arc::default(),
            workload_type: WorkloadType::default(),
            canonical_name: Arc::default(),
            canonical_revision: Arc::default(),
            native_tunnel: false,
            application_tunnel: None,
            authorization_policies: Vec::new(),
            status: HealthStatus::default(),
            cluster_id: Arc::default(),
            locality: Locality::default(),
            services: Memberships::default(),
            capacity: 1,
        }
    }
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    #[serde(rename = "TCP")]
    None,
    /// HTTP/2 CONNECT over mutual TLS.
    #[serde(rename = "HBONE")]
    Hbone,
}

/// Whether a workload has a network namespace of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NetworkMode {
    /// It has: its address identifies it.
    #[default]
    Standard,
    /// It shares the node's.
    HostNetwork,
}

/// Health as the control plane knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HealthStatus {
    /// Ready for traffic.
    #[default]
    Healthy,
    /// Not ready.
    Unhealthy,
}

/// Kind of a workload's owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadType {
    /// Deployment, the protocol's default.
    #[default]
    Deployment,
    /// CronJob.
    CronJob,
    /// A pod of its own.
    Pod,
    /// Job.
    Job,
}

/// Where a workload runs; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone of the region.
    pub zone: Arc<str>,
    /// Part of the zone.
    pub subzone: Arc<str>,
}

/// How traffic that arrived by HBONE is handed to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationTunnel {
    /// What precedes the bytes.
    pub protocol: ApplicationProtocol,
    /// The port to dial in place of the requested one.
    #[serde(default)]
    pub port: Option<u16>,
}

/// What precedes the bytes of an application tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ApplicationProtocol {
    /// Nothing.
    #[serde(rename = "NONE")]
    None,
    /// A PROXY protocol (version 2) header.
    #[serde(rename = "PROXY")]
    Proxy,
}

/// The services that a workload is an endpoint of, each with the workload's own port map; ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memberships(Box<[(NamespacedHostname, PortMap)]>);

impl Memberships {
    /// All services, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&NamespacedHostname, &PortMap)> {
        self.0.iter().map(|(service, ports)| (service, ports))
    }

    /// The port map for one service; none if the workload is no endpoint of it.
    pub fn get(&self, service: &NamespacedHostname) -> Option<&PortMap> {
        let index = self.0.binary_search_by(|(key, _)| key.cmp(service)).ok()?;
        Some(&self.0[index].1)
    }
}

impl FromIterator<(NamespacedHostname, PortMap)> for Memberships {
    fn from_iter<I: IntoIterator<Item = (NamespacedHostname, PortMap)>>(services: I) -> Self {
        Self(services.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

impl Serialize for Memberships {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|(service, _)| service))
    }
}

impl<'de> Deserialize<'de> for Memberships {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> WorkloadSpec {
        WorkloadSpec { uid: "u".into(), namespace: "shop".into(), ..WorkloadSpec::default() }
    }

    #[test]
    fn defaults_of_the_protocol() {
        let workload =
            Workload::new(WorkloadSpec { addresses: vec!["::ffff:10.0.0.1".parse().unwrap()], ..spec() })
                .unwrap();
        assert_eq!(workload.identity().to_string(), "spiffe://cluster.local/ns/shop/sa/default");
        assert_eq!(&*workload.cluster_id, "Kubernetes");
        assert_eq!(workload.capacity, 1);
        assert_eq!(workload.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_refused_names_its_field() {
        for (spec, message) in [
            (WorkloadSpec { uid: "".into(), ..spec() }, "uid: must not be empty"),
            (
                WorkloadSpec { namespace: "".into(), ..spec() },
                "serviceAccount: namespace \"\" is not a SPIFFE path segment",
            ),
            (
                WorkloadSpec { trust_domain: "a/b".into(), ..spec() },
                "serviceAccount: \"a/b\" is not a SPIFFE trust domain",
            ),
        ] {
            assert_eq!(Workload::new(spec).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_dump_has_the_names_that_istioctl_reads() {
        let spec = WorkloadSpec {
            tunnel_protocol: TunnelProtocol::Hbone,
            workload_type: WorkloadType::Pod,
            services: [("shop/web.shop".parse().unwrap(), PortMap::new("ports", [(80, 8080)]).unwrap())]
                .into_iter()
                .collect(),
            waypoint: Some(GatewayAddress {
                destination: "/10.0.0.9".parse().unwrap(),
                hbone_mtls_port: 15008,
            }),
            ..spec()
        };
        let dump = serde_json::to_value(Workload::new(spec).unwrap()).unwrap();
        assert_eq!(dump["protocol"], "HBONE");
        assert_eq!(dump["workloadType"], "pod");
        assert_eq!(dump["status"], "Healthy");
        assert_eq!(dump["serviceAccount"], "default");
        assert_eq!(dump["services"][0], "shop/web.shop");
        assert_eq!(dump["waypoint"]["destination"], "/10.0.0.9");
        assert_eq!(dump["waypoint"]["hboneMtlsPort"], 15008);
        assert!(dump.get("networkGateway").is_none());
    }
}
