//! The connection to istio-cni on its way from one process to another, with what its holder knows.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::namespace::{Namespace, NamespaceId};
use crate::pod::WorkloadName;

/// The connection at a packet boundary, every message answered, and the pods that istio-cni has named on it. istio-cni
/// notices nothing when another process goes on with it, or the same one again.
#[derive(Debug)]
pub struct Transfer {
    /// What istio-cni says waits in it. None if it can't be reached: who goes on connects anew.
    pub socket: Option<OwnedFd>,
    /// Since when nobody has read from it, in nanoseconds of `CLOCK_MONOTONIC`: an answer that would be late must not be
    /// sent.
    pub unread_since_ns: u64,
    /// Those that are served.
    pub served: Vec<ServedPod>,
    /// Those that should be and can't be.
    pub pending: Vec<UnservedPod>,
}

impl Transfer {
    /// The same, with a copy of the connection's descriptor.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.as_ref().map(OwnedFd::try_clone).transpose()?,
            unread_since_ns: self.unread_since_ns,
            served: self.served.clone(),
            pending: self.pending.clone(),
        })
    }
}

/// A pod that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedPod {
    /// What istio-cni calls it.
    pub uid: Arc<str>,
    /// What Kubernetes calls it.
    pub workload: WorkloadName,
    /// Where it is; means something only while somebody holds the namespace open.
    pub namespace: NamespaceId,
}

/// A pod that should be served.
#[derive(Clone, Debug)]
pub struct UnservedPod {
    /// What istio-cni calls it.
    pub uid: Arc<str>,
    /// What Kubernetes calls it.
    pub workload: WorkloadName,
    /// Where it is.
    pub namespace: Arc<Namespace>,
    /// Why it was not served.
    pub error: Arc<str>,
}

/// Why the connection is not given away.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReleased {
    /// This client has nothing to give: it has not begun, or has given it away.
    #[error("another process follows istio-cni")]
    NotHeld,
    /// A message is not answered yet, or a pod begins or ceases to be served.
    #[error("what istio-cni asked for is not done yet")]
    Busy,
    /// Not all pods have been named on this connection.
    #[error("istio-cni has not named all pods yet")]
    SnapshotIncomplete,
    /// The client doesn't run.
    #[error("the client of istio-cni has ended")]
    Ended,
}
