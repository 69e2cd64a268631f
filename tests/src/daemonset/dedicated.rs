//! Pods that are one process each, all on the same loopback address: proxies of one workload. Ports move with the role.

use std::time::Duration;

use demo::node::{ADMIN_PORT, Node, NodeConfig, Proxy, READINESS_PORT};
use serde_json::Value;

use super::{Containers, PodName};

/// See the module.
#[derive(Debug)]
pub struct Dedicated {
    proxy: Proxy,
    config: NodeConfig,
}

impl Dedicated {
    /// Pods that run `proxy` by `config`, each under a name of its own.
    pub fn new(proxy: Proxy, config: NodeConfig) -> Self {
        // The name of a pod is that of its log; the node's name has to stay.
        let node = ("NODE_NAME".to_owned(), config.name.clone());
        let environment = [vec![node], config.environment].concat();
        Self { proxy, config: NodeConfig { environment, ..config } }
    }

    /// One more environment variable for pods that are started from now on; the last of a name counts.
    pub fn set(&mut self, name: &str, value: &str) {
        self.config.environment.push((name.to_owned(), value.to_owned()));
    }
}

impl Containers for Dedicated {
    fn start(&mut self, pod: &PodName, revision: u32) -> Node {
        let own = [
            ("POD_NAMESPACE", NAMESPACE.to_owned()),
            ("POD_NAME", pod.to_string()),
            ("ISTIO_META_TEMPLATE", revision.to_string()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let environment = own.into_iter().chain(self.config.environment.clone()).collect();
        let config = NodeConfig { name: pod.to_string(), environment, ..self.config.clone() };
        Node::start(&self.proxy, &config).expect("the proxy starts")
    }

    /// With hand-over, one page is that of whoever has the role: another pod can't be asked.
    fn probe(&self, pod: &PodName, node: &Node) -> Option<bool> {
        let page = |port, path| node.page_within(TIMEOUT, port, path);
        if self.config.handover.is_some() {
            let status = page(ADMIN_PORT, "/handover").ok()?;
            let status: Value = serde_json::from_str(&status.body).ok()?;
            if status["pod"] != format!("{NAMESPACE}/{pod}") {
                return None;
            }
        }
        Some(page(READINESS_PORT, "/healthz/ready").is_ok_and(|answer| answer.status == 200))
    }
}

const NAMESPACE: &str = "istio-system";
/// Kubernetes' default.
const TIMEOUT: Duration = Duration::from_secs(1);
