//! `istio.workload.Service`.

use super::{address, gateway, ports, range, texts};
use crate::proto::workload as message;
use crate::proto::workload::address::Type;
use crate::proto::workload::load_balancing as balancing;
use crate::resource::{
    HealthPolicy, IpFamilies, LoadBalancer, LoadBalancerMode, RoutingScope, Service, ServiceSpec, Visibility,
    WeightedWaypoint,
};

/// A service as an Address resource.
pub fn service(from: &Service) -> message::Address {
    // Taken apart whole, so that a field that services gain has to be thought about here.
    let ServiceSpec {
        name,
        namespace,
        hostname,
        vips,
        cidr_vips,
        ports: map,
        subject_alt_names,
        waypoint,
        weighted_waypoints,
        load_balancer,
        ip_families,
        canonical,
        visibility,
    } = &**from;
    let message = message::Service {
        name: name.to_string(),
        namespace: namespace.to_string(),
        hostname: hostname.to_string(),
        addresses: vips.iter().map(address).chain(cidr_vips.iter().map(range)).collect(),
        ports: ports(map),
        subject_alt_names: texts(subject_alt_names),
        waypoint: waypoint.as_ref().map(gateway),
        load_balancing: load_balancer.as_ref().map(load_balancing),
        ip_families: match ip_families {
            None => message::IpFamilies::Automatic,
            Some(IpFamilies::Ipv4) => message::IpFamilies::Ipv4Only,
            Some(IpFamilies::Ipv6) => message::IpFamilies::Ipv6Only,
            Some(IpFamilies::Dual) => message::IpFamilies::Dual,
        }
        .into(),
        extensions: Vec::new(),
        canonical: *canonical,
        ingress_use_waypoint: false,
        weighted_waypoints: weighted_waypoints.iter().map(weighted_waypoint).collect(),
        visibility: match visibility {
            Visibility::Public => message::service::Visibility::Public,
            Visibility::Namespace => message::service::Visibility::Namespace,
        }
        .into(),
    };
    message::Address { r#type: Some(Type::Service(message)) }
}

fn weighted_waypoint(from: &WeightedWaypoint) -> message::WeightedWaypoint {
    let WeightedWaypoint { destination, weight } = from;
    message::WeightedWaypoint { destination: Some(gateway(destination)), weight: *weight }
}

fn load_balancing(from: &LoadBalancer) -> message::LoadBalancing {
    let LoadBalancer { routing_preferences, mode, health_policy } = from;
    let scope = |scope: &RoutingScope| match scope {
        RoutingScope::Region => balancing::Scope::Region,
        RoutingScope::Zone => balancing::Scope::Zone,
        RoutingScope::Subzone => balancing::Scope::Subzone,
        RoutingScope::Node => balancing::Scope::Node,
        RoutingScope::Cluster => balancing::Scope::Cluster,
        RoutingScope::Network => balancing::Scope::Network,
    };
    message::LoadBalancing {
        routing_preference: routing_preferences.iter().map(|from| scope(from).into()).collect(),
        mode: match mode {
            LoadBalancerMode::Standard => balancing::Mode::UnspecifiedMode,
            LoadBalancerMode::Strict => balancing::Mode::Strict,
            LoadBalancerMode::Failover => balancing::Mode::Failover,
            LoadBalancerMode::Passthrough => balancing::Mode::Passthrough,
        }
        .into(),
        health_policy: match health_policy {
            HealthPolicy::OnlyHealthy => balancing::HealthPolicy::OnlyHealthy,
            HealthPolicy::AllowAll => balancing::HealthPolicy::AllowAll,
        }
        .into(),
    }
}
