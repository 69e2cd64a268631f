//! A service: a name, its addresses, and how one of its endpoints is chosen.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::{
    GatewayAddress, NamespacedHostname, NetworkAddress, NetworkCidr, PortMap, ResourceError, is_default,
};
use crate::identity::Identity;

/// A checked service. Reads like its [`ServiceSpec`]. Its endpoints are not part of it: they follow from the
/// workloads that name it (see [`crate::Snapshot::endpoints`]).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ServiceSpec")]
pub struct Service {
    spec: ServiceSpec,
    key: NamespacedHostname,
    identities: Box<[Identity]>,
}

impl Service {
    /// Checks and seals.
    pub fn new(spec: ServiceSpec) -> Result<Self, ResourceError> {
        let key = NamespacedHostname::new(spec.namespace.clone(), spec.hostname.clone())
            .map_err(|e| ResourceError::new("hostname", e))?;
        let identities = spec.subject_alt_names.iter().filter_map(|san| san.parse().ok()).collect();
        Ok(Self { spec, key, identities })
    }

    /// The primary key, `namespace/hostname`.
    pub fn key(&self) -> &NamespacedHostname {
        &self.key
    }

    /// The subject alternative names that are identities; the others can match no workload's certificate.
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Whether clients in `namespace` may use the service.
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => *self.namespace == *namespace,
        }
    }

    /// Whether traffic to the service passes a waypoint: it names one, or a weighted set that is not all zero.
    pub fn has_waypoint(&self) -> bool {
        self.waypoint.is_some() || self.weighted_waypoints.iter().any(|waypoint| waypoint.weight > 0)
    }

    /// How endpoints are chosen; `Standard` unless said otherwise.
    pub fn mode(&self) -> LoadBalancerMode {
        self.load_balancer.as_ref().map_or(LoadBalancerMode::Standard, |balancer| balancer.mode)
    }

    /// Which endpoints may be chosen; only healthy ones unless said otherwise.
    pub fn health_policy(&self) -> HealthPolicy {
        self.load_balancer.as_ref().map_or(HealthPolicy::OnlyHealthy, |balancer| balancer.health_policy)
    }

    /// Whether an endpoint's address may be used for this service.
    pub fn accepts(&self, address: IpAddr) -> bool {
        match self.ip_families {
            None | Some(IpFamilies::Dual) => true,
            Some(IpFamilies::Ipv4) => address.is_ipv4(),
            Some(IpFamilies::Ipv6) => address.is_ipv6(),
        }
    }
}

impl Deref for Service {
    type Target = ServiceSpec;

    fn deref(&self) -> &ServiceSpec {
        &self.spec
    }
}

impl TryFrom<ServiceSpec> for Service {
    type Error = ResourceError;

    fn try_from(spec: ServiceSpec) -> Result<Self, ResourceError> {
        Self::new(spec)
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.spec.serialize(serializer)
    }
}

/// The fields of a service, unchecked (`istio.workload.Service`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceSpec {
    /// Short name.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Fully qualified hostname.
    pub hostname: Arc<str>,
    /// Virtual addresses.
    pub vips: Vec<NetworkAddress>,
    /// Virtual address ranges.
    #[serde(skip_serializing_if = "is_default")]
    pub cidr_vips: Vec<NetworkCidr>,
    /// Service ports and their targets.
    pub ports: PortMap,
    /// Names that an endpoint's certificate may have besides the endpoint's own identity.
    pub subject_alt_names: Vec<Arc<str>>,
    /// The waypoint that traffic to this service must pass.
    #[serde(skip_serializing_if = "is_default")]
    pub waypoint: Option<GatewayAddress>,
    /// Waypoints of which one is sampled for each connection, before `waypoint`.
    #[serde(skip_serializing_if = "is_default")]
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer: Option<LoadBalancer>,
    /// Which families of endpoint addresses may be used; all unless said otherwise.
    #[serde(skip_serializing_if = "is_default")]
    pub ip_families: Option<IpFamilies>,
    /// Preferred among services that share a hostname or an address.
    pub canonical: bool,
    /// Who may use the service.
    pub visibility: Visibility,
}

/// One of a service's waypoints and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub destination: GatewayAddress,
    /// Relative weight.
    pub weight: u32,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancer {
    /// What a near endpoint shares with the client, the widest first.
    pub routing_preferences: Vec<RoutingScope>,
    /// What the preferences mean.
    pub mode: LoadBalancerMode,
    /// Which endpoints may be chosen.
    pub health_policy: HealthPolicy,
}

/// What an endpoint may share with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoutingScope {
    /// Region of the locality.
    Region,
    /// Zone of the locality.
    Zone,
    /// Subzone of the locality.
    Subzone,
    /// Node.
    Node,
    /// Cluster.
    Cluster,
    /// Network.
    Network,
}

/// What the routing preferences mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancerMode {
    /// Nothing: any endpoint.
    #[default]
    Standard,
    /// Only endpoints that share all of them.
    Strict,
    /// Those that share most, in order.
    Failover,
    /// No choice: the original destination.
    Passthrough,
}

/// Which endpoints may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthPolicy {
    /// Healthy ones.
    #[default]
    OnlyHealthy,
    /// All.
    AllowAll,
}

/// Address families of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamilies {
    /// Both.
    Dual,
    /// IPv4 alone.
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6 alone.
    #[serde(rename = "IPv6")]
    Ipv6,
}

/// Who may use a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visibility {
    /// Everyone.
    #[default]
    Public,
    /// Clients in the namespace of the service.
    Namespace,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ServiceSpec {
        ServiceSpec { namespace: "shop".into(), hostname: "web.shop".into(), ..ServiceSpec::default() }
    }

    #[test]
    fn only_names_that_are_identities_count() {
        let service = Service::new(ServiceSpec {
            subject_alt_names: vec!["spiffe://td/ns/a/sa/b".into(), "web.example.com".into()],
            ..spec()
        })
        .unwrap();
        assert_eq!(service.identities(), ["spiffe://td/ns/a/sa/b".parse().unwrap()]);
        assert_eq!(serde_json::to_value(&service).unwrap()["subjectAltNames"][1], "web.example.com");
    }

    #[test]
    fn a_service_needs_its_key() {
        for spec in
            [ServiceSpec { namespace: "".into(), ..spec() }, ServiceSpec { hostname: "a/b".into(), ..spec() }]
        {
            assert_eq!(Service::new(spec).unwrap_err().field, "hostname");
        }
    }

    #[test]
    fn a_weighted_set_of_zeros_is_no_waypoint() {
        let waypoint = |weight| WeightedWaypoint {
            destination: GatewayAddress {
                destination: "shop/wp.shop".parse().unwrap(),
                hbone_mtls_port: 15008,
            },
            weight,
        };
        let service = |weights: &[u32]| {
            let weighted_waypoints = weights.iter().copied().map(waypoint).collect();
            Service::new(ServiceSpec { weighted_waypoints, ..spec() }).unwrap()
        };
        assert!(!service(&[]).has_waypoint());
        assert!(!service(&[0, 0]).has_waypoint());
        assert!(service(&[0, 1]).has_waypoint());
    }
}
