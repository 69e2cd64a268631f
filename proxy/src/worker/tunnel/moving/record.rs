//! The tunnel's part of a record, around the bytes of its HBONE connection. The rules are those of `frozen/record.rs`.

use std::net::IpAddr;
use std::sync::Arc;

use hbone::{ConnectRequest, Prepared, StreamId};
use prost::Message;

use super::super::Role;
use super::{PreparedStream, PreparedTunnel};
use crate::inbound::TunnelPeer;
use crate::pod::Pod;
use crate::pool::PoolKey;
use crate::telemetry::{ConnectionFacts, Observation};
use crate::worker::frozen::MoveError;
use crate::worker::frozen::facts::{FactsRecord, PreparedObservation, address, facts, identity};
use crate::worker::stream::{Halves, Phase, Remote, Requested};

/// Numbers 11 to 13 were used by builds that were never released.
#[derive(Clone, PartialEq, Message)]
pub(in crate::worker) struct TunnelRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) connection: Vec<u8>,
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
    pub(super) streams: Vec<StreamRecord>,
    #[prost(bool, tag = "9")]
    refused: bool,
    #[prost(string, tag = "10")]
    local_identity: String,
}

/// Whom a tunnel that we dialled goes to, and who may use it: a [`PoolKey`] without its pod.
#[derive(Clone, PartialEq, Message)]
pub struct ClientRecord {
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
pub(in crate::worker) struct RequestedRecord {
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

/// The record of a tunnel that is being taken apart, without its connection and its streams.
pub(super) fn tunnel(
    peer: &TunnelPeer,
    role: &Role,
    tracked: &drain::Tracked<ConnectionFacts>,
    refused: bool,
    now: u64,
) -> TunnelRecord {
    let client = match role {
        Role::Client { key, idle_since } => Some(ClientRecord::of(key, now.saturating_sub(*idle_since))),
        Role::Server => None,
    };
    TunnelRecord {
        connection: Vec::new(),
        peer_address: peer.address.to_string(),
        peer_local: peer.local.to_string(),
        peer_identity: peer.identity.as_ref().map(ToString::to_string),
        local_identity: peer.local_identity.to_string(),
        client,
        facts: Some(FactsRecord::from(&*tracked.facts())),
        age: now.saturating_sub(tracked.opened_ms()),
        streams: Vec::new(),
        refused,
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
            record.requested = Some(RequestedRecord::of(requested, now));
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

impl TunnelRecord {
    /// A tunnel as its record tells it, on this process's clock. `sockets` have come along.
    pub(in crate::worker) fn read(
        self,
        pod: &Arc<Pod>,
        sockets: usize,
        now: u64,
    ) -> Result<(Prepared, PreparedTunnel), MoveError> {
        let expected = 1 + self.streams.len();
        if sockets != expected {
            return Err(MoveError::Sockets { expected, got: sockets });
        }
        let role = match &self.client {
            None => Role::Server,
            Some(client) => {
                Role::Client { key: client.key(pod)?, idle_since: now.saturating_sub(client.idle) }
            }
        };
        let connection = Prepared::read(&self.connection)?;
        if (connection.role() == hbone::Role::Server) != matches!(role, Role::Server) {
            return Err(MoveError::Record("the connection is the other end of the tunnel"));
        }
        let streams =
            self.streams.into_iter().map(|stream| stream.decode(now)).collect::<Result<Vec<_>, _>>()?;
        if !streams.is_sorted_by(|a, b| a.id < b.id) {
            return Err(MoveError::Record("streams out of order"));
        }
        let tunnel = PreparedTunnel {
            peer: TunnelPeer {
                address: address(&self.peer_address)?,
                local: address(&self.peer_local)?,
                identity: self.peer_identity.as_deref().map(identity).transpose()?,
                local_identity: identity(&self.local_identity)?,
            },
            role,
            facts: facts(self.facts)?,
            opened: now.saturating_sub(self.age),
            refused: self.refused,
            streams,
        };
        Ok((connection, tunnel))
    }
}

impl ClientRecord {
    /// Of a tunnel that nobody has used for `idle` ms.
    pub fn of(key: &PoolKey, idle: u64) -> Self {
        Self {
            source: key.source.to_string(),
            source_address: key.source_address.map(|address| address.to_string()),
            address: key.address.to_string(),
            expected: key.expected.iter().map(ToString::to_string).collect(),
            idle,
        }
    }

    /// The key, for this pod.
    ///
    /// # Errors
    /// [`MoveError::Record`], if it isn't one.
    pub fn key(&self, pod: &Arc<Pod>) -> Result<PoolKey, MoveError> {
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
    fn decode(self, now: u64) -> Result<PreparedStream, MoveError> {
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
        Ok(PreparedStream {
            id: StreamId::new(self.id).ok_or(MoveError::Record("a stream's number"))?,
            phase,
            observation: PreparedObservation {
                facts: facts(self.facts)?,
                sent: self.sent,
                received: self.received,
                opened: now.saturating_sub(self.age),
            },
        })
    }
}

impl RequestedRecord {
    pub(in crate::worker) fn of(requested: &Requested, now: u64) -> Self {
        let headers = requested.request.headers.iter();
        let header =
            |(name, value): &(String, Vec<u8>)| HeaderRecord { name: name.clone(), value: value.clone() };
        Self {
            authority: requested.request.authority.clone(),
            headers: headers.map(header).collect(),
            tries: requested.tries.into(),
            remaining: requested.deadline.saturating_sub(now),
            source: requested.source.to_string(),
            destination: requested.destination.to_string(),
        }
    }

    pub(in crate::worker) fn decode(self, now: u64) -> Result<Requested, MoveError> {
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
