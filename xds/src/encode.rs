//! From typed resources to the messages of the control plane: what [`decode`](crate::decode) reads, written.
//!
//! What the protocol has a default for is left out, as istiod does. A resource that was decoded, goes through here and is
//! decoded again is the same.

mod authorization;
mod service;
mod workload;

use std::net::IpAddr;

use crate::proto::workload as message;
use crate::resource::{GatewayAddress, GatewayDestination, NetworkAddress, NetworkCidr, PortMap};

pub use authorization::authorization;
pub(crate) use authorization::scope;
pub use service::service;
pub use workload::workload;

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

pub(crate) fn address(from: &NetworkAddress) -> message::NetworkAddress {
    message::NetworkAddress {
        network: from.network().to_string(),
        address: octets(from.address()),
        length: None,
    }
}

pub(crate) fn range(from: &NetworkCidr) -> message::NetworkAddress {
    message::NetworkAddress {
        network: from.network().to_string(),
        address: octets(from.cidr().addr()),
        length: Some(from.cidr().prefix_len().into()),
    }
}

fn gateway(from: &GatewayAddress) -> message::GatewayAddress {
    use message::gateway_address::Destination;
    let GatewayAddress { destination, hbone_mtls_port } = from;
    let destination = match destination {
        GatewayDestination::Address(at) => Destination::Address(address(at)),
        GatewayDestination::Hostname(name) => Destination::Hostname(message::NamespacedHostname {
            namespace: name.namespace().to_string(),
            hostname: name.hostname().to_string(),
        }),
    };
    message::GatewayAddress { hbone_mtls_port: (*hbone_mtls_port).into(), destination: Some(destination) }
}

fn ports(from: &PortMap) -> Vec<message::Port> {
    let port = |(service_port, target_port): (u16, u16)| message::Port {
        service_port: service_port.into(),
        target_port: target_port.into(),
        app_protocol: message::AppProtocol::Unknown.into(),
    };
    from.iter().map(port).collect()
}

fn texts(from: &[std::sync::Arc<str>]) -> Vec<String> {
    from.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
