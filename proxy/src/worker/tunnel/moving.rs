//! A tunnel taken apart, and put together by its new owner: see [`frozen`](crate::worker::frozen).

pub(in crate::worker) mod record;

use drain::Kind;
use hbone::{Connection, StreamId, Time};

use super::{Role, Tunnel};
use crate::clock::monotonic_ns;
use crate::inbound::TunnelPeer;
use crate::pool::PoolKey;
use crate::telemetry::ConnectionFacts;
use crate::worker::core::{Core, Source};
use crate::worker::frozen::facts::PreparedObservation;
use crate::worker::frozen::record::{self as connection_record, Body};
use crate::worker::frozen::{FrozenConnection, FrozenKind, Given, Kept};
use crate::worker::leg::Leg;
use crate::worker::stream::{Phase, Stream};

/// A tunnel as its record tells it, on this process's clock, without its HBONE connection.
pub(in crate::worker) struct PreparedTunnel {
    peer: TunnelPeer,
    role: Role,
    facts: ConnectionFacts,
    opened: u64,
    streams: Vec<PreparedStream>,
    refused: bool,
}

struct PreparedStream {
    id: StreamId,
    phase: Phase,
    observation: PreparedObservation,
}

impl PreparedTunnel {
    pub(in crate::worker) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// In which pool it is, if we dialled it.
    pub(in crate::worker) fn key(&self) -> Option<&PoolKey> {
        match &self.role {
            Role::Client { key, .. } => Some(key),
            Role::Server => None,
        }
    }
}

impl Tunnel {
    /// Why it can't be frozen now, if it can't.
    pub(in crate::worker) fn unmovable(&self) -> Option<&'static str> {
        if self.lingering.is_some() {
            Some("it is being closed")
        } else if self.arrival.is_some() {
            Some("it has just arrived")
        } else {
            None
        }
    }

    /// Takes the tunnel out of this worker. Its sockets leave the event loop first, since epoll follows the open file.
    pub(in crate::worker) fn freeze(self, core: &mut Core) -> Given {
        let frozen_at = monotonic_ns();
        let pod = self.leg.pod().clone();
        let mut record = record::tunnel(&self.peer, &self.role, &self.tracked, self.refused, core.now);
        let snapshot = self.connection.freeze().snapshot(Time(core.now));
        record.connection = snapshot.state;
        let mut sockets = vec![core.take_fd(self.leg)];
        let mut observations = Vec::with_capacity(self.streams.len());
        for (id, stream) in self.streams {
            record.streams.push(record::stream(id, &stream.phase, &stream.observation, core.now));
            sockets.push(core.take_fd(stream.leg));
            observations.push(stream.observation);
        }
        let frozen = FrozenConnection {
            kind: FrozenKind::Tunnel,
            streams: observations.len(),
            record: connection_record::write(&pod, &sockets, Body::Tunnel(record)),
            secrets: Some(snapshot.secrets),
            sockets,
            frozen_at,
        };
        let kept =
            Kept { observations, _tracked: Some(self.tracked), _open: Some(self.open), ..Kept::default() };
        (frozen, kept)
    }

    /// A tunnel that was frozen elsewhere, as this worker's. Its sockets' owner is `key`; there are as many as its record
    /// told.
    pub(in crate::worker) fn thaw(
        prepared: PreparedTunnel,
        connection: Connection,
        leg: Leg,
        legs: impl Iterator<Item = Leg>,
        key: usize,
        core: &mut Core,
    ) -> Self {
        let PreparedTunnel { peer, role, facts, opened, streams, refused } = prepared;
        core.assign(&leg, Source::Tunnel(key));
        let shared = core.shared.clone();
        let tracked = shared.registry.track(core.id, Kind::Tunnel, facts, opened);
        let open = shared.telemetry.tunnel_opened(role.metric());
        let mut tunnel = Self::new(leg, connection, role, peer, tracked, open);
        tunnel.refused = refused;
        tunnel.active_at = core.now;
        for (stream, leg) in streams.into_iter().zip(legs) {
            core.assign(&leg, Source::Stream(key, stream.id));
            let observation = stream.observation.resume(Kind::Stream, core);
            tunnel.insert(stream.id, Stream { leg, phase: stream.phase, observation, queued: false });
            // What the connection keeps for the application, and what that has sent, goes on in the first turn.
            tunnel.touched.push(stream.id);
        }
        tunnel
    }
}
