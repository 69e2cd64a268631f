//! Who talks to whom over one connection.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xds::{Identity, Service, Workload};

/// Seen from the workload that this proxy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

impl Direction {
    /// `inbound` or `outbound`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One end of a connection, as metrics and the access log name it. What is unknown is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Party {
    /// The pod's name, for the access log.
    pub name: Option<Arc<str>>,
    /// The name of what owns the pod (a deployment, a job), for the metrics.
    pub workload: Option<Arc<str>>,
    /// Its namespace.
    pub namespace: Option<Arc<str>>,
    /// Which service it is, in Istio's sense.
    pub canonical_service: Option<Arc<str>>,
    /// Which revision of it.
    pub canonical_revision: Option<Arc<str>>,
    /// Value of the `app` label of metrics.
    pub app: Option<Arc<str>>,
    /// Value of the `version` label of metrics.
    pub version: Option<Arc<str>>,
    /// The cluster that it runs in.
    pub cluster: Option<Arc<str>>,
    /// The region that it runs in.
    pub region: Option<Arc<str>>,
    /// The zone within the region.
    pub zone: Option<Arc<str>>,
    /// Whom it is known as. From its certificate if there is one, else from the mesh's state.
    pub identity: Option<Identity>,
}

impl Party {
    /// Whether mesh state or baggage named this party at all; an identity alone doesn't.
    pub fn is_known(&self) -> bool {
        self.workload.is_some() || self.namespace.is_some() || self.canonical_service.is_some()
    }

    /// How the access log names it: the pod, or else the service.
    pub fn log_name(&self) -> Option<&str> {
        self.name.as_deref().or(self.canonical_service.as_deref())
    }
}

impl From<&Workload> for Party {
    fn from(workload: &Workload) -> Self {
        let known = |text: &Arc<str>| Some(text.clone()).filter(|text| !text.is_empty());
        Self {
            name: known(&workload.name),
            workload: known(&workload.workload_name),
            namespace: known(&workload.namespace),
            canonical_service: known(&workload.canonical_name),
            canonical_revision: known(&workload.canonical_revision),
            app: known(&workload.canonical_name),
            version: known(&workload.canonical_revision),
            cluster: known(&workload.cluster_id),
            region: known(&workload.locality.region),
            zone: known(&workload.locality.zone),
            identity: Some(workload.identity()),
        }
    }
}

/// The service that a connection was meant for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// Full host name.
    pub hostname: Arc<str>,
    /// Short name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

impl From<&Service> for ServiceFacts {
    fn from(service: &Service) -> Self {
        Self {
            hostname: service.hostname.clone(),
            name: service.name.clone(),
            namespace: service.namespace.clone(),
        }
    }
}

/// What is known of one connection. It travels with a connection that moves to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionFacts {
    /// Which way it goes.
    pub direction: Direction,
    /// Where it comes from.
    pub source: Option<SocketAddr>,
    /// Who that is.
    pub source_party: Party,
    /// Where its bytes go: the next hop of an outbound one, the accepting address of an inbound one.
    pub destination: Option<SocketAddr>,
    /// Who that is.
    pub destination_party: Party,
    /// The local application that an inbound connection leads to, as policy judged it; none for outbound ones.
    pub application: Option<SocketAddr>,
    /// What the tunnel was asked for, `ip:port` or `host:port`; none outside a tunnel.
    pub hbone_destination: Option<String>,
    /// The service that it was meant for.
    pub service: Option<ServiceFacts>,
    /// Whether both ends proved who they are.
    pub mutual_tls: bool,
}
