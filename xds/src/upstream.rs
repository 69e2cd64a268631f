//! Which endpoint of a service a connection goes to, and at which of its addresses.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use crate::resource::{LoadBalancerMode, PortMap, RoutingScope, Service, Workload};

/// A workload as an endpoint of one service.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// The workload.
    pub workload: &'a Arc<Workload>,
    /// Its port map for the service.
    pub ports: &'a PortMap,
}

/// The endpoint chosen for a connection.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The workload.
    pub workload: &'a Arc<Workload>,
    /// The port that the application listens on.
    pub port: u16,
}

/// Chooses an endpoint of `service` for a client.
///
/// An endpoint is a candidate if it can be reached (it has an address or a hostname, or lies in another network behind
/// a gateway) and the service port leads somewhere: by the endpoint's own port map, else by the service's. Of the
/// candidates those of the best rank are kept (see [`LoadBalancerMode`]); one of them is drawn, weighted by capacity.
/// None if there is no candidate, or all candidates have capacity 0.
///
/// `endpoints` lists the endpoints, the same ones each time it is called; `random` returns a number below its argument,
/// evenly distributed.
pub fn choose<'a, E: Iterator<Item = Endpoint<'a>>>(
    client: &Workload,
    service: &Service,
    service_port: u16,
    endpoints: impl Fn() -> E,
    random: &mut impl FnMut(u64) -> u64,
) -> Option<Chosen<'a>> {
    if !service.ports.contains(service_port) {
        return None;
    }
    let candidates = || {
        endpoints().filter_map(|Endpoint { workload, ports }| {
            let port = ports.target(service_port).or_else(|| service.ports.target(service_port))?;
            let rank = rank(client, service, workload)?;
            can_be_reached(client, workload).then_some((rank, Chosen { workload, port }))
        })
    };
    let (best, total) = candidates().fold((0, 0), |(best, total), (rank, chosen)| match rank.cmp(&best) {
        Ordering::Less => (best, total),
        Ordering::Equal => (best, total + chosen.weight()),
        Ordering::Greater => (rank, chosen.weight()),
    });
    if total == 0 {
        return None;
    }
    let mut drawn = random(total);
    candidates().filter(|(rank, _)| *rank == best).map(|(_, chosen)| chosen).find(|chosen| {
        let is_here = drawn < chosen.weight();
        drawn = drawn.saturating_sub(chosen.weight());
        is_here
    })
}

impl Chosen<'_> {
    fn weight(&self) -> u64 {
        self.workload.capacity.into()
    }
}

/// The address of `workload` to use for a connection that asked for `requested`: that very address if the workload has
/// it, else one that the service admits, the requested family first. None if no address is left.
pub fn address(workload: &Workload, service: Option<&Service>, requested: IpAddr) -> Option<IpAddr> {
    if workload.addresses.contains(&requested) {
        return Some(requested);
    }
    let admitted =
        || workload.addresses.iter().filter(|ip| service.is_none_or(|service| service.accepts(**ip)));
    admitted().find(|ip| ip.is_ipv4() == requested.is_ipv4()).or_else(|| admitted().next()).copied()
}

fn can_be_reached(client: &Workload, workload: &Workload) -> bool {
    let has_address = !workload.addresses.is_empty() || !workload.hostname.is_empty();
    // Within a network the gateway is not used: the control plane announces it to all clients alike.
    let behind_gateway = workload.network != client.network && workload.network_gateway.is_some();
    has_address || behind_gateway
}

/// How near a workload is to the client by the preferences of the service, the nearer the greater; none if it must not
/// be used.
///
/// Preferences count in order, up to the first that is not shared. If the network comes first, sharing it outweighs
/// all others, and workloads of other networks are still told apart by the rest.
fn rank(client: &Workload, service: &Service, workload: &Workload) -> Option<usize> {
    let mode = service.mode();
    let preferences = match &service.load_balancer {
        Some(balancer) if mode != LoadBalancerMode::Standard => &*balancer.routing_preferences,
        _ => return Some(0),
    };
    let is_shared = |scope: &RoutingScope| match scope {
        RoutingScope::Region => client.locality.region == workload.locality.region,
        RoutingScope::Zone => client.locality.zone == workload.locality.zone,
        RoutingScope::Subzone => client.locality.subzone == workload.locality.subzone,
        RoutingScope::Node => client.node == workload.node,
        RoutingScope::Cluster => client.cluster_id == workload.cluster_id,
        RoutingScope::Network => client.network == workload.network,
    };
    if mode == LoadBalancerMode::Strict && !preferences.iter().all(is_shared) {
        return None;
    }
    let shared = |scopes: &[RoutingScope]| scopes.iter().take_while(|scope| is_shared(scope)).count();
    Some(match preferences {
        [RoutingScope::Network, rest @ ..] => {
            let network = if is_shared(&RoutingScope::Network) { preferences.len() } else { 0 };
            network + shared(rest)
        }
        _ => shared(preferences),
    })
}

#[cfg(test)]
mod tests;
