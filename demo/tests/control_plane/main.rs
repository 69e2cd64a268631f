//! The control plane, as a client sees it.

mod certificates;
mod client;
mod misbehaviour;
mod stream;

use std::time::Instant;

use client::{Error, PATIENCE, Stream, connect};
use demo::control_plane::{Authority, Cluster, Replica, Statistics};
use tempfile::TempDir;
use tonic::transport::Channel;
use xds::Identity;
use xds::local::{self, LocalConfig};

/// A replica with three workloads, a service and a policy, and a client with a token.
struct Scene {
    cluster: Cluster,
    authority: Authority,
    replica: Replica,
    token: String,
    _directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::new();
        cluster.replace(&config(MESH));
        let authority = Authority::new(directory.path()).expect("an authority");
        let address = "127.0.0.1:0".parse().expect("an address");
        let replica = Replica::start(address, &cluster, &authority).expect("a free port");
        let token = token(&authority, &node());
        Self { cluster, authority, replica, token, _directory: directory }
    }

    async fn connect(&self) -> Result<Channel, Error> {
        connect(&self.replica, &self.authority).await
    }

    async fn open(&self) -> Stream {
        let channel = self.connect().await.expect("a connection");
        Stream::open(channel, &self.token).await.expect("a stream")
    }

    /// Waits until the replica has seen something.
    async fn seen(&self, what: impl Fn(&Statistics) -> bool) -> Statistics {
        let begun = Instant::now();
        loop {
            let statistics = self.replica.statistics();
            if what(&statistics) {
                return statistics;
            }
            assert!(begun.elapsed() < PATIENCE, "{statistics:?}");
            tokio::task::yield_now().await;
        }
    }
}

/// Who the client is.
fn node() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an identity")
}

fn token(authority: &Authority, identity: &Identity) -> String {
    let file = authority.token(identity).expect("a token");
    std::fs::read_to_string(file).expect("the file is there")
}

fn config(yaml: &str) -> LocalConfig {
    local::load(yaml).expect("a configuration")
}

const MESH: &str = "
workloads:
- {uid: w1, namespace: n, workloadIps: [10.0.0.1], node: a, services: {n/s.n: {80: 80}}}
- {uid: w2, namespace: n, workloadIps: [10.0.0.2], node: b, services: {n/s.n: {80: 80}}}
- {uid: w3, namespace: n, workloadIps: [10.0.0.3], node: b}
services: [{name: s, namespace: n, hostname: s.n, vips: [/10.1.0.1], ports: {80: 80}}]
policies: [{name: p, namespace: n, scope: Global, action: Deny}]
";
