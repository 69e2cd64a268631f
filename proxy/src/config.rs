//! What the process is told at its start: environment variables, stock's names first, ours beside them.
//!
//! Each subsystem has a small config of its own, built by `from_environment`. There is no bag that holds them
//! all: what starts a subsystem parses that subsystem's config and hands it over.
//!
//! | file | subsystems |
//! |---|---|
//! | [`data_plane`] | listeners, socket options, pool, HTTP/2, workers, inbound |
//! | [`control`] | admin and its neighbours, log, drain |
//! | [`mode`] | for whom the proxy works, and where |
//! | [`mesh`] | local mesh state, certificates |
//! | [`dns`] | the DNS proxy |
//! | [`xds`], [`remote`] | mesh state from istiod; how istiod is reached |
//!
//! An empty variable counts as unset, except where stock gives emptiness a meaning (`XDS_ADDRESS`, `CA_ADDRESS`).

pub mod control;
pub mod data_plane;
pub mod dns;
pub mod duration;
pub mod environment;
pub mod handover;
pub mod mesh;
pub mod mode;
pub mod proxy_config;
pub mod remote;
pub mod unsupported;
pub mod workers;
pub mod xds;

pub use self::xds::XdsConfig;
pub use control::{AdminConfig, DrainConfig, LogConfig, LogFormat};
pub use data_plane::{
    Http2Config, InboundConfig, Keepalive, ListenerConfig, PoolConfig, SocketConfig, Transparent,
};
pub use dns::{DnsConfig, SearchDomains};
pub use environment::{ConfigError, Environment};
pub use handover::{HandoverConfig, Standby};
pub use mesh::{CertificateAuthorityConfig, IdentityConfig, LocalXdsConfig};
pub use mode::{LocationConfig, ProxyMode, SharedConfig};
pub use proxy_config::ProxyConfig;
pub use remote::RemoteConfig;
pub use unsupported::refuse_unsupported;
pub use workers::WorkerConfig;
