//! What the process says about itself: log, access log, metrics.
//!
//! | file | what |
//! |---|---|
//! | [`log`] | lines in stock's shapes, written by a thread of their own; a filter that can be changed |
//! | [`facts`] | who talks to whom over one connection |
//! | [`observation`] | one user connection from open to close: counters and its line in the access log |
//! | [`control_plane`] | what is counted of the control plane |
//! | [`workload_manager`] | what is counted of pods and of istio-cni |
//! | [`dns`] | what is counted of the DNS proxy |
//! | [`metrics`] | every metric family, and how they are exposed |
//! | `inheritance` | counters that go on at a successor |

pub mod control_plane;
pub mod dns;
pub mod facts;
pub mod handover;
mod inheritance;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod observation;
pub mod process;
pub mod workload_manager;

mod access_log;

pub use control_plane::{CertificateResult, ControlPlaneMetrics};
pub use dns::{DnsLabels, DnsMetrics, DnsTransport};
pub use facts::{ConnectionFacts, Direction, Party, ServiceFacts};
pub use handover::{ConnectionLabels, HandoverMetrics};
pub use labels::ResponseFlags;
pub use log::{LogGuard, LogHandle};
pub use metrics::{MoveResult, Open, Telemetry, TunnelRole};
pub use observation::{Failure, Observation, refused_early};
pub use workload_manager::{WorkloadManagerMetrics, ZdsMessage, ZdsResult};
