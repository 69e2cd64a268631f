//! `istio.workload.Service`.

use super::network::{gateway, ip, known, range};
use super::texts::Texts;
use crate::proto::workload as message;
use crate::proto::workload::load_balancing as balancing;
use crate::resource::{
    HealthPolicy, IpFamilies, LoadBalancer, LoadBalancerMode, NetworkAddress, NetworkCidr, PortMap, Problem,
    ResourceError, RoutingScope, Service, ServiceSpec, Visibility, WeightedWaypoint,
};

pub(super) fn decode(texts: &mut Texts, message: &message::Service) -> Result<Service, ResourceError> {
    // Taken apart whole, so that a field that the schema gains has to be thought about here.
    let message::Service {
        name,
        namespace,
        hostname,
        addresses,
        ports,
        subject_alt_names,
        waypoint,
        load_balancing,
        ip_families,
        extensions: _,
        canonical,
        ingress_use_waypoint: _,
        weighted_waypoints,
        visibility: _, // by its accessor, which takes an unknown value for the default
    } = message;
    let (mut vips, mut cidr_vips) = (Vec::new(), Vec::new());
    for address in addresses {
        match vip(texts, address)? {
            Vip::Address(vip) => vips.push(vip),
            Vip::Range(range) => cidr_vips.push(range),
        }
    }
    Service::new(ServiceSpec {
        name: texts.share(name),
        namespace: texts.share(namespace),
        hostname: texts.share(hostname),
        vips,
        cidr_vips,
        ports: PortMap::new("ports", ports.iter().map(|port| (port.service_port, port.target_port)))?,
        subject_alt_names: subject_alt_names.iter().map(|name| texts.share(name)).collect(),
        waypoint: waypoint.as_ref().map(|waypoint| gateway(texts, "waypoint", waypoint)).transpose()?,
        weighted_waypoints: weighted_waypoints
            .iter()
            .map(|message| weighted_waypoint(texts, message))
            .collect::<Result<_, _>>()?,
        load_balancer: load_balancing.as_ref().map(load_balancer).transpose()?,
        ip_families: match known("ipFamilies", *ip_families)? {
            message::IpFamilies::Automatic => None,
            message::IpFamilies::Ipv4Only => Some(IpFamilies::Ipv4),
            message::IpFamilies::Ipv6Only => Some(IpFamilies::Ipv6),
            message::IpFamilies::Dual => Some(IpFamilies::Dual),
        },
        canonical: *canonical,
        visibility: match message.visibility() {
            message::service::Visibility::Public => Visibility::Public,
            message::service::Visibility::Namespace => Visibility::Namespace,
        },
    })
}

enum Vip {
    Address(NetworkAddress),
    Range(NetworkCidr),
}

/// A range of one address is that address.
fn vip(texts: &mut Texts, message: &message::NetworkAddress) -> Result<Vip, ResourceError> {
    let message::NetworkAddress { network, address, length } = message;
    let network = texts.share(network);
    let vip = match length {
        None => ip(address).map(|ip| Vip::Address(NetworkAddress::new(network, ip))),
        Some(length) => range(address, *length).map(|range| {
            if range.prefix_len() == range.max_prefix_len() {
                Vip::Address(NetworkAddress::new(network, range.addr()))
            } else {
                Vip::Range(NetworkCidr::new(network, range))
            }
        }),
    };
    vip.map_err(|problem| ResourceError { field: "vips", problem })
}

fn weighted_waypoint(
    texts: &mut Texts,
    message: &message::WeightedWaypoint,
) -> Result<WeightedWaypoint, ResourceError> {
    let message::WeightedWaypoint { destination, weight } = message;
    let field = "weightedWaypoints";
    let destination = destination.as_ref().ok_or(ResourceError { field, problem: Problem::Empty })?;
    Ok(WeightedWaypoint { destination: gateway(texts, field, destination)?, weight: *weight })
}

fn load_balancer(message: &message::LoadBalancing) -> Result<LoadBalancer, ResourceError> {
    let message::LoadBalancing { routing_preference, mode, health_policy } = message;
    let field = "loadBalancer";
    Ok(LoadBalancer {
        routing_preferences: routing_preference
            .iter()
            .map(|scope| match known(field, *scope)? {
                balancing::Scope::Region => Ok(RoutingScope::Region),
                balancing::Scope::Zone => Ok(RoutingScope::Zone),
                balancing::Scope::Subzone => Ok(RoutingScope::Subzone),
                balancing::Scope::Node => Ok(RoutingScope::Node),
                balancing::Scope::Cluster => Ok(RoutingScope::Cluster),
                balancing::Scope::Network => Ok(RoutingScope::Network),
                balancing::Scope::UnspecifiedScope => {
                    Err(ResourceError { field, problem: Problem::UnknownValue(*scope) })
                }
            })
            .collect::<Result<_, _>>()?,
        mode: match known(field, *mode)? {
            balancing::Mode::UnspecifiedMode => LoadBalancerMode::Standard,
            balancing::Mode::Strict => LoadBalancerMode::Strict,
            balancing::Mode::Failover => LoadBalancerMode::Failover,
            balancing::Mode::Passthrough => LoadBalancerMode::Passthrough,
        },
        health_policy: match known(field, *health_policy)? {
            balancing::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            balancing::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}
