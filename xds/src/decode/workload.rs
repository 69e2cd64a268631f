//! `istio.workload.Workload`.

use std::sync::Arc;

use super::network::{gateway, ip, known, port};
use super::texts::Texts;
use crate::proto::workload as message;
use crate::resource::{
    ApplicationProtocol, ApplicationTunnel, HealthStatus, Locality, Memberships, NamespacedHostname,
    NetworkMode, PortMap, Problem, ResourceError, TunnelProtocol, Workload, WorkloadSpec, WorkloadType,
};

pub(super) fn decode(texts: &mut Texts, message: &message::Workload) -> Result<Workload, ResourceError> {
    // Taken apart whole, so that a field that the schema gains has to be thought about here.
    let message::Workload {
        uid,
        name,
        namespace,
        addresses,
        hostname,
        network,
        tunnel_protocol,
        trust_domain,
        service_account,
        waypoint,
        network_gateway,
        node,
        canonical_name,
        canonical_revision,
        workload_type: _, // by its accessor, which takes an unknown value for the default
        workload_name,
        native_tunnel,
        application_tunnel,
        services,
        authorization_policies,
        status,
        cluster_id,
        locality,
        network_mode,
        extensions: _,
        capacity,
    } = message;
    let addresses: Result<Vec<_>, _> = addresses.iter().map(|bytes| ip(bytes)).collect();
    let name = Arc::<str>::from(&**name);
    Workload::new(WorkloadSpec {
        uid: uid.as_str().into(),
        namespace: texts.share(namespace),
        service_account: texts.share(service_account),
        trust_domain: texts.share(trust_domain),
        addresses: addresses.map_err(|problem| ResourceError { field: "workloadIps", problem })?,
        hostname: texts.share(hostname),
        network: texts.share(network),
        tunnel_protocol: protocol(*tunnel_protocol)?,
        network_mode: match known("networkMode", *network_mode)? {
            message::NetworkMode::Standard => NetworkMode::Standard,
            message::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
        },
        waypoint: waypoint.as_ref().map(|waypoint| gateway(texts, "waypoint", waypoint)).transpose()?,
        network_gateway: network_gateway
            .as_ref()
            .map(|network_gateway| gateway(texts, "networkGateway", network_gateway))
            .transpose()?,
        node: texts.share(node),
        // A pod of its own is its own owner.
        workload_name: if **workload_name == *name { name.clone() } else { texts.share(workload_name) },
        workload_type: match message.workload_type() {
            message::WorkloadType::Deployment => WorkloadType::Deployment,
            message::WorkloadType::Cronjob => WorkloadType::CronJob,
            message::WorkloadType::Pod => WorkloadType::Pod,
            message::WorkloadType::Job => WorkloadType::Job,
        },
        canonical_name: texts.share(canonical_name),
        canonical_revision: texts.share(canonical_revision),
        native_tunnel: *native_tunnel,
        application_tunnel: application_tunnel.as_ref().map(tunnel).transpose()?,
        authorization_policies: authorization_policies.iter().map(|key| texts.share(key)).collect(),
        status: match known("status", *status)? {
            message::WorkloadStatus::Healthy => HealthStatus::Healthy,
            message::WorkloadStatus::Unhealthy => HealthStatus::Unhealthy,
        },
        cluster_id: texts.share(cluster_id),
        locality: locality.as_ref().map_or_else(Locality::default, |message| {
            let message::Locality { region, zone, subzone } = message;
            Locality { region: texts.share(region), zone: texts.share(zone), subzone: texts.share(subzone) }
        }),
        services: services
            .iter()
            .map(|(service, ports)| membership(texts, service, ports))
            .collect::<Result<Memberships, _>>()?,
        capacity: capacity.unwrap_or(1),
        name,
    })
}

fn protocol(value: i32) -> Result<TunnelProtocol, ResourceError> {
    match known("protocol", value)? {
        message::TunnelProtocol::None => Ok(TunnelProtocol::None),
        message::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        message::TunnelProtocol::LegacyIstioMtls => {
            Err(ResourceError { field: "protocol", problem: Problem::LegacyMutualTls })
        }
    }
}

fn tunnel(message: &message::ApplicationTunnel) -> Result<ApplicationTunnel, ResourceError> {
    let message::ApplicationTunnel { protocol, port: number } = message;
    let field = "applicationTunnel";
    Ok(ApplicationTunnel {
        protocol: match known(field, *protocol)? {
            message::application_tunnel::Protocol::None => ApplicationProtocol::None,
            message::application_tunnel::Protocol::Proxy => ApplicationProtocol::Proxy,
        },
        port: match port(*number).map_err(|problem| ResourceError { field, problem })? {
            0 => None,
            port => Some(port),
        },
    })
}

fn membership(
    texts: &mut Texts,
    service: &str,
    ports: &message::PortList,
) -> Result<(NamespacedHostname, PortMap), ResourceError> {
    let key = service
        .split_once('/')
        .ok_or_else(|| Problem::NotNamespacedHostname(service.to_owned()))
        .and_then(|(namespace, hostname)| {
            NamespacedHostname::new(texts.share(namespace), texts.share(hostname))
        })
        .map_err(|problem| ResourceError { field: "services", problem })?;
    Ok((key, PortMap::new("services", ports.ports.iter().map(|port| (port.service_port, port.target_port)))?))
}
