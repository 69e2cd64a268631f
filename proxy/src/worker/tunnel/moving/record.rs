//! The bytes of a frozen tunnel, around those of its HBONE connection.
//!
//! Protocol buffers: a reader skips fields that it doesn't know, a field is never given a new meaning or number. Times
//! are elapsed or remaining milliseconds, since clocks differ between processes. No secret is in here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hbone::{ConnectRequest, StreamId};
use prost::Message;
use xds::Identity;

use super::super::Role;
use super::MoveError;
use crate::inbound::TunnelPeer;
use crate::namespace::NamespaceId;
use crate::pod::{Pod, Pods};
use crate::pool::PoolKey;
use crate::telemetry::{ConnectionFacts, Direction, Observation, Party, ServiceFacts};
use crate::worker::stream::{Halves, Phase, Remote, Requested};

#[derive(Clone, PartialEq, Message)]
struct TunnelRecord {
    #[prost(bytes = "vec", tag = "1")]
    connection: Vec<u8>,
    #[prost(string, tag = "2")]
    peer_address: String,
    #[prost(string, tag = "3")]
    peer_local: String,
    #[prost(string, optional, tag = "4")]
    peer_identity: Option<String>,
    /// Present if we dialled it.
    #[prost(message, optional, tag = "5")]
    client: Option<ClientRecord>,
    #[prost(message, optional, tag = "6")]
    facts: Option<FactsRecord>,
    #[prost(uint64, tag = "7")]
    age: u64,
    #[prost(message, repeated, tag = "8")]
    streams: Vec<StreamRecord>,
    #[prost(bool, tag = "9")]
    refused: bool,
    #[prost(string, tag = "10")]
    local_identity: String,
    /// Whose it is: what istio-cni calls the pod, and the number of its network namespace.
    #[prost(string, tag = "11")]
    pod_uid: String,
    #[prost(uint64, tag = "12")]
    namespace_device: u64,
    #[prost(uint64, tag = "13")]
    namespace_inode: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ClientRecord {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, optional, tag = "2")]
    source_address: Option<String>,
    #[prost(string, tag = "3")]
    address: String,
    #[prost(string, repeated, tag = "4")]
    expected: Vec<String>,
    #[prost(uint64, tag = "5")]
    idle: u64,
}

/// A stream; exactly one of `requested`, `connecting`, `open` is present.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "2")]
    requested: Option<RequestedRecord>,
    #[prost(message, optional, tag = "3")]
    connecting: Option<ConnectingRecord>,
    #[prost(message, optional, tag = "4")]
    open: Option<OpenRecord>,
    #[prost(message, optional, tag = "5")]
    facts: Option<FactsRecord>,
    #[prost(uint64, tag = "6")]
    sent: u64,
    #[prost(uint64, tag = "7")]
    received: u64,
    #[prost(uint64, tag = "8")]
    age: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RequestedRecord {
    #[prost(string, tag = "1")]
    authority: String,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderRecord>,
    #[prost(uint32, tag = "3")]
    tries: u32,
    #[prost(uint64, tag = "4")]
    remaining: u64,
    #[prost(string, tag = "5")]
    source: String,
    #[prost(string, tag = "6")]
    destination: String,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ConnectingRecord {
    #[prost(uint64, tag = "1")]
    remaining: u64,
    #[prost(bool, tag = "2")]
    remote_finishing: bool,
}

#[derive(Clone, PartialEq, Message)]
struct OpenRecord {
    #[prost(bool, tag = "1")]
    local_done: bool,
    #[prost(bool, tag = "2")]
    remote_finishing: bool,
    #[prost(bool, tag = "3")]
    remote_done: bool,
    #[prost(bool, tag = "4")]
    remote_resetting: bool,
}

#[derive(Clone, PartialEq, Message)]
struct FactsRecord {
    #[prost(bool, tag = "1")]
    inbound: bool,
    #[prost(string, optional, tag = "2")]
    source: Option<String>,
    #[prost(message, optional, tag = "3")]
    source_party: Option<PartyRecord>,
    #[prost(string, optional, tag = "4")]
    destination: Option<String>,
    #[prost(message, optional, tag = "5")]
    destination_party: Option<PartyRecord>,
    #[prost(string, optional, tag = "6")]
    hbone_destination: Option<String>,
    #[prost(string, repeated, tag = "7")]
    service: Vec<String>,
    #[prost(bool, tag = "8")]
    mutual_tls: bool,
    #[prost(string, optional, tag = "9")]
    application: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct PartyRecord {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    workload: Option<String>,
    #[prost(string, optional, tag = "3")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "4")]
    canonical_service: Option<String>,
    #[prost(string, optional, tag = "5")]
    canonical_revision: Option<String>,
    #[prost(string, optional, tag = "6")]
    app: Option<String>,
    #[prost(string, optional, tag = "7")]
    version: Option<String>,
    #[prost(string, optional, tag = "8")]
    cluster: Option<String>,
    #[prost(string, optional, tag = "9")]
    region: Option<String>,
    #[prost(string, optional, tag = "10")]
    zone: Option<String>,
    #[prost(string, optional, tag = "11")]
    identity: Option<String>,
}

/// Collects the record of a tunnel that is being taken apart.
pub(super) struct Encoder(TunnelRecord);

impl Encoder {
    pub(super) fn new(
        pod: &Pod,
        peer: &TunnelPeer,
        role: &Role,
        tracked: &drain::Tracked<ConnectionFacts>,
        now: u64,
    ) -> Self {
        let client = match role {
            Role::Client { key, idle_since } => Some(ClientRecord {
                source: key.source.to_string(),
                source_address: key.source_address.map(|address| address.to_string()),
                address: key.address.to_string(),
                expected: key.expected.iter().map(ToString::to_string).collect(),
                idle: now.saturating_sub(*idle_since),
            }),
            Role::Server => None,
        };
        Self(TunnelRecord {
            connection: Vec::new(),
            peer_address: peer.address.to_string(),
            peer_local: peer.local.to_string(),
            peer_identity: peer.identity.as_ref().map(ToString::to_string),
            local_identity: peer.local_identity.to_string(),
            pod_uid: pod.uid().to_string(),
            namespace_device: pod.namespace_id().device,
            namespace_inode: pod.namespace_id().inode,
            client,
            facts: Some(FactsRecord::from(&*tracked.facts())),
            age: now.saturating_sub(tracked.opened_ms()),
            streams: Vec::new(),
            refused: false,
        })
    }

    pub(super) fn finish(
        mut self,
        connection: Vec<u8>,
        streams: Vec<StreamRecord>,
        refused: bool,
    ) -> Vec<u8> {
        self.0.refused = refused;
        self.0.connection = connection;
        self.0.streams = streams;
        self.0.encode_to_vec()
    }
}

/// The record of one stream.
pub(super) fn stream(id: StreamId, phase: &Phase, observation: &Observation, now: u64) -> StreamRecord {
    let mut record = StreamRecord { id: id.get(), ..StreamRecord::default() };
    if let Some(tracked) = observation.tracked() {
        record.facts = Some(FactsRecord::from(&*tracked.facts()));
        record.sent = tracked.sent();
        record.received = tracked.received();
        record.age = now.saturating_sub(tracked.opened_ms());
    }
    match phase {
        Phase::AwaitReply(requested) => {
            let headers = requested.request.headers.iter();
            record.requested = Some(RequestedRecord {
                authority: requested.request.authority.clone(),
                headers: headers
                    .map(|(name, value)| HeaderRecord { name: name.clone(), value: value.clone() })
                    .collect(),
                tries: requested.tries.into(),
                remaining: requested.deadline.saturating_sub(now),
                source: requested.source.to_string(),
                destination: requested.destination.to_string(),
            });
        }
        Phase::Connecting { deadline, remote } => {
            record.connecting = Some(ConnectingRecord {
                remaining: deadline.saturating_sub(now),
                remote_finishing: *remote == Remote::Finishing,
            });
        }
        Phase::Open(halves) => {
            record.open = Some(OpenRecord {
                local_done: halves.local_done,
                remote_finishing: halves.remote == Remote::Finishing,
                remote_done: halves.remote == Remote::Done,
                remote_resetting: halves.remote == Remote::Resetting,
            });
        }
    }
    record
}

/// A tunnel as its record tells it, on this process's clock.
pub(super) struct DecodedTunnel {
    pub(super) pod: Arc<Pod>,
    pub(super) connection: Vec<u8>,
    pub(super) peer: TunnelPeer,
    pub(super) role: Role,
    pub(super) facts: ConnectionFacts,
    pub(super) opened: u64,
    pub(super) streams: Vec<DecodedStream>,
    pub(super) refused: bool,
}

pub(super) struct DecodedStream {
    pub(super) id: StreamId,
    pub(super) phase: Phase,
    pub(super) facts: ConnectionFacts,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) opened: u64,
}

/// Reads a record of one of these pods.
pub(super) fn decode(bytes: &[u8], now: u64, pods: &Pods) -> Result<DecodedTunnel, MoveError> {
    let record = TunnelRecord::decode(bytes).map_err(|_| MoveError::Record("it isn't one"))?;
    let namespace = NamespaceId { device: record.namespace_device, inode: record.namespace_inode };
    let pod = pods.find(&record.pod_uid, namespace).ok_or(MoveError::PodGone)?;
    let role = match &record.client {
        None => Role::Server,
        Some(client) => Role::Client { key: client.key(&pod)?, idle_since: now.saturating_sub(client.idle) },
    };
    Ok(DecodedTunnel {
        pod,
        connection: record.connection,
        peer: TunnelPeer {
            address: address(&record.peer_address)?,
            local: address(&record.peer_local)?,
            identity: record.peer_identity.as_deref().map(identity).transpose()?,
            local_identity: identity(&record.local_identity)?,
        },
        role,
        facts: facts(record.facts)?,
        opened: now.saturating_sub(record.age),
        refused: record.refused,
        streams: record.streams.into_iter().map(|s| s.decode(now)).collect::<Result<_, _>>()?,
    })
}

impl ClientRecord {
    fn key(&self, pod: &Arc<Pod>) -> Result<PoolKey, MoveError> {
        let ip = |text: &String| text.parse::<IpAddr>().map_err(|_| MoveError::Record("an IP address"));
        Ok(PoolKey {
            pod: pod.clone(),
            source: identity(&self.source)?,
            source_address: self.source_address.as_ref().map(ip).transpose()?,
            address: address(&self.address)?,
            expected: self.expected.iter().map(|text| identity(text)).collect::<Result<Arc<[_]>, _>>()?,
        })
    }
}

impl StreamRecord {
    fn decode(self, now: u64) -> Result<DecodedStream, MoveError> {
        let remote = |finishing, resetting, done| match (finishing, resetting, done) {
            (_, _, true) => Remote::Done,
            (_, true, false) => Remote::Resetting,
            (true, false, false) => Remote::Finishing,
            (false, false, false) => Remote::Open,
        };
        let phase = match (self.requested, self.connecting, self.open) {
            (Some(requested), None, None) => Phase::AwaitReply(Box::new(requested.decode(now)?)),
            (None, Some(connecting), None) => Phase::Connecting {
                deadline: now.saturating_add(connecting.remaining),
                remote: remote(connecting.remote_finishing, false, false),
            },
            (None, None, Some(open)) => Phase::Open(Halves {
                local_done: open.local_done,
                remote: remote(open.remote_finishing, open.remote_resetting, open.remote_done),
            }),
            _ => return Err(MoveError::Record("a stream in no phase, or in several")),
        };
        Ok(DecodedStream {
            id: StreamId::new(self.id).ok_or(MoveError::Record("a stream's number"))?,
            phase,
            facts: facts(self.facts)?,
            sent: self.sent,
            received: self.received,
            opened: now.saturating_sub(self.age),
        })
    }
}

impl RequestedRecord {
    fn decode(self, now: u64) -> Result<Requested, MoveError> {
        let headers = self.headers.into_iter().map(|header| (header.name, header.value)).collect();
        Ok(Requested {
            request: ConnectRequest::connect(self.authority, headers),
            tries: u8::try_from(self.tries).unwrap_or(u8::MAX),
            deadline: now.saturating_add(self.remaining),
            source: address(&self.source)?,
            destination: address(&self.destination)?,
        })
    }
}

impl From<&ConnectionFacts> for FactsRecord {
    fn from(facts: &ConnectionFacts) -> Self {
        let service = facts.service.iter();
        Self {
            inbound: facts.direction == Direction::Inbound,
            source: facts.source.map(|address| address.to_string()),
            source_party: Some(PartyRecord::from(&facts.source_party)),
            destination: facts.destination.map(|address| address.to_string()),
            destination_party: Some(PartyRecord::from(&facts.destination_party)),
            hbone_destination: facts.hbone_destination.clone(),
            service: service
                .flat_map(|s| [&s.hostname, &s.name, &s.namespace].map(ToString::to_string))
                .collect(),
            mutual_tls: facts.mutual_tls,
            application: facts.application.map(|address| address.to_string()),
        }
    }
}

fn facts(record: Option<FactsRecord>) -> Result<ConnectionFacts, MoveError> {
    let record = record.ok_or(MoveError::Record("no facts"))?;
    let service = match record.service.as_slice() {
        [hostname, name, namespace] => Some(ServiceFacts {
            hostname: hostname.as_str().into(),
            name: name.as_str().into(),
            namespace: namespace.as_str().into(),
        }),
        _ => None,
    };
    Ok(ConnectionFacts {
        direction: if record.inbound { Direction::Inbound } else { Direction::Outbound },
        source: record.source.as_deref().map(address).transpose()?,
        source_party: party(record.source_party)?,
        destination: record.destination.as_deref().map(address).transpose()?,
        destination_party: party(record.destination_party)?,
        application: record.application.as_deref().map(address).transpose()?,
        hbone_destination: record.hbone_destination,
        service,
        mutual_tls: record.mutual_tls,
    })
}

impl From<&Party> for PartyRecord {
    fn from(party: &Party) -> Self {
        let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
        Self {
            name: text(&party.name),
            workload: text(&party.workload),
            namespace: text(&party.namespace),
            canonical_service: text(&party.canonical_service),
            canonical_revision: text(&party.canonical_revision),
            app: text(&party.app),
            version: text(&party.version),
            cluster: text(&party.cluster),
            region: text(&party.region),
            zone: text(&party.zone),
            identity: party.identity.as_ref().map(ToString::to_string),
        }
    }
}

fn party(record: Option<PartyRecord>) -> Result<Party, MoveError> {
    let record = record.unwrap_or_default();
    let text = |value: Option<String>| value.map(Arc::<str>::from);
    Ok(Party {
        name: text(record.name),
        workload: text(record.workload),
        namespace: text(record.namespace),
        canonical_service: text(record.canonical_service),
        canonical_revision: text(record.canonical_revision),
        app: text(record.app),
        version: text(record.version),
        cluster: text(record.cluster),
        region: text(record.region),
        zone: text(record.zone),
        identity: record.identity.as_deref().map(identity).transpose()?,
    })
}

fn address(text: &str) -> Result<SocketAddr, MoveError> {
    text.parse().map_err(|_| MoveError::Record("a socket address"))
}

fn identity(text: &str) -> Result<Identity, MoveError> {
    text.parse().map_err(|_| MoveError::Record("an identity"))
}
