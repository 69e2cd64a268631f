//! Mesh state on the control thread: the stream that brings it, and what follows from a change.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use xds::Store;
use xds::client::Client;

use super::lead::workers;
use super::servers::Running;
use crate::config::{ConfigError, WorkloadConfig, XdsConfig};
use crate::control_plane;
use crate::shared::{Demand, Shared};
use crate::telemetry::Telemetry;
use crate::worker::Message;

/// Changes that come closer together than this are followed as one.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// The stream of mesh state, ready to start.
pub(super) struct Mesh {
    client: Client,
    stream: Pin<Box<dyn Future<Output = ()> + Send>>,
    on_demand: bool,
}

impl Mesh {
    pub(super) fn new(config: &XdsConfig, store: Store, telemetry: &Telemetry) -> Result<Self, ConfigError> {
        let (client, stream) = control_plane::mesh_state(config, store, telemetry)?;
        Ok(Self { client, stream: Box::pin(stream), on_demand: config.on_demand })
    }

    /// How a resource is asked for, if they come on demand.
    pub(super) fn demand(&self) -> Option<Demand> {
        let client = self.client.clone();
        self.on_demand.then(|| -> Demand { Box::new(move |name| client.demand(name)) })
    }

    /// Starts it on the current runtime. Until every type of resource is here, the process is not ready; afterwards it
    /// stays so whatever becomes of istiod.
    pub(super) fn start(self, shared: &Shared, running: &Running) {
        let pending = running.pending("state manager");
        tokio::spawn(self.stream);
        if self.on_demand {
            // Our own workload is needed before anybody asks for it.
            let WorkloadConfig { cluster, namespace, name, .. } = &shared.workload;
            self.client.demand(&format!("{cluster}//Pod/{namespace}/{name}"));
        }
        tokio::spawn(async move {
            self.client.synced().await;
            drop(pending);
        });
    }
}

/// Looks after what a change of the mesh means: connections are judged again, and the certificate of the local workload
/// is fetched before anybody waits for it.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut changes = shared.store.changes();
    let mut identity = None;
    loop {
        let now = shared.local_workload().map(|workload| workload.identity());
        if let Some(new) = now.filter(|new| identity.as_ref() != Some(new)) {
            shared.certificates.warm_up(&new);
            identity = Some(new);
        }
        for worker in workers(&shared) {
            shared.post(worker, Message::Recheck);
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}
