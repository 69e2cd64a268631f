//! A user's connection taken apart before its bytes flow, and put together by its new owner: see
//! [`frozen`](crate::worker::frozen).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use drain::Kind;
use prost::{Message, Oneof};

use super::{Listening, Origin, Stage, User};
use crate::clock::monotonic_ns;
use crate::pod::Pod;
use crate::pool::PoolKey;
use crate::worker::accept::socket_facts;
use crate::worker::core::Core;
use crate::worker::frozen::facts::{ObservationRecord, PreparedObservation, address};
use crate::worker::frozen::record::{self, Body};
use crate::worker::frozen::{Early, FrozenConnection, FrozenKind, Given, Kept, MoveError};
use crate::worker::leg::Leg;
use crate::worker::stream::Requested;
use crate::worker::tunnel::moving::record::{ClientRecord, RequestedRecord};

/// The user's part of a record. Its sockets: the accepted one and, while it is being connected, the one to its destination.
#[derive(Clone, PartialEq, Message)]
pub(in crate::worker) struct UserRecord {
    /// What is left of the stage's time.
    #[prost(uint64, tag = "1")]
    remaining: u64,
    #[prost(oneof = "StageRecord", tags = "2, 3, 4, 5, 6")]
    stage: Option<StageRecord>,
}

#[derive(Clone, PartialEq, Oneof)]
enum StageRecord {
    #[prost(message, tag = "2")]
    Greeting(GreetingRecord),
    #[prost(message, tag = "3")]
    AwaitWorkload(TargetRecord),
    #[prost(message, tag = "4")]
    AwaitAnswer(TargetRecord),
    #[prost(message, tag = "5")]
    Connecting(Box<ObservationRecord>),
    #[prost(message, tag = "6")]
    AwaitTunnel(Box<AwaitTunnelRecord>),
}

#[derive(Clone, PartialEq, Message)]
struct GreetingRecord {
    #[prost(message, optional, tag = "1")]
    origin: Option<OriginRecord>,
    #[prost(bytes = "vec", tag = "2")]
    buffer: Vec<u8>,
    #[prost(bool, tag = "3")]
    agreed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct TargetRecord {
    #[prost(message, optional, tag = "1")]
    origin: Option<OriginRecord>,
    #[prost(string, tag = "2")]
    destination: String,
}

#[derive(Clone, PartialEq, Message)]
struct AwaitTunnelRecord {
    #[prost(message, optional, tag = "1")]
    key: Option<ClientRecord>,
    #[prost(message, optional, tag = "2")]
    requested: Option<RequestedRecord>,
    #[prost(message, optional, tag = "3")]
    observation: Option<ObservationRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct OriginRecord {
    #[prost(string, tag = "1")]
    source: String,
    /// The port that Istio gives the listener: 15001, 15006, 15008, 15080.
    #[prost(uint32, tag = "2")]
    listener: u32,
    #[prost(uint64, tag = "3")]
    age: u64,
}

/// A user's connection as its record tells it, on this process's clock.
pub(in crate::worker) struct PreparedUser {
    deadline: u64,
    stage: PreparedStage,
}

enum PreparedStage {
    Greeting { buffer: Vec<u8>, agreed: bool, origin: PreparedOrigin },
    AwaitWorkload { destination: SocketAddr, origin: PreparedOrigin },
    AwaitAnswer { destination: SocketAddr, origin: PreparedOrigin },
    Connecting(PreparedObservation),
    AwaitTunnel { key: PoolKey, requested: Box<Requested>, observation: PreparedObservation },
}

struct PreparedOrigin {
    source: SocketAddr,
    listener: Listening,
    opened: u64,
}

impl OriginRecord {
    fn of(origin: &Origin, now: u64) -> Self {
        Self {
            source: origin.source.to_string(),
            listener: match origin.listener {
                Listening::Outbound => 15001,
                Listening::Passthrough => 15006,
                Listening::Tunnels => 15008,
                Listening::Socks5 => 15080,
            },
            age: now.saturating_sub(origin.tracked.opened_ms()),
        }
    }

    fn read(record: Option<Self>, now: u64) -> Result<PreparedOrigin, MoveError> {
        let record = record.ok_or(MoveError::Record("no origin"))?;
        Ok(PreparedOrigin {
            source: address(&record.source)?,
            listener: match record.listener {
                15001 => Listening::Outbound,
                15006 => Listening::Passthrough,
                15080 => Listening::Socks5,
                _ => return Err(MoveError::Record("a listener")),
            },
            opened: now.saturating_sub(record.age),
        })
    }
}

impl PreparedOrigin {
    fn resume(self, core: &Core) -> Origin {
        let Self { source, listener, opened } = self;
        let facts = socket_facts(listener, source);
        Origin { source, listener, tracked: core.shared.registry.track(core.id, Kind::Setup, facts, opened) }
    }
}

impl UserRecord {
    pub(in crate::worker) fn read(
        self,
        pod: &Arc<Pod>,
        sockets: usize,
        now: u64,
    ) -> Result<PreparedUser, MoveError> {
        let stage = self.stage.ok_or(MoveError::Record("a user's connection in no stage"))?;
        let expected = if matches!(stage, StageRecord::Connecting(_)) { 2 } else { 1 };
        if sockets != expected {
            return Err(MoveError::Sockets { expected, got: sockets });
        }
        let stage = match stage {
            StageRecord::Greeting(GreetingRecord { origin, buffer, agreed }) => {
                PreparedStage::Greeting { buffer, agreed, origin: OriginRecord::read(origin, now)? }
            }
            StageRecord::AwaitWorkload(TargetRecord { origin, destination }) => {
                let destination = address(&destination)?;
                PreparedStage::AwaitWorkload { destination, origin: OriginRecord::read(origin, now)? }
            }
            StageRecord::AwaitAnswer(TargetRecord { origin, destination }) => {
                let destination = address(&destination)?;
                PreparedStage::AwaitAnswer { destination, origin: OriginRecord::read(origin, now)? }
            }
            StageRecord::Connecting(observation) => PreparedStage::Connecting(observation.read(now)?),
            StageRecord::AwaitTunnel(record) => {
                let AwaitTunnelRecord { key, requested, observation } = *record;
                let requested = requested.ok_or(MoveError::Record("no request"))?.decode(now)?;
                PreparedStage::AwaitTunnel {
                    key: key.ok_or(MoveError::Record("no key"))?.key(pod)?,
                    requested: Box::new(requested),
                    observation: observation.ok_or(MoveError::Record("no observation"))?.read(now)?,
                }
            }
        };
        Ok(PreparedUser { deadline: now.saturating_add(self.remaining), stage })
    }
}

impl User {
    /// Takes the connection out of this worker. None if its pieces are elsewhere already.
    pub(in crate::worker) fn freeze(self, core: &mut Core) -> Option<Given> {
        let frozen_at = monotonic_ns();
        let pod = self.leg.pod().clone();
        let now = core.now;
        let mut sockets: Vec<OwnedFd> = Vec::with_capacity(2);
        let early = |origin: Origin, destination: Option<SocketAddr>| Kept {
            early: Some(Early { source: origin.source, destination, direction: origin.listener.direction() }),
            _tracked: Some(origin.tracked),
            ..Kept::default()
        };
        let (stage, kept) = match self.stage {
            Stage::Greeting { buffer, agreed, origin } => {
                let told = Some(OriginRecord::of(&origin, now));
                let record = GreetingRecord { origin: told, buffer, agreed };
                (StageRecord::Greeting(record), early(origin, None))
            }
            Stage::AwaitWorkload { destination, origin } => {
                let record = TargetRecord::of(destination, &origin, now);
                (StageRecord::AwaitWorkload(record), early(origin, Some(destination)))
            }
            Stage::AwaitAnswer { destination, origin } => {
                let record = TargetRecord::of(destination, &origin, now);
                (StageRecord::AwaitAnswer(record), early(origin, Some(destination)))
            }
            Stage::Connecting { onward, observation } => {
                sockets.push(core.take_fd(onward));
                let record = ObservationRecord::of(&observation, now);
                (
                    StageRecord::Connecting(Box::new(record)),
                    Kept { observations: vec![observation], ..Kept::default() },
                )
            }
            Stage::AwaitTunnel { key, requested, observation } => {
                let record = AwaitTunnelRecord {
                    key: Some(ClientRecord::of(&key, 0)),
                    requested: Some(RequestedRecord::of(&requested, now)),
                    observation: Some(ObservationRecord::of(&observation, now)),
                };
                (
                    StageRecord::AwaitTunnel(Box::new(record)),
                    Kept { observations: vec![observation], ..Kept::default() },
                )
            }
            Stage::Gone => {
                core.close(self.leg);
                return None;
            }
        };
        sockets.insert(0, core.take_fd(self.leg));
        let body = UserRecord { remaining: self.deadline.saturating_sub(now), stage: Some(stage) };
        let frozen = FrozenConnection {
            kind: FrozenKind::Setup,
            streams: 0,
            record: record::write(&pod, &sockets, Body::User(body)),
            secrets: None,
            sockets,
            frozen_at,
        };
        Some((frozen, kept))
    }

    /// A user's connection that was frozen elsewhere; `onward` is its second socket, if it has one.
    pub(in crate::worker) fn thaw(
        prepared: PreparedUser,
        leg: Leg,
        onward: Option<Leg>,
        core: &Core,
    ) -> Result<Self, MoveError> {
        let PreparedUser { deadline, stage } = prepared;
        let stage = match (stage, onward) {
            (PreparedStage::Greeting { buffer, agreed, origin }, None) => {
                Stage::Greeting { buffer, agreed, origin: origin.resume(core) }
            }
            (PreparedStage::AwaitWorkload { destination, origin }, None) => {
                Stage::AwaitWorkload { destination, origin: origin.resume(core) }
            }
            (PreparedStage::AwaitAnswer { destination, origin }, None) => {
                Stage::AwaitAnswer { destination, origin: origin.resume(core) }
            }
            (PreparedStage::Connecting(observation), Some(onward)) => {
                Stage::Connecting { onward, observation: observation.resume(Kind::Plain, core) }
            }
            (PreparedStage::AwaitTunnel { key, requested, observation }, None) => {
                Stage::AwaitTunnel { key, requested, observation: observation.resume(Kind::Stream, core) }
            }
            (_, onward) => {
                return Err(MoveError::Sockets { expected: 1, got: 1 + usize::from(onward.is_some()) });
            }
        };
        Ok(Self::new(leg, stage, deadline))
    }
}

impl TargetRecord {
    fn of(destination: SocketAddr, origin: &Origin, now: u64) -> Self {
        Self { origin: Some(OriginRecord::of(origin, now)), destination: destination.to_string() }
    }
}
