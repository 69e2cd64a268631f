//! The discovery service (delta ADS), as istiod speaks it to a node proxy.

use std::pin::Pin;
use std::sync::Arc;

use prost::Message;
use prost_types::value::Kind;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xds::proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use xds::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::replica::{Fuse, Shared};
use super::{Misbehaviour, ResourceType};

mod subscription;

use subscription::{Answer, Subscription, Verdict};

/// The service on one connection.
#[derive(Clone)]
pub(super) struct Discovery {
    pub(super) replica: Arc<Shared>,
    pub(super) fuse: Arc<Fuse>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.replica.bearer(request.metadata())?;
        let (responses, receiver) = mpsc::channel(1);
        let session = Session {
            discovery: self.clone(),
            number: self.replica.count(|statistics| {
                statistics.streams_open += 1;
                statistics.streams_opened += 1;
                statistics.streams_opened
            }),
            responses,
            sent: 0,
            node: String::new(),
            addresses: None,
            policies: None,
        };
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One stream.
struct Session {
    discovery: Discovery,
    number: u64,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    /// How many responses were sent, for nonces.
    sent: u64,
    /// The client's node, as it said in its first request.
    node: String,
    addresses: Option<Subscription>,
    policies: Option<Subscription>,
}

/// The client is gone.
struct Gone;

impl Session {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let closed = self.responses.clone();
        tokio::select! {
            Err(Gone) = self.converse(&mut requests) => {}
            () = closed.closed() => {}
        }
    }

    async fn converse(&mut self, requests: &mut Streaming<DeltaDiscoveryRequest>) -> Result<(), Gone> {
        let mut changed = self.discovery.replica.cluster.watch();
        let mut behaviour = self.discovery.replica.behaviour();
        loop {
            behaviour.wait_for(|now| *now != Misbehaviour::SilentStream).await.map_err(|_| Gone)?;
            self.push().await?;
            tokio::select! {
                request = requests.message() => {
                    let request = request.ok().flatten().ok_or(Gone)?;
                    // It may have turned silent while this was on its way.
                    behaviour.wait_for(|now| *now != Misbehaviour::SilentStream).await.map_err(|_| Gone)?;
                    self.answer(request).await?;
                }
                result = changed.changed() => result.map_err(|_| Gone)?,
                result = behaviour.changed() => result.map_err(|_| Gone)?,
            }
        }
    }

    async fn answer(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Gone> {
        // istiod takes no notice of types that it does not know.
        let Some(resource_type) = ResourceType::from_url(&request.type_url) else { return Ok(()) };
        match self.consider(resource_type, &request) {
            (Some(answer), version) => self.send(resource_type, answer, version).await,
            (None, _) => Ok(()),
        }
    }

    /// What to answer, if anything, and the version of the cluster.
    fn consider(
        &mut self,
        resource_type: ResourceType,
        request: &DeltaDiscoveryRequest,
    ) -> (Option<Answer>, String) {
        if let Some(node) = node_name(request) {
            self.node = node;
        }
        let replica = &self.discovery.replica;
        let tables = replica.cluster.tables();
        let table = tables.of(resource_type);
        let (node, subscription) = match resource_type {
            ResourceType::Address => (&*self.node, &mut self.addresses),
            ResourceType::Authorization => ("", &mut self.policies),
        };
        let Some(subscription) = subscription else {
            let (first, answer) = Subscription::begin(request, node, table);
            *subscription = Some(first);
            replica.count(|statistics| {
                let statistics = statistics.of_mut(resource_type);
                statistics.requests += 1;
                statistics.first_requests += 1;
                statistics.initial_versions = request.initial_resource_versions.len();
            });
            return (Some(answer), tables.version());
        };
        let verdict = subscription.acknowledge(request);
        replica.count(|statistics| {
            let statistics = statistics.of_mut(resource_type);
            statistics.requests += 1;
            match verdict {
                Some(Verdict::Ack) => statistics.acks += 1,
                Some(Verdict::Nack(reason)) => statistics.nacks.push(reason),
                None => {}
            }
        });
        (subscription.change(request, table), tables.version())
    }

    /// Sends what has changed.
    async fn push(&mut self) -> Result<(), Gone> {
        let (answers, version) = self.changes();
        for (resource_type, answer) in ResourceType::ALL.into_iter().zip(answers) {
            if let Some(answer) = answer {
                self.send(resource_type, answer, version.clone()).await?;
            }
        }
        Ok(())
    }

    /// What has changed, by type, and the version of the cluster. All types are looked at under one lock: an edit is told
    /// from its beginning.
    fn changes(&mut self) -> ([Option<Answer>; 2], String) {
        let tables = self.discovery.replica.cluster.tables();
        let changes = |resource_type, subscription: &mut Option<Subscription>| {
            subscription.as_mut().and_then(|subscription| subscription.changes(tables.of(resource_type)))
        };
        let addresses = changes(ResourceType::Address, &mut self.addresses);
        let policies = changes(ResourceType::Authorization, &mut self.policies);
        ([addresses, policies], tables.version())
    }

    async fn send(
        &mut self,
        resource_type: ResourceType,
        answer: Answer,
        version: String,
    ) -> Result<(), Gone> {
        self.sent += 1;
        let nonce = format!("{version}/{}-{}", self.number, self.sent);
        let subscription = match resource_type {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        };
        if let Some(subscription) = subscription {
            subscription.sent(nonce.clone());
        }
        let response = answer.into_response(resource_type.url(), version, nonce);
        let bytes = response.encoded_len();
        self.discovery.replica.count(|statistics| {
            let statistics = statistics.of_mut(resource_type);
            statistics.responses += 1;
            statistics.resources += response.resources.len() as u64;
            statistics.removed += response.removed_resources.len() as u64;
            statistics.bytes += bytes as u64;
        });
        if self.discovery.replica.misbehaviour() == Misbehaviour::ResetMidMessage {
            self.discovery.fuse.light(bytes / 2);
        }
        self.responses.send(Ok(response)).await.map_err(|_| Gone)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.discovery.replica.count(|statistics| statistics.streams_open -= 1);
    }
}

/// `NODE_NAME` in the metadata of the client.
fn node_name(request: &DeltaDiscoveryRequest) -> Option<String> {
    let metadata = request.node.as_ref()?.metadata.as_ref()?;
    match metadata.fields.get("NODE_NAME")?.kind.as_ref()? {
        Kind::StringValue(name) => Some(name.clone()),
        _ => None,
    }
}
