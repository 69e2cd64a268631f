//! Whom a proxy serves: what its two modes differ in.

use std::net::IpAddr;
use std::path::PathBuf;

use super::{ADMIN_PORT, METRICS_PORT, PORTS, READINESS_PORT, TUNNEL_PORT};

/// Whom a proxy serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// One workload (dedicated mode).
    Workload {
        /// `namespace/name/service account`.
        info: String,
        /// The address of all listeners; `None` is all addresses of the network namespace.
        bind: Option<IpAddr>,
    },
    /// The pods of a Kubernetes node, as an istio-cni tells of them (shared mode).
    Node {
        /// The Kubernetes node's name.
        node: String,
        /// The socket of istio-cni.
        socket: PathBuf,
        /// The pod that the proxy itself runs in.
        own_pod: OwnPod,
    },
}

/// The pod that a shared proxy runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPod {
    /// Its name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its address.
    pub address: IpAddr,
}

impl Serves {
    /// Where all listeners are, if that is told.
    pub(super) fn bind(&self) -> Option<IpAddr> {
        match self {
            Self::Workload { bind, .. } => *bind,
            Self::Node { .. } => None,
        }
    }

    /// The TCP ports that must be free in the network namespace where the proxy is started.
    pub(super) fn ports(&self) -> &'static [u16] {
        match self {
            Self::Workload { .. } => &PORTS,
            Self::Node { .. } => &[ADMIN_PORT, TUNNEL_PORT, METRICS_PORT, READINESS_PORT],
        }
    }
}
