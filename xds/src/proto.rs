//! The messages of the control plane, generated from the schemas in `proto/`.

/// Delta ADS (`envoy.service.discovery.v3`).
pub mod discovery {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Workloads and services (`istio.workload`).
pub mod workload {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("istio.workload");
}

/// Authorization policies (`istio.security`).
pub mod security {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("istio.security");
}

/// The certificate authority (`istio.v1.auth`).
pub mod ca {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
    tonic::include_proto!("istio.v1.auth");
}

/// The type URL of [`workload::Address`].
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// The type URL of [`security::Authorization`].
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// A type of resource that a node proxy follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// A workload or a service.
    Address,
    /// A policy.
    Authorization,
}

impl ResourceType {
    /// All types, in the order in which they are asked for and pushed.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// As messages name it.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS,
            Self::Authorization => AUTHORIZATION,
        }
    }

    /// The type that messages name so, if we know it.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource_type| resource_type.url() == url)
    }
}
