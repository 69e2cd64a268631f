//! The control plane of a world: replicas of istiod that tell of its mesh, and nodes that learn from them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use demo::control_plane::{Authority, Cluster, Replica, Statistics};
use demo::mesh::{Mesh, Workload};
use demo::node::{Control, Node, NodeConfig};
use xds::Identity;

use crate::wait;
use crate::world::{Host, World, started};

/// The port of istiod.
pub const PORT: u16 = 15_012;
/// A name that the certificate of every replica has, besides its address.
pub const NAME: &str = "istiod.istio-system.svc";

/// One replica at [`Host::Istiod`], which can be stopped and started again, and what it shares with others.
#[derive(Debug)]
pub struct Istiod<'w> {
    world: &'w World,
    cluster: Cluster,
    authority: Authority,
    replica: Option<Replica>,
}

impl<'w> Istiod<'w> {
    /// Starts it with the mesh of `world`.
    ///
    /// # Panics
    /// It cannot listen, or the mesh cannot be read.
    pub fn start(world: &'w World) -> Self {
        let cluster = Cluster::new();
        cluster.replace(&xds::local::load(&world.mesh().to_string()).expect("a mesh"));
        let authority = Authority::new(world.directory()).expect("a root certificate");
        let mut istiod = Self { world, cluster, authority, replica: None };
        istiod.restart();
        istiod
    }

    /// What it tells.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whom it trusts, and who signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The replica.
    ///
    /// # Panics
    /// It is stopped.
    pub fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("istiod runs")
    }

    /// Ends it as if it were killed.
    pub fn stop(&mut self) {
        self.replica = None;
    }

    /// Starts it on its address, anew if it runs.
    ///
    /// # Panics
    /// It cannot listen.
    pub fn restart(&mut self) {
        self.stop();
        self.replica = Some(self.replica_at(Host::Istiod));
    }

    /// Another replica of the same cluster.
    ///
    /// # Panics
    /// It cannot listen.
    pub fn replica_at(&self, host: Host) -> Replica {
        let address = self.world.at(host, PORT);
        Replica::start(address, &self.cluster, &self.authority).expect("istiod listens")
    }

    /// Starts the node of the workload at `host` and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn node(&self, host: Host, environment: &[(&str, &str)]) -> Node {
        let address = self.world.at(Host::Istiod, PORT);
        started(&self.world.proxy(), &self.config(host, &address.to_string(), environment))
    }

    /// As [`Istiod::node`], by way of `relay`.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn node_behind(&self, relay: SocketAddr, host: Host) -> Node {
        let environment = [("ALT_XDS_HOSTNAME", NAME), ("ALT_CA_HOSTNAME", NAME)];
        started(&self.world.proxy(), &self.config(host, &relay.to_string(), &environment))
    }

    /// What a node is started with that finds istiod at `authority`, a host and a port.
    ///
    /// # Panics
    /// There is no such workload, or its token cannot be written.
    pub fn config(&self, host: Host, authority: &str, environment: &[(&str, &str)]) -> NodeConfig {
        let address = format!("https://{authority}");
        let control = Control::ControlPlane {
            address,
            root: self.authority.root_file(),
            token: self.fresh_token(host),
        };
        self.world.config(host, control, environment)
    }

    /// Writes a fresh token for the workload at `host` into the file that its node reads.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn fresh_token(&self, host: Host) -> PathBuf {
        self.authority.token(&self.identity(host)).expect("a token")
    }

    /// Who the workload at `host` is.
    ///
    /// # Panics
    /// There is none.
    pub fn identity(&self, host: Host) -> Identity {
        self.world.workload(host).identity().parse().expect("an identity")
    }
}

/// A workload in the mesh, at `address`, as a resource.
///
/// # Panics
/// The name cannot be one.
pub fn resource(name: &str, address: IpAddr) -> xds::Workload {
    let workloads = vec![Workload::new(name, "node-elsewhere", address)];
    let mesh = Mesh { workloads, ..Mesh::default() };
    xds::local::load(&mesh.to_string()).expect("a mesh").workloads.remove(0)
}

/// Waits until `replica` has as many streams as there are `nodes`, and each has judged what it was told.
///
/// # Panics
/// It has not within `limit`.
pub async fn synced_within(limit: Duration, replica: &Replica, nodes: u64) -> Statistics {
    let mut statistics = replica.statistics();
    wait::until_within(limit, format_args!("{nodes} nodes are synchronised"), || {
        statistics = replica.statistics();
        let judged = [&statistics.addresses, &statistics.policies]
            .map(|about| about.first_requests >= nodes && about.acks + about.nacks.len() as u64 >= nodes);
        statistics.streams_open == nodes && judged == [true, true]
    })
    .await;
    statistics
}

/// As [`synced_within`], with the usual patience.
///
/// # Panics
/// It takes longer.
pub async fn synced(replica: &Replica, nodes: u64) -> Statistics {
    synced_within(wait::PATIENCE, replica, nodes).await
}

/// Whether the node says that its stream of mesh state is open.
///
/// # Panics
/// It does not answer.
pub fn connected(node: &Node) -> bool {
    node.metrics().expect("metrics").sum("ztunnel_xds_connected", &[]) == 1.0
}

/// How many requests for certificates of the node ended with one of `results`.
///
/// # Panics
/// It does not answer.
pub fn certificate_requests(node: &Node, results: &[&str]) -> f64 {
    let metrics = node.metrics().expect("metrics");
    results
        .iter()
        .map(|result| metrics.sum("ztunnel_certificate_requests_total", &[("result", result)]))
        .sum()
}
