//! Where an application's outgoing connection goes: [`crate::route`] decides, this makes a plan of it that a
//! worker can carry out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hbone::ConnectRequest;
use xds::Workload;

use crate::headers;
use crate::plan::Plan;
use crate::pod::Pod;
use crate::pool::PoolKey;
use crate::route::{self, Destination, Route};
use crate::shared::Shared;
use crate::socket::Source;
use crate::telemetry::{ConnectionFacts, Direction, Failure, Party, ResponseFlags, ServiceFacts};

/// The plan for a connection of a pod, which is this workload.
pub fn plan(
    shared: &Shared,
    pod: &Arc<Pod>,
    workload: &Workload,
    source: SocketAddr,
    destination: SocketAddr,
) -> Plan {
    if shared.is_own_port(destination) && is_own_address(workload, destination.ip()) {
        return Plan::Close { reason: format!("{destination} is the proxy itself") };
    }
    let snapshot = shared.store.load();
    let mut random = fastrand::Rng::new();
    let mut pick = |bound| random.u64(0..bound);
    let route = route::outbound(&snapshot, &shared.local_proxy(), workload, destination, &mut pick);
    let facts = |address: SocketAddr, to: &Destination, hbone: Option<String>| {
        let mutual_tls = hbone.is_some();
        Box::new(ConnectionFacts {
            direction: Direction::Outbound,
            source: Some(source),
            source_party: Party::from(workload),
            destination: Some(address),
            destination_party: to.workload.as_deref().map(Party::from).unwrap_or_default(),
            application: None,
            hbone_destination: hbone,
            service: to.service.as_deref().map(ServiceFacts::from),
            mutual_tls,
        })
    };
    match route {
        Route::Tunnel(tunnel) => {
            let service = tunnel.destination.service.as_deref().map(|service| &*service.hostname);
            let mut headers = vec![headers::baggage(workload), headers::forwarded(source, service)];
            headers.push(headers::traceparent(&mut random));
            let authority = tunnel.authority.to_string();
            let request = ConnectRequest::connect(authority.clone(), headers);
            let key = PoolKey {
                pod: pod.clone(),
                source: workload.identity(),
                source_address: shared.bind_address,
                address: tunnel.address,
                expected: tunnel.expected,
            };
            Plan::Tunnel { key, request, facts: facts(tunnel.address, &tunnel.destination, Some(authority)) }
        }
        Route::Direct { address, destination } => {
            // The proxy's own address is the application's too, so there is no source to keep.
            let from = shared.bind_address.map(Source::Own);
            Plan::Direct { to: address, from, facts: facts(address, &destination, None) }
        }
        Route::Refused(error) => {
            let failure = Failure::new(ResponseFlags::None, error.to_string());
            Plan::Refuse { failure, facts: facts(destination, &Destination::default(), None) }
        }
    }
}

/// With resources on demand: the name to ask the control plane for before a connection to `destination` can be planned.
/// None if something is known there, or is known not to be.
pub fn unanswered(shared: &Shared, workload: &Workload, destination: SocketAddr) -> Option<String> {
    shared.demand.as_ref()?;
    let (network, ip) = (shared.location.network.as_str(), destination.ip().to_canonical());
    let snapshot = shared.store.load();
    let known = snapshot.workload_by_address(network, ip).is_some()
        || snapshot.service_by_vip(network, ip, &workload.namespace).is_some()
        || snapshot.refused_address(network, ip).is_some();
    let name = || format!("{network}/{ip}");
    (!known).then(name).filter(|name| !snapshot.is_answered(name))
}

/// Whether the address is this pod's: loopback, or the workload's own.
fn is_own_address(workload: &Workload, ip: IpAddr) -> bool {
    ip.is_loopback() || workload.addresses.contains(&ip)
}

/// The address that a SOCKS5 client of a pod means by a name: a service's, as far as this proxy knows it.
pub fn resolve(shared: &Shared, pod: &Pod, name: &str, port: u16) -> Option<SocketAddr> {
    let snapshot = shared.store.load();
    let service = snapshot.service_by_hostname(&pod.workload().namespace, name)?;
    let network = &shared.location.network;
    let vip = service.vips.iter().find(|vip| **vip.network() == **network)?;
    Some(SocketAddr::new(vip.address(), port))
}
