//! A peer's connection to 15008 of which nothing was read yet, for another owner: see [`frozen`](crate::worker::frozen).
//! A handshake that is under way stays where it is.

use std::net::SocketAddr;

use drain::Kind;
use prost::Message;

use super::{Dial, DialRole, Stage};
use crate::clock::monotonic_ns;
use crate::telemetry::Direction;
use crate::worker::accept::socket_facts;
use crate::worker::core::Core;
use crate::worker::frozen::facts::address;
use crate::worker::frozen::record::{self, Body};
use crate::worker::frozen::{Early, FrozenConnection, FrozenKind, Given, Kept, MoveError};
use crate::worker::leg::Leg;
use crate::worker::user::Listening;

/// Its part of a record; its socket is the accepted one.
#[derive(Clone, PartialEq, Message)]
pub(in crate::worker) struct KnockRecord {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(uint64, tag = "2")]
    age: u64,
    /// How long our certificate may still be waited for.
    #[prost(uint64, tag = "3")]
    remaining: u64,
}

/// The same on this process's clock.
#[derive(Clone, Copy)]
pub(in crate::worker) struct PreparedKnock {
    source: SocketAddr,
    opened: u64,
    deadline: u64,
}

impl KnockRecord {
    pub(in crate::worker) fn read(self, sockets: usize, now: u64) -> Result<PreparedKnock, MoveError> {
        if sockets != 1 {
            return Err(MoveError::Sockets { expected: 1, got: sockets });
        }
        Ok(PreparedKnock {
            source: address(&self.source)?,
            opened: now.saturating_sub(self.age),
            deadline: now.saturating_add(self.remaining),
        })
    }
}

impl Dial {
    /// Why it can't be frozen now, if it can't.
    pub(in crate::worker) fn unmovable(&self) -> Option<&'static str> {
        match (&self.role, &self.stage) {
            (DialRole::Server { .. }, Stage::AwaitCertificate { accepted: Some(_) }) => None,
            (DialRole::Server { .. }, _) => Some("its handshake is under way"),
            (DialRole::Client { .. }, _) => Some("it is being dialled"),
        }
    }

    /// Takes it out of this worker. None if it can't be frozen; then it is closed.
    pub(in crate::worker) fn freeze(self, core: &mut Core) -> Option<Given> {
        let (DialRole::Server { source, tracked }, Some(leg)) = (self.role, self.stage.into_leg()) else {
            return None;
        };
        let frozen_at = monotonic_ns();
        let sockets = vec![core.take_fd(leg)];
        let body = KnockRecord {
            source: source.to_string(),
            age: core.now.saturating_sub(tracked.opened_ms()),
            remaining: self.deadline.saturating_sub(core.now),
        };
        let frozen = FrozenConnection {
            kind: FrozenKind::Setup,
            streams: 0,
            record: record::write(&self.pod, &sockets, Body::Knock(body)),
            secrets: None,
            sockets,
            frozen_at,
        };
        let early = Some(Early { source, destination: None, direction: Direction::Inbound });
        Some((frozen, Kept { _tracked: Some(tracked), early, ..Kept::default() }))
    }

    /// One that was frozen elsewhere.
    pub(in crate::worker) fn thaw(prepared: PreparedKnock, leg: Leg, core: &Core) -> Self {
        let PreparedKnock { source, opened, deadline } = prepared;
        let facts = socket_facts(Listening::Tunnels, source);
        let tracked = core.shared.registry.track(core.id, Kind::Tunnel, facts, opened);
        Self { deadline, ..Self::server(leg, source, tracked, core.now) }
    }
}
