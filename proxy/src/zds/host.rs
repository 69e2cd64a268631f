//! Who serves the pods.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::namespace::Namespace;
use crate::pod::WorkloadName;

/// Carries out what istio-cni asks for. The calls for one pod come one after the other, for different pods at the same time.
pub trait PodHost: Send + Sync + 'static {
    /// Serves a pod that is not served: its listeners are bound when this returns `Ok`. If it fails, nothing is left of it.
    fn start(&self, uid: Arc<str>, workload: WorkloadName, namespace: Arc<Namespace>) -> Starting<'_>;

    /// Serves a pod no more that is served: when this returns its connections have ended, and its namespace is let go of.
    fn stop(&self, uid: Arc<str>) -> Stopping<'_>;
}

/// The start of a pod.
pub type Starting<'a> = Pin<Box<dyn Future<Output = Result<(), StartPodError>> + Send + 'a>>;

/// The end of a pod.
pub type Stopping<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Why a pod can't be served, in the words that istio-cni is told.
#[derive(thiserror::Error, Debug)]
pub enum StartPodError {
    /// Its namespace can't be entered, or it is none.
    #[error("its network namespace cannot be used: {0}")]
    Namespace(#[source] io::Error),
    /// A listener can't be bound there.
    #[error("cannot listen for {what} on {address}: {error}")]
    Listen {
        /// Connections of which kind.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        error: io::Error,
    },
}
