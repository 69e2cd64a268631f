//! The node proxy of an Istio ambient mesh (`ztunnel`), made so that it can be replaced under load.
//!
//! | module | what |
//! |---|---|
//! | [`app`] | builds the parts and joins them; the only one that knows all |
//! | [`config`] | environment and files → each part's own small config |
//! | [`worker`] | a thread of the data plane: event loop, set-up, tunnels, relaying, moving |
//! | [`flow`] | connection set-up as data |
//! | [`outbound`], [`inbound`] | what is done with an application's and with a peer's connection |
//! | [`plan`] | the outcome of that, for a worker to carry out |
//! | [`route`], [`policy`] | where a connection goes, and whether it may: pure functions of the mesh's state |
//! | [`pod`], [`namespace`] | whom this proxy serves, and where their sockets are made |
//! | [`privileges`] | what the process may do, checked at its start |
//! | [`zds`] | istio-cni, which says whom |
//! | [`pool`] | which tunnels are shared by whom, and which worker holds them |
//! | [`control_plane`] | istiod: the stream of mesh state, and the signer of certificates |
//! | [`dns`] | the pods' names: answered from the mesh, or forwarded |
//! | [`identity`] | certificates, and what their holders check |
//! | [`handover`] | everything that this process holds, given to its successor |
//! | [`admin`], [`readiness`], [`telemetry`] | what operators see |
//!
//! Threads: one control thread with an asynchronous runtime (mesh state, certificates, admin, metrics, readiness, signals), and N
//! workers without one. Workers share nothing that locks on the path of a byte.

pub mod admin;
pub mod app;
pub mod clock;
pub mod config;
pub mod control_plane;
pub mod dns;
pub mod flow;
pub mod handover;
pub mod headers;
pub mod http_server;
pub mod identity;
pub mod inbound;
pub mod metrics_server;
pub mod namespace;
pub mod outbound;
pub mod plan;
pub mod pod;
pub mod policy;
pub mod pool;
pub mod privileges;
pub mod readiness;
pub mod rival;
pub mod route;
pub mod shared;
pub mod socket;
pub mod socks5;
pub mod telemetry;
pub mod worker;
pub mod zds;

pub use app::run;
