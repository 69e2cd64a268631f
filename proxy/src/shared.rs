//! What all workers share: read-only, or made to be read without locks on the data path.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use drain::Registry;
use hbone::SessionConfig;
use xds::{Snapshot, Store, Workload};

use crate::clock::Clock;
use crate::config::data_plane::HBONE_PORT;
use crate::config::{InboundConfig, LocationConfig, SocketConfig};
use crate::identity::Certificates;
use crate::namespace::Namespace;
use crate::pod::{Pod, Pods};
use crate::pool::{Directory, Loads};
use crate::route::LocalProxy;
use crate::socket;
use crate::telemetry::{ConnectionFacts, Telemetry};
use crate::worker::{Handle, Message};

/// See the module.
pub struct Shared {
    /// The process's clock.
    pub clock: Clock,
    /// Workloads, services, policies.
    pub store: Store,
    /// How a resource is asked for, where they come on demand (`XDS_ON_DEMAND`).
    pub demand: Option<Demand>,
    /// Our certificates.
    pub certificates: Certificates,
    /// Metrics and access log.
    pub telemetry: Telemetry,
    /// Every connection from first byte to last.
    pub registry: Arc<Registry<ConnectionFacts>>,
    /// Which worker holds a tunnel to whom.
    pub directory: Directory,
    /// How busy the workers are.
    pub loads: Loads,
    /// How sockets are made.
    pub sockets: SocketConfig,
    /// How tunnels are pooled.
    pub pool: PoolLimits,
    /// HTTP/2 settings of both roles.
    pub http2: Http2,
    /// Where this proxy is.
    pub location: LocationConfig,
    /// Whom it serves.
    pub pods: Pods,
    /// The network namespace that it lives in.
    pub home: Arc<Namespace>,
    /// What inbound requests get.
    pub inbound: InboundConfig,
    /// The address that tunnels come from, if it is set.
    pub bind_address: Option<IpAddr>,
    /// How many descriptors this process may have.
    pub descriptors: usize,
    /// Ports on which the proxy itself listens: connections to them would go in circles.
    pub own_ports: Vec<u16>,
    /// The workers' mailboxes, once they run.
    pub workers: OnceLock<Vec<Handle>>,
}

/// Descriptors of this process besides connections: its servers, event queues, istiod.
const DESCRIPTORS: usize = 128;

/// Descriptors that are kept for new connections while others arrive from another process; a quarter if there are few.
const DESCRIPTORS_KEPT: usize = 256;

/// What a pod may have even if nothing seems to be free: the overhead is mostly less than is set aside for it.
const LEAST_SHARE: usize = 16;

/// Descriptors of a pod besides connections: its listeners and its namespace.
const DESCRIPTORS_A_POD: usize = 12;

/// Asks the control plane for a resource by its name; the answer comes into the store. Never blocks.
pub type Demand = Box<dyn Fn(&str) + Send + Sync>;

/// How tunnels are pooled.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Streams that one tunnel carries at most; another is dialled then.
    pub max_streams: u32,
    /// How long a tunnel without streams is kept, ms.
    pub unused_release_timeout_ms: u64,
    /// Tunnels of one worker to one peer, at most. Beyond it users wait for room.
    pub max_tunnels_per_peer: usize,
}

/// HTTP/2 settings of both roles.
#[derive(Clone, Debug)]
pub struct Http2 {
    /// Of tunnels that we dial.
    pub client: SessionConfig,
    /// Of tunnels that peers dial.
    pub server: SessionConfig,
}

impl Shared {
    /// The resource of the workload that a pod is, once it is known.
    pub fn local_workload(&self, pod: &Pod) -> Option<Arc<Workload>> {
        self.local_workload_in(&self.store.load(), pod)
    }

    /// As [`Shared::local_workload`], in this snapshot.
    pub fn local_workload_in(&self, snapshot: &Snapshot, pod: &Pod) -> Option<Arc<Workload>> {
        let local = pod.workload();
        let node = self.location.node.as_deref();
        snapshot.local_workload(&local.namespace, &local.name, &local.service_account, node).cloned()
    }

    /// What routing needs to know of this proxy.
    pub fn local_proxy(&self) -> LocalProxy<'_> {
        LocalProxy {
            network: &self.location.network,
            hbone_port: HBONE_PORT,
            reserved_ports: &self.own_ports,
        }
    }

    /// Whether this pod may have more connections while descriptors are scarce: it holds at most four times what is
    /// free. So one that is flooded leaves room for the others, and nobody is limited while there is plenty.
    pub fn may_accept(&self, pod: &Pod) -> bool {
        let pods = self.pods.load();
        if pods.len() < 2 {
            return true;
        }
        let held: usize = pods.values().map(|pod| pod.sockets().load(Ordering::Relaxed)).sum();
        let overhead = DESCRIPTORS + pods.len() * DESCRIPTORS_A_POD;
        let free = self.descriptors.saturating_sub(held + overhead);
        pod.sockets().load(Ordering::Relaxed) < free.saturating_mul(4).max(LEAST_SHARE)
    }

    /// For how many descriptors of another process there is room: some are kept for new connections.
    pub fn descriptors_left(&self) -> usize {
        let open = socket::open_files().unwrap_or(self.descriptors);
        let kept = DESCRIPTORS_KEPT.min(self.descriptors / 4);
        self.descriptors.saturating_sub(open + kept)
    }

    /// Sends a message to a worker.
    pub fn post(&self, worker: usize, message: Message) {
        if let Some(handle) = self.workers.get().and_then(|workers| workers.get(worker)) {
            handle.post(message);
        }
    }

    /// A connection to this destination would come back to us.
    pub fn is_own_port(&self, destination: SocketAddr) -> bool {
        self.own_ports.contains(&destination.port())
    }
}
