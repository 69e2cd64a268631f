//! Mesh state on the control thread: the stream that brings it, and what follows from a change.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use xds::client::Client;
use xds::{Identity, Store};

use super::lead::workers;
use crate::config::{ConfigError, XdsConfig};
use crate::control_plane;
use crate::readiness::Readiness;
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
    /// It connects once it is started, or, if it `begins_later`, once its client is told to begin.
    pub(super) fn new(
        config: &XdsConfig,
        store: Store,
        telemetry: &Telemetry,
        begins_later: bool,
    ) -> Result<Self, ConfigError> {
        let (client, stream) = control_plane::mesh_state(config, store, telemetry, begins_later)?;
        Ok(Self { client, stream: Box::pin(stream), on_demand: config.on_demand })
    }

    /// How the stream is spoken to.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// How a resource is asked for, if they come on demand.
    pub(super) fn demand(&self) -> Option<Demand> {
        let client = self.client.clone();
        self.on_demand.then(|| -> Demand { Box::new(move |name| client.demand(name)) })
    }

    /// Waits until every type of resource is here.
    pub(super) fn synced(&self) -> impl Future<Output = ()> + Send + use<> {
        let client = self.client.clone();
        async move { client.synced().await }
    }

    /// Starts it on the current runtime. Until every type of resource is here, the process is not ready; afterwards it
    /// stays so whatever becomes of istiod.
    pub(super) fn start(self, readiness: &Readiness) {
        let pending = readiness.pending("state manager");
        let synced = self.synced();
        tokio::spawn(self.stream);
        tokio::spawn(async move {
            synced.await;
            drop(pending);
        });
    }
}

/// Looks after what a change of the mesh or of the pods means: connections are judged again, the certificates of the
/// pods' workloads are fetched before anybody waits for them, and those that no pod has any more are forgotten.
pub(super) async fn follow(shared: Arc<Shared>) {
    let (mut mesh, mut pods) = (shared.store.changes(), shared.pods.changes());
    let mut known = BTreeSet::new();
    loop {
        let identities: BTreeSet<Identity> = identities(&shared);
        if identities != known {
            shared.certificates.retain(identities.clone());
            identities.difference(&known).for_each(|new| shared.certificates.warm_up(new));
            known = identities;
        }
        for worker in workers(&shared) {
            shared.post(worker, Message::Recheck);
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        let changed = tokio::select! {
            changed = mesh.changed() => changed,
            changed = pods.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Whom the pods speak for, as far as the mesh knows them.
fn identities(shared: &Shared) -> BTreeSet<Identity> {
    let snapshot = shared.store.load();
    let pods = shared.pods.load();
    let workloads = pods.values().filter_map(|pod| shared.local_workload_in(&snapshot, pod));
    workloads.map(|workload| workload.identity()).collect()
}
