//! Captured traffic that leaves a workload.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use xds::resource::{GatewayAddress, GatewayDestination, LoadBalancerMode, TunnelProtocol};
use xds::store::Tombstone;
use xds::{Identity, Service, Snapshot, Workload, upstream};

use super::{Authority, Destination, LocalProxy};

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through a tunnel.
    Tunnel(TunnelRoute),
    /// As plain TCP.
    Direct {
        /// What to dial.
        address: SocketAddr,
        /// What is known about it.
        destination: Destination,
    },
    /// Nowhere.
    Refused(RouteError),
}

/// A tunnel to the proxy of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRoute {
    /// The next hop.
    pub address: SocketAddr,
    /// What to ask it for.
    pub authority: Authority,
    /// The certificate of the next hop must name one of these. Sorted, without doubles, never empty.
    pub expected: Arc<[Identity]>,
    /// What is known about the far end.
    pub destination: Destination,
}

/// Why a connection goes nowhere. It concerns this connection alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The application called a port of this proxy.
    #[error("attempted recursive call to ourselves")]
    SelfCall,
    /// The service is known, but none of its endpoints can take the connection.
    #[error("no healthy upstream: {0}")]
    NoHealthyUpstream(SocketAddr),
    /// The workload has no address that may be used.
    #[error("no valid routing destination for workload: {0}")]
    NoValidDestination(Arc<str>),
    /// The way leads through a waypoint, which this proxy cannot use yet.
    #[error("unsupported feature: waypoint of {0}")]
    Waypoint(Arc<str>),
    /// The way leads through the gateway of another network, which this proxy cannot use yet.
    #[error("unsupported feature: network gateway {gateway} to workload {workload}")]
    NetworkGateway {
        /// The workload in the other network.
        workload: Arc<str>,
        /// Its gateway.
        gateway: String,
    },
    /// What is at the address could not be read, so how it must be reached is not known.
    #[error("the control plane sent a resource for this address that cannot be used: {}: {}", .0.name, .0.reason)]
    Refused(Arc<Tombstone>),
    /// The workload is known only by a hostname, which this proxy cannot resolve yet.
    #[error("unsupported feature: address of workload {workload} by hostname {hostname}")]
    Hostname {
        /// The workload.
        workload: Arc<str>,
        /// Its hostname.
        hostname: Arc<str>,
    },
}

/// Decides where traffic of `source` to `requested`, the original destination, goes.
///
/// `random` returns a number below its argument, evenly distributed.
pub fn outbound(
    snapshot: &Snapshot,
    proxy: &LocalProxy<'_>,
    source: &Workload,
    requested: SocketAddr,
    random: &mut impl FnMut(u64) -> u64,
) -> Route {
    let requested = SocketAddr::new(requested.ip().to_canonical(), requested.port());
    let ip = requested.ip();
    if ip.is_loopback() && proxy.reserved_ports.contains(&requested.port()) {
        return Route::Refused(RouteError::SelfCall);
    }

    let owner = snapshot.workload_by_address(proxy.network, ip);
    let service = snapshot.service_by_vip(proxy.network, ip, &source.namespace);
    let upstream =
        match service {
            Some(service) => {
                let endpoints = || snapshot.endpoints(service);
                upstream::choose(source, service, requested.port(), endpoints, random).map(|chosen| {
                    Upstream { workload: chosen.workload, port: chosen.port, service: Some(service) }
                })
            }
            None => owner.map(|workload| Upstream { workload, port: requested.port(), service: None }),
        };
    // Service-addressed traffic passes the waypoint of the service, not those of its workloads. An address that belongs
    // to a workload as well is not addressed as a service.
    let behind_waypoint = || {
        let addressed = [owner, upstream.map(|upstream| upstream.workload)].into_iter().flatten();
        let goes_past = |waypoint| !is_behind(snapshot, waypoint, source);
        let mut workloads = addressed.filter(|_| service.is_none() || owner.is_some());
        workloads.find(|workload| workload.waypoint.as_ref().is_some_and(goes_past))
    };

    // The first line that fits decides.
    match (service, upstream, behind_waypoint()) {
        // service at the address   endpoint or workload   workload whose waypoint must be passed
        (Some(service), _, _) if service.has_waypoint() => refuse_waypoint(service.key()),
        (_, _, Some(workload)) => refuse_waypoint(&workload.uid),
        (Some(service), _, _) if is_passthrough(service) => direct(requested, Destination::default()),
        (Some(_), None, _) => Route::Refused(RouteError::NoHealthyUpstream(requested)),
        (None, None, _) => match snapshot.refused_address(proxy.network, ip) {
            Some(tombstone) => Route::Refused(RouteError::Refused(tombstone.clone())),
            None => direct(requested, Destination::default()),
        },
        (_, Some(upstream), _) if upstream.workload.network != source.network => {
            upstream.refuse_other_network()
        }
        (_, Some(upstream), _) => match (upstream.address(ip), upstream.workload.tunnel_protocol) {
            (Err(refused), _) => Route::Refused(refused),
            (Ok(address), TunnelProtocol::Hbone) => upstream.tunnel(address, proxy.hbone_port),
            (Ok(address), TunnelProtocol::None) => direct(address, upstream.destination()),
        },
    }
}

/// The workload that takes the connection.
#[derive(Clone, Copy)]
struct Upstream<'a> {
    workload: &'a Arc<Workload>,
    /// The port of its application.
    port: u16,
    /// The service through which it was found.
    service: Option<&'a Arc<Service>>,
}

impl Upstream<'_> {
    /// The address of its application.
    fn address(&self, requested: IpAddr) -> Result<SocketAddr, RouteError> {
        let workload = self.workload;
        match upstream::address(workload, self.service.map(|service| &**service), requested) {
            Some(ip) => Ok(SocketAddr::new(ip, self.port)),
            None if workload.addresses.is_empty() && !workload.hostname.is_empty() => {
                Err(RouteError::Hostname {
                    workload: workload.uid.clone(),
                    hostname: workload.hostname.clone(),
                })
            }
            None => Err(RouteError::NoValidDestination(workload.uid.clone())),
        }
    }

    fn tunnel(&self, address: SocketAddr, hbone_port: u16) -> Route {
        let named_by_service = self.service.map_or(&[][..], |service| service.identities());
        let mut expected: Vec<Identity> = named_by_service.to_vec();
        expected.push(self.workload.identity());
        expected.sort_unstable();
        expected.dedup();
        Route::Tunnel(TunnelRoute {
            address: SocketAddr::new(address.ip(), hbone_port),
            authority: Authority::Address(address),
            expected: expected.into(),
            destination: self.destination(),
        })
    }

    fn refuse_other_network(&self) -> Route {
        let workload = self.workload.uid.clone();
        Route::Refused(match &self.workload.network_gateway {
            Some(gateway) => RouteError::NetworkGateway { workload, gateway: gateway.to_string() },
            None => RouteError::NoValidDestination(workload),
        })
    }

    fn destination(&self) -> Destination {
        Destination { workload: Some(self.workload.clone()), service: self.service.cloned() }
    }
}

fn direct(address: SocketAddr, destination: Destination) -> Route {
    Route::Direct { address, destination }
}

fn refuse_waypoint(of: &impl ToString) -> Route {
    Route::Refused(RouteError::Waypoint(of.to_string().into()))
}

fn is_passthrough(service: &Service) -> bool {
    service.mode() == LoadBalancerMode::Passthrough
}

/// Whether `workload` is what the reference leads to: a waypoint itself does not go through itself again.
pub(super) fn is_behind(snapshot: &Snapshot, reference: &GatewayAddress, workload: &Workload) -> bool {
    match &reference.destination {
        GatewayDestination::Hostname(key) => match snapshot.service_by_key(key) {
            Some(service) => snapshot.is_endpoint(service, &workload.uid),
            None => workload.hostname == *key.hostname() && workload.namespace == *key.namespace(),
        },
        GatewayDestination::Address(address) => {
            let (network, ip) = (address.network(), address.address());
            match snapshot.workload_by_address(network, ip) {
                Some(owner) => owner.uid == workload.uid,
                None => snapshot
                    .any_service_by_vip(network, ip)
                    .is_some_and(|service| snapshot.is_endpoint(service, &workload.uid)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
