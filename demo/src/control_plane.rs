//! A control plane of its own: istiod's two services, mesh state and certificates, for proxies on this machine.
//!
//! ```text
//!   Cluster ─────────┐                 ┌── ADS (delta), CA ── TLS ──► proxies
//!    what there is   ├──► Replica ─────┤
//!   Authority ───────┘    one istiod   └── or it misbehaves
//!    root, tokens
//! ```
//!
//! [`Cluster`] and [`Authority`] are handles that replicas share, as istiods share a Kubernetes API server and a root
//! certificate: replicas can come and go, on one address or several, and say the same.

mod authority;
mod certificates;
mod cluster;
mod discovery;
pub mod encode;
mod replica;
mod statistics;

pub use authority::{Authority, AuthorityError};
pub use cluster::{Cluster, Edit};
pub use replica::{Misbehaviour, Replica};
pub use statistics::{Statistics, TypeStatistics};

/// What a resource is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// A workload or a service.
    Address,
    /// A policy.
    Authorization,
}

impl ResourceType {
    /// All types, in the order in which changes are pushed.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// As messages name it.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => xds::proto::ADDRESS,
            Self::Authorization => xds::proto::AUTHORIZATION,
        }
    }

    fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource_type| resource_type.url() == url)
    }
}
