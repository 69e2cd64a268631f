//! istio-cni, which names the pods: joined to those who serve them.

use std::pin::Pin;
use std::sync::Arc;

use super::hosting::Hosting;
use crate::config::SharedConfig;
use crate::readiness::Readiness;
use crate::telemetry::Telemetry;
use crate::zds;

/// The client of istio-cni, ready to start.
pub(super) struct NodeAgent {
    client: zds::Client,
    run: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl NodeAgent {
    /// From here on the process is not ready until every pod that istio-cni names is served.
    pub(super) fn new(
        config: &SharedConfig,
        hosting: Arc<Hosting>,
        readiness: Readiness,
        telemetry: &Telemetry,
    ) -> Self {
        let config = zds::Config { path: config.node_agent.clone() };
        let (client, run) = zds::start(config, hosting, readiness, telemetry.workload_manager().clone());
        Self { client, run: Box::pin(run) }
    }

    /// Asks and tells it.
    pub(super) fn client(&self) -> &zds::Client {
        &self.client
    }

    /// Starts it on the current runtime. It calls nobody until it is told to, or given a connection.
    pub(super) fn start(self) {
        tokio::spawn(self.run);
    }
}
