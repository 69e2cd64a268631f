//! What the control plane says about the mesh, as types that cannot be invalid.
//!
//! A resource is made from its `…Spec`, a plain struct that anyone may fill; the constructor checks it and seals it.
//! A sealed resource lends its fields (it dereferences to the spec) and never changes.
//!
//! Serialised, resources have the shape that `istioctl ztunnel-config` reads from `/config_dump`; the same form is
//! read from a local file (see [`crate::local`]).

mod address;
mod authorization;
mod ports;
mod service;
mod workload;

pub use address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress, NetworkCidr};
pub use authorization::{
    Action, Authorization, AuthorizationSpec, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
};
pub use ports::PortMap;
pub use service::{
    HealthPolicy, IpFamilies, LoadBalancer, LoadBalancerMode, RoutingScope, Service, ServiceSpec, Visibility,
    WeightedWaypoint,
};
pub use workload::{
    ApplicationProtocol, ApplicationTunnel, HealthStatus, Locality, Memberships, NetworkMode, TunnelProtocol,
    Workload, WorkloadSpec, WorkloadType,
};

pub use ipnet::IpNet;

use crate::identity::IdentityError;

/// Why a resource is refused: the field at fault, by the name it has in the local form, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ResourceError {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The field is required.
    #[error("must not be empty")]
    Empty,
    /// A text that is not of the form `namespace/hostname`.
    #[error("{0:?} is not of the form namespace/hostname")]
    NotNamespacedHostname(String),
    /// A text that is not of the form `network/ip`.
    #[error("{0:?} is not of the form network/ip")]
    NotNetworkAddress(String),
    /// A number that is no TCP port.
    #[error("{0} is not a port")]
    NotAPort(u32),
    /// Bytes that are no IP address: their number.
    #[error("an IP address has 4 or 16 bytes, not {0}")]
    NotAnAddress(usize),
    /// A number that is no prefix length for its address.
    #[error("{0} is not a prefix length of the address")]
    NotAPrefixLength(u32),
    /// A value of an enum that is not known here, or says nothing.
    #[error("{0} is not a known value")]
    UnknownValue(i32),
    /// The workload takes part in a mesh of sidecars only.
    #[error("legacy mutual TLS is not supported")]
    LegacyMutualTls,
    /// The parts of the identity do not make a SPIFFE ID.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl ResourceError {
    fn new(field: &'static str, problem: impl Into<Problem>) -> Self {
        Self { field, problem: problem.into() }
    }
}

fn required(field: &'static str, text: &str) -> Result<(), ResourceError> {
    if text.is_empty() { Err(ResourceError::new(field, Problem::Empty)) } else { Ok(()) }
}

/// Whether serialisation leaves a field out, as stock does with fields that have their default.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
