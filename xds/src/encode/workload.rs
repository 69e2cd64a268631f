//! `istio.workload.Workload`.

use super::{gateway, octets, ports, texts};
use crate::identity::DEFAULT_TRUST_DOMAIN;
use crate::proto::workload as message;
use crate::proto::workload::address::Type;
use crate::resource::{
    ApplicationProtocol, ApplicationTunnel, HealthStatus, Locality, NetworkMode, TunnelProtocol, Workload,
    WorkloadSpec, WorkloadType,
};

/// A workload as an Address resource.
pub fn workload(from: &Workload) -> message::Address {
    // Taken apart whole, so that a field that workloads gain has to be thought about here.
    let WorkloadSpec {
        uid,
        name,
        namespace,
        service_account,
        trust_domain,
        addresses,
        hostname,
        network,
        tunnel_protocol,
        network_mode,
        waypoint,
        network_gateway,
        node,
        workload_name,
        workload_type,
        canonical_name,
        canonical_revision,
        native_tunnel,
        application_tunnel,
        authorization_policies,
        status,
        cluster_id,
        locality,
        services,
        capacity,
    } = &**from;
    let services = services
        .iter()
        .map(|(service, map)| (service.to_string(), message::PortList { ports: ports(map) }))
        .collect();
    let message = message::Workload {
        uid: uid.to_string(),
        name: name.to_string(),
        namespace: namespace.to_string(),
        addresses: addresses.iter().copied().map(octets).collect(),
        hostname: hostname.to_string(),
        network: network.to_string(),
        tunnel_protocol: match tunnel_protocol {
            TunnelProtocol::None => message::TunnelProtocol::None,
            TunnelProtocol::Hbone => message::TunnelProtocol::Hbone,
        }
        .into(),
        trust_domain: unless(DEFAULT_TRUST_DOMAIN, trust_domain),
        service_account: unless("default", service_account),
        waypoint: waypoint.as_ref().map(gateway),
        network_gateway: network_gateway.as_ref().map(gateway),
        node: node.to_string(),
        canonical_name: canonical_name.to_string(),
        canonical_revision: canonical_revision.to_string(),
        workload_type: match workload_type {
            WorkloadType::Deployment => message::WorkloadType::Deployment,
            WorkloadType::CronJob => message::WorkloadType::Cronjob,
            WorkloadType::Pod => message::WorkloadType::Pod,
            WorkloadType::Job => message::WorkloadType::Job,
        }
        .into(),
        workload_name: workload_name.to_string(),
        native_tunnel: *native_tunnel,
        application_tunnel: application_tunnel.map(tunnel),
        services,
        authorization_policies: texts(authorization_policies),
        status: match status {
            HealthStatus::Healthy => message::WorkloadStatus::Healthy,
            HealthStatus::Unhealthy => message::WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: cluster_id.to_string(),
        locality: (*locality != Locality::default()).then(|| message::Locality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            subzone: locality.subzone.to_string(),
        }),
        network_mode: match network_mode {
            NetworkMode::Standard => message::NetworkMode::Standard,
            NetworkMode::HostNetwork => message::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: Vec::new(),
        capacity: (*capacity != 1).then_some(*capacity),
    };
    message::Address { r#type: Some(Type::Workload(message)) }
}

fn tunnel(from: ApplicationTunnel) -> message::ApplicationTunnel {
    message::ApplicationTunnel {
        protocol: match from.protocol {
            ApplicationProtocol::None => message::application_tunnel::Protocol::None,
            ApplicationProtocol::Proxy => message::application_tunnel::Protocol::Proxy,
        }
        .into(),
        port: from.port.unwrap_or_default().into(),
    }
}

fn unless(default: &str, text: &str) -> String {
    if text == default { String::new() } else { text.to_owned() }
}
