//! Typed resources as the messages that istiod sends.
//!
//! What the protocol has a default for is left out, as istiod does. A resource that goes through here and the proxy's
//! decoder is the same again.

use std::net::IpAddr;

use xds::proto::{security, workload};
use xds::resource::{
    Action, ApplicationProtocol, ApplicationTunnel, GatewayAddress, GatewayDestination, HealthPolicy,
    HealthStatus, IpFamilies, IpNet, LoadBalancer, LoadBalancerMode, Locality, Match, NetworkMode, PortMap,
    RoutingScope, Scope, ServiceAccountMatch, StringMatch, TunnelProtocol, Visibility, WorkloadType,
};
use xds::{Authorization, Service, Workload};

/// A workload as an Address resource.
pub fn workload(from: &Workload) -> workload::Address {
    let services = from.services.iter();
    let message = workload::Workload {
        uid: from.uid.to_string(),
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        addresses: from.addresses.iter().copied().map(octets).collect(),
        hostname: from.hostname.to_string(),
        network: from.network.to_string(),
        tunnel_protocol: match from.tunnel_protocol {
            TunnelProtocol::None => workload::TunnelProtocol::None,
            TunnelProtocol::Hbone => workload::TunnelProtocol::Hbone,
        }
        .into(),
        trust_domain: unless(xds::identity::DEFAULT_TRUST_DOMAIN, &from.trust_domain),
        service_account: unless("default", &from.service_account),
        waypoint: from.waypoint.as_ref().map(gateway),
        network_gateway: from.network_gateway.as_ref().map(gateway),
        node: from.node.to_string(),
        canonical_name: from.canonical_name.to_string(),
        canonical_revision: from.canonical_revision.to_string(),
        workload_type: match from.workload_type {
            WorkloadType::Deployment => workload::WorkloadType::Deployment,
            WorkloadType::CronJob => workload::WorkloadType::Cronjob,
            WorkloadType::Pod => workload::WorkloadType::Pod,
            WorkloadType::Job => workload::WorkloadType::Job,
        }
        .into(),
        workload_name: from.workload_name.to_string(),
        native_tunnel: from.native_tunnel,
        application_tunnel: from.application_tunnel.map(application_tunnel),
        services: services
            .map(|(key, map)| (key.to_string(), workload::PortList { ports: ports(map) }))
            .collect(),
        authorization_policies: from.authorization_policies.iter().map(ToString::to_string).collect(),
        status: match from.status {
            HealthStatus::Healthy => workload::WorkloadStatus::Healthy,
            HealthStatus::Unhealthy => workload::WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: from.cluster_id.to_string(),
        locality: (from.locality != Locality::default()).then(|| workload::Locality {
            region: from.locality.region.to_string(),
            zone: from.locality.zone.to_string(),
            subzone: from.locality.subzone.to_string(),
        }),
        network_mode: match from.network_mode {
            NetworkMode::Standard => workload::NetworkMode::Standard,
            NetworkMode::HostNetwork => workload::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: Vec::new(),
        capacity: (from.capacity != 1).then_some(from.capacity),
    };
    workload::Address { r#type: Some(workload::address::Type::Workload(message)) }
}

/// A service as an Address resource.
pub fn service(from: &Service) -> workload::Address {
    let single = from.vips.iter().map(|vip| workload::NetworkAddress {
        network: vip.network().to_string(),
        address: octets(vip.address()),
        length: None,
    });
    let ranges = from.cidr_vips.iter().map(|range| workload::NetworkAddress {
        network: range.network().to_string(),
        address: octets(range.cidr().addr()),
        length: Some(range.cidr().prefix_len().into()),
    });
    let message = workload::Service {
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        hostname: from.hostname.to_string(),
        addresses: single.chain(ranges).collect(),
        ports: ports(&from.ports),
        subject_alt_names: from.subject_alt_names.iter().map(ToString::to_string).collect(),
        waypoint: from.waypoint.as_ref().map(gateway),
        load_balancing: from.load_balancer.as_ref().map(load_balancing),
        ip_families: match from.ip_families {
            None => workload::IpFamilies::Automatic,
            Some(IpFamilies::Ipv4) => workload::IpFamilies::Ipv4Only,
            Some(IpFamilies::Ipv6) => workload::IpFamilies::Ipv6Only,
            Some(IpFamilies::Dual) => workload::IpFamilies::Dual,
        }
        .into(),
        extensions: Vec::new(),
        canonical: from.canonical,
        ingress_use_waypoint: false,
        weighted_waypoints: from
            .weighted_waypoints
            .iter()
            .map(|waypoint| workload::WeightedWaypoint {
                destination: Some(gateway(&waypoint.destination)),
                weight: waypoint.weight,
            })
            .collect(),
        visibility: match from.visibility {
            Visibility::Public => workload::service::Visibility::Public,
            Visibility::Namespace => workload::service::Visibility::Namespace,
        }
        .into(),
    };
    workload::Address { r#type: Some(workload::address::Type::Service(message)) }
}

/// A policy.
pub fn authorization(from: &Authorization) -> security::Authorization {
    let rules = from.rules.iter().map(|rule| security::Rule {
        clauses: rule
            .clauses
            .iter()
            .map(|clause| security::Clause { matches: clause.matches.iter().map(conditions).collect() })
            .collect(),
    });
    security::Authorization {
        name: from.name.to_string(),
        namespace: from.namespace.to_string(),
        scope: match from.scope {
            Scope::Global => security::Scope::Global,
            Scope::Namespace => security::Scope::Namespace,
            Scope::WorkloadSelector => security::Scope::WorkloadSelector,
        }
        .into(),
        action: match from.action {
            Action::Allow => security::Action::Allow,
            Action::Deny => security::Action::Deny,
        }
        .into(),
        rules: rules.collect(),
        dry_run: from.dry_run,
        extensions: Vec::new(),
    }
}

fn conditions(from: &Match) -> security::Match {
    let numbers = |ports: &[u16]| ports.iter().copied().map(u32::from).collect();
    security::Match {
        namespaces: from.namespaces.iter().map(text).collect(),
        not_namespaces: from.not_namespaces.iter().map(text).collect(),
        service_accounts: from.service_accounts.iter().map(service_account).collect(),
        not_service_accounts: from.not_service_accounts.iter().map(service_account).collect(),
        principals: from.principals.iter().map(text).collect(),
        not_principals: from.not_principals.iter().map(text).collect(),
        source_ips: from.source_ips.iter().map(range).collect(),
        not_source_ips: from.not_source_ips.iter().map(range).collect(),
        destination_ips: from.destination_ips.iter().map(range).collect(),
        not_destination_ips: from.not_destination_ips.iter().map(range).collect(),
        destination_ports: numbers(&from.destination_ports),
        not_destination_ports: numbers(&from.not_destination_ports),
        extensions: Vec::new(),
    }
}

fn text(from: &StringMatch) -> security::StringMatch {
    use security::string_match::MatchType;
    let match_type = match from {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence() => MatchType::Presence(()),
    };
    security::StringMatch { match_type: Some(match_type) }
}

fn service_account(from: &ServiceAccountMatch) -> security::ServiceAccountMatch {
    security::ServiceAccountMatch {
        namespace: from.namespace.to_string(),
        service_account: from.service_account.to_string(),
    }
}

fn range(from: &IpNet) -> security::Address {
    security::Address { address: octets(from.addr()), length: from.prefix_len().into() }
}

fn load_balancing(from: &LoadBalancer) -> workload::LoadBalancing {
    use workload::load_balancing as message;
    let scope = |scope: &RoutingScope| match scope {
        RoutingScope::Region => message::Scope::Region,
        RoutingScope::Zone => message::Scope::Zone,
        RoutingScope::Subzone => message::Scope::Subzone,
        RoutingScope::Node => message::Scope::Node,
        RoutingScope::Cluster => message::Scope::Cluster,
        RoutingScope::Network => message::Scope::Network,
    };
    workload::LoadBalancing {
        routing_preference: from.routing_preferences.iter().map(|from| scope(from).into()).collect(),
        mode: match from.mode {
            LoadBalancerMode::Standard => message::Mode::UnspecifiedMode,
            LoadBalancerMode::Strict => message::Mode::Strict,
            LoadBalancerMode::Failover => message::Mode::Failover,
            LoadBalancerMode::Passthrough => message::Mode::Passthrough,
        }
        .into(),
        health_policy: match from.health_policy {
            HealthPolicy::OnlyHealthy => message::HealthPolicy::OnlyHealthy,
            HealthPolicy::AllowAll => message::HealthPolicy::AllowAll,
        }
        .into(),
    }
}

fn application_tunnel(from: ApplicationTunnel) -> workload::ApplicationTunnel {
    workload::ApplicationTunnel {
        protocol: match from.protocol {
            ApplicationProtocol::None => workload::application_tunnel::Protocol::None,
            ApplicationProtocol::Proxy => workload::application_tunnel::Protocol::Proxy,
        }
        .into(),
        port: from.port.unwrap_or_default().into(),
    }
}

fn gateway(from: &GatewayAddress) -> workload::GatewayAddress {
    use workload::gateway_address::Destination;
    let destination = match &from.destination {
        GatewayDestination::Address(address) => Destination::Address(workload::NetworkAddress {
            network: address.network().to_string(),
            address: octets(address.address()),
            length: None,
        }),
        GatewayDestination::Hostname(name) => Destination::Hostname(workload::NamespacedHostname {
            namespace: name.namespace().to_string(),
            hostname: name.hostname().to_string(),
        }),
    };
    workload::GatewayAddress { hbone_mtls_port: from.hbone_mtls_port.into(), destination: Some(destination) }
}

fn ports(from: &PortMap) -> Vec<workload::Port> {
    let port = |(service_port, target_port): (u16, u16)| workload::Port {
        service_port: service_port.into(),
        target_port: target_port.into(),
        app_protocol: workload::AppProtocol::Unknown.into(),
    };
    from.iter().map(port).collect()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

fn unless(default: &str, text: &str) -> String {
    if text == default { String::new() } else { text.to_owned() }
}

#[cfg(test)]
mod tests;
