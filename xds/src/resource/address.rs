//! Addresses and names that carry their network or namespace with them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Problem;

/// An IP address in a network; written `network/ip`, with an empty network for the default one.
///
/// IPv4-mapped IPv6 addresses are held as IPv4.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkAddress {
    network: Arc<str>,
    address: IpAddr,
}

impl NetworkAddress {
    /// An address in `network`.
    pub fn new(network: impl Into<Arc<str>>, address: IpAddr) -> Self {
        Self { network: network.into(), address: address.to_canonical() }
    }

    /// The network; empty is the default one.
    pub fn network(&self) -> &Arc<str> {
        &self.network
    }

    /// The address, never IPv4-mapped.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// A range of addresses in a network; host bits are cleared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "NetworkCidrForm")]
pub struct NetworkCidr {
    network: Arc<str>,
    cidr: IpNet,
}

impl NetworkCidr {
    /// A range in `network`.
    pub fn new(network: impl Into<Arc<str>>, cidr: IpNet) -> Self {
        Self { network: network.into(), cidr: cidr.trunc() }
    }

    /// The network; empty is the default one.
    pub fn network(&self) -> &Arc<str> {
        &self.network
    }

    /// The range, without host bits.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkCidrForm {
    network: Arc<str>,
    cidr: IpNet,
}

impl From<NetworkCidrForm> for NetworkCidr {
    fn from(form: NetworkCidrForm) -> Self {
        Self::new(form.network, form.cidr)
    }
}

/// The primary key of a service: `namespace/hostname`. Neither part is empty, neither has a `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedHostname {
    namespace: Arc<str>,
    hostname: Arc<str>,
}

impl NamespacedHostname {
    /// Joins two parts.
    pub fn new(namespace: impl Into<Arc<str>>, hostname: impl Into<Arc<str>>) -> Result<Self, Problem> {
        let (namespace, hostname) = (namespace.into(), hostname.into());
        let valid = |part: &str| !part.is_empty() && !part.contains('/');
        if valid(&namespace) && valid(&hostname) {
            Ok(Self { namespace, hostname })
        } else {
            Err(Problem::NotNamespacedHostname(format!("{namespace}/{hostname}")))
        }
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// The fully qualified hostname.
    pub fn hostname(&self) -> &Arc<str> {
        &self.hostname
    }
}

/// Where a waypoint or a network gateway is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayAddress {
    /// The workload or service that is the gateway.
    pub destination: GatewayDestination,
    /// Its HBONE port.
    pub hbone_mtls_port: u16,
}

/// A gateway by address or by name; both are written as one string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// `network/ip` of a service or a workload.
    Address(NetworkAddress),
    /// `namespace/hostname` of a service or a workload.
    Hostname(NamespacedHostname),
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.destination, self.hbone_mtls_port)
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}

impl fmt::Display for NetworkCidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.cidr)
    }
}

impl fmt::Display for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Hostname(hostname) => hostname.fmt(f),
        }
    }
}

impl FromStr for NetworkAddress {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        text.split_once('/')
            .and_then(|(network, ip)| Some(Self::new(network, ip.parse().ok()?)))
            .ok_or_else(|| Problem::NotNetworkAddress(text.to_owned()))
    }
}

impl FromStr for NamespacedHostname {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        match text.split_once('/') {
            Some((namespace, hostname)) => Self::new(namespace, hostname),
            None => Err(Problem::NotNamespacedHostname(text.to_owned())),
        }
    }
}

impl FromStr for GatewayDestination {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        text.parse().map(Self::Address).or_else(|_| text.parse().map(Self::Hostname))
    }
}

macro_rules! serialised_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serialised_as_text!(NetworkAddress, NamespacedHostname, GatewayDestination);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_an_address_if_it_reads_as_one() {
        for (text, is_address) in [("/10.0.0.1", true), ("net/fd00::1", true), ("shop/waypoint.shop", false)]
        {
            let gateway: GatewayDestination = text.parse().unwrap();
            assert_eq!(matches!(gateway, GatewayDestination::Address(_)), is_address, "{text}");
            assert_eq!(gateway.to_string(), text);
        }
        for text in ["", "host", "/host", "ns/", "a/b/c"] {
            assert!(text.parse::<GatewayDestination>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn mapped_addresses_become_ipv4_and_ranges_lose_host_bits() {
        let address: NetworkAddress = "n/::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(address.to_string(), "n/10.0.0.1");
        let range = NetworkCidr::new("n", "10.1.2.3/16".parse().unwrap());
        assert_eq!(range.to_string(), "n/10.1.0.0/16");
    }
}
