//! Addresses and gateways.

use std::net::IpAddr;

use super::texts::Texts;
use crate::proto::workload as message;
use crate::proto::workload::gateway_address::Destination;
use crate::resource::{
    GatewayAddress, GatewayDestination, IpNet, NamespacedHostname, NetworkAddress, Problem, ResourceError,
};

/// An address of 4 or 16 bytes.
pub(crate) fn ip(bytes: &[u8]) -> Result<IpAddr, Problem> {
    let ip = if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(bytes)
    } else if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(bytes)
    } else {
        return Err(Problem::NotAnAddress(bytes.len()));
    };
    Ok(ip.to_canonical())
}

/// A range of addresses without host bits. One of IPv4-mapped addresses is a range of IPv4.
pub(crate) fn range(bytes: &[u8], length: u32) -> Result<IpNet, Problem> {
    let address = ip(bytes)?;
    let mapped_bits = if address.is_ipv4() && bytes.len() == 16 { 96 } else { 0 };
    let length = length
        .checked_sub(mapped_bits)
        .and_then(|length| u8::try_from(length).ok())
        .ok_or(Problem::NotAPrefixLength(length))?;
    let range = IpNet::new(address, length).map_err(|_| Problem::NotAPrefixLength(length.into()))?;
    Ok(range.trunc())
}

pub(super) fn port(number: u32) -> Result<u16, Problem> {
    u16::try_from(number).map_err(|_| Problem::NotAPort(number))
}

/// A value of an enum.
pub(super) fn known<E: TryFrom<i32>>(field: &'static str, value: i32) -> Result<E, ResourceError> {
    E::try_from(value).map_err(|_| ResourceError { field, problem: Problem::UnknownValue(value) })
}

pub(super) fn gateway(
    texts: &mut Texts,
    field: &'static str,
    message: &message::GatewayAddress,
) -> Result<GatewayAddress, ResourceError> {
    let message::GatewayAddress { hbone_mtls_port, destination } = message;
    let destination = match destination {
        Some(Destination::Hostname(message::NamespacedHostname { namespace, hostname })) => {
            NamespacedHostname::new(texts.share(namespace), texts.share(hostname))
                .map(GatewayDestination::Hostname)
        }
        Some(Destination::Address(message::NetworkAddress { network, address, length: _ })) => {
            ip(address).map(|ip| GatewayDestination::Address(NetworkAddress::new(texts.share(network), ip)))
        }
        None => Err(Problem::Empty),
    };
    let gateway = destination
        .and_then(|destination| Ok(GatewayAddress { destination, hbone_mtls_port: port(*hbone_mtls_port)? }));
    gateway.map_err(|problem| ResourceError { field, problem })
}
