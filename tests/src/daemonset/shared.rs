//! Pods that serve all pods of a Kubernetes node: each in a network namespace of its own, as the chart confines it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use demo::node::{Node, READINESS_PORT};

use super::{Containers, PodName};
use crate::cluster::{Cluster, KubeNode, Launch};

/// See the module.
#[derive(Debug)]
pub struct Shared<'c> {
    cluster: &'c Mutex<Cluster>,
    node: KubeNode,
    launch: Launch,
}

impl<'c> Shared<'c> {
    /// Pods on `node`, started by `launch`.
    pub fn new(cluster: &'c Mutex<Cluster>, node: KubeNode, launch: Launch) -> Self {
        Self { cluster, node, launch }
    }

    /// Starts pods by another `launch` from now on.
    pub fn launch_by(&mut self, launch: Launch) {
        self.launch = launch;
    }

    fn cluster(&self) -> MutexGuard<'c, Cluster> {
        // After a panic elsewhere the test is over, and what it has to say is said there.
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containers for Shared<'_> {
    /// A container that is restarted gets a namespace of its own, too: nothing of the first one's is looked for.
    fn start(&mut self, _: &PodName, _: u32) -> Node {
        self.cluster().launch(self.node, &self.launch)
    }

    fn probe(&self, _: &PodName, node: &Node) -> Option<bool> {
        let answer = node.page_within(TIMEOUT, READINESS_PORT, "/healthz/ready");
        Some(answer.is_ok_and(|answer| answer.status == 200))
    }
}

/// Kubernetes' default.
const TIMEOUT: Duration = Duration::from_secs(1);
