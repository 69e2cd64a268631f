//! CONNECT requests that arrive for a workload.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use xds::resource::ApplicationProtocol;
use xds::{Service, Snapshot, Workload};

use super::outbound::is_behind;
use super::{Authority, AuthorityError, LocalProxy};

/// What a CONNECT request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundTarget {
    /// The local application. Policies judge the connection by this destination.
    pub address: SocketAddr,
    /// What was asked for.
    pub authority: Authority,
    /// The service that was asked for by name. See [`destination_service`] for a guess where none was.
    pub service: Option<Arc<Service>>,
}

/// Why a CONNECT request leads nowhere. It concerns its stream alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboundRefusal {
    /// The authority is neither `ip:port` nor `host:port`.
    #[error(transparent)]
    NoValidAuthority(#[from] AuthorityError),
    /// The address asked for is not the one that the tunnel came to, nor one that this workload is a waypoint of.
    #[error("ip mismatch: {connection} != {requested}")]
    IpMismatch {
        /// Where the tunnel came to.
        connection: IpAddr,
        /// What was asked for.
        requested: IpAddr,
    },
    /// No service of this hostname is visible to the workload.
    #[error("no service or workload for hostname: {0}")]
    NoHostname(Arc<str>),
    /// The service is known, but the port asked for leads nowhere.
    #[error("requested service {0}:{1} found, but cannot resolve port")]
    NoPortForService(Arc<str>, u16),
    /// The target is a port of this proxy.
    #[error("attempted recursive call to ourselves")]
    SelfCall,
    /// The workload wants a header before the bytes, which this proxy cannot write yet.
    #[error("unsupported feature: application tunnel PROXY of workload {0}")]
    ApplicationTunnel(Arc<str>),
}

impl InboundRefusal {
    /// The HTTP status of the answer: 400 if the request is at fault, 503 if it cannot be served here.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoValidAuthority(_) | Self::IpMismatch { .. } => 400,
            Self::NoHostname(_)
            | Self::NoPortForService(..)
            | Self::SelfCall
            | Self::ApplicationTunnel(_) => 503,
        }
    }
}

/// Checks a CONNECT request that came in a tunnel to `connection`, an address of the workload `local`, and finds what it
/// leads to. The address is always the workload's own; the request decides only the port.
pub fn inbound(
    snapshot: &Snapshot,
    proxy: &LocalProxy<'_>,
    local: &Workload,
    connection: IpAddr,
    authority: &str,
) -> Result<InboundTarget, InboundRefusal> {
    let authority: Authority = authority.parse()?;
    let connection = connection.to_canonical();
    check_address(snapshot, proxy, local, connection, &authority)?;
    let (port, service) = match &authority {
        Authority::Address(address) => (address.port(), None),
        Authority::Host(host, port) => {
            let service = snapshot
                .service_by_hostname(&local.namespace, host)
                .ok_or_else(|| InboundRefusal::NoHostname(host.clone()))?;
            let own = local.services.get(service.key()).and_then(|ports| ports.target(*port));
            let target = own
                .or_else(|| service.ports.target(*port))
                .ok_or_else(|| InboundRefusal::NoPortForService(host.clone(), *port))?;
            (target, Some(service.clone()))
        }
    };
    let dialled = application_port(local, port)?;
    if proxy.reserved_ports.contains(&port) || proxy.reserved_ports.contains(&dialled) {
        return Err(InboundRefusal::SelfCall);
    }
    Ok(InboundTarget { address: SocketAddr::new(connection, dialled), authority, service })
}

/// The service that a connection to `port` of `local` is most likely meant for, for telemetry: the one that the client
/// names, else the first that leads to this port.
pub fn destination_service<'a>(
    snapshot: &'a Snapshot,
    local: &Workload,
    port: u16,
    named: Option<&str>,
) -> Option<&'a Arc<Service>> {
    let services =
        || local.services.iter().filter_map(|(key, ports)| Some((snapshot.service_by_key(key)?, ports)));
    let by_name = services().find(|(service, _)| named.is_some_and(|named| *service.hostname == *named));
    let by_port = || {
        services().find(|(service, own)| {
            service
                .ports
                .iter()
                .any(|(service_port, target)| own.target(service_port).unwrap_or(target) == port)
        })
    };
    by_name.or_else(by_port).map(|(service, _)| service)
}

/// A target by address must be the workload itself, or something that it is the waypoint of. A workload with an
/// application tunnel judges for itself; a target by name is looked up from the workload's point of view anyway.
fn check_address(
    snapshot: &Snapshot,
    proxy: &LocalProxy<'_>,
    local: &Workload,
    connection: IpAddr,
    authority: &Authority,
) -> Result<(), InboundRefusal> {
    let Some(requested) = authority.ip() else { return Ok(()) };
    if requested == connection || local.application_tunnel.is_some() {
        return Ok(());
    }
    let waypoint = match snapshot.workload_by_address(proxy.network, requested) {
        Some(workload) => workload.waypoint.as_ref(),
        None => snapshot
            .any_service_by_vip(proxy.network, requested)
            .and_then(|service| service.waypoint.as_ref()),
    };
    match waypoint {
        Some(waypoint) if is_behind(snapshot, waypoint, local) => Ok(()),
        _ => Err(InboundRefusal::IpMismatch { connection, requested }),
    }
}

/// The port to dial: an application tunnel may have its own.
fn application_port(local: &Workload, port: u16) -> Result<u16, InboundRefusal> {
    match local.application_tunnel {
        None => Ok(port),
        Some(tunnel) => match tunnel.protocol {
            ApplicationProtocol::None => Ok(tunnel.port.unwrap_or(port)),
            ApplicationProtocol::Proxy => Err(InboundRefusal::ApplicationTunnel(local.uid.clone())),
        },
    }
}

#[cfg(test)]
mod tests;
