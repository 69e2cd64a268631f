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
mod replica;
mod statistics;

pub use authority::{Authority, AuthorityError};
pub use cluster::{Cluster, Edit};
pub use replica::{Misbehaviour, Replica};
pub use statistics::{Statistics, TypeStatistics};
pub use xds::proto::ResourceType;
