//! A tunnel as something that can be carried: frozen here, thawed by another worker or another process.
//!
//! ```text
//!   Tunnel ──freeze──► Frozen ──pack──► FrozenTunnel ── bytes, secrets, sockets ──► thaw ──► Tunnel
//!                        │                                                           │
//!                        └─ stays with the old owner until the new one runs: then `released`, or dropped if it failed
//! ```
//!
//! The bytes ([`record`]) hold everything but the traffic secrets. The same path serves moves inside one process, so that
//! every such move exercises what a move between two processes needs.

mod record;

use std::os::fd::OwnedFd;
use std::time::Instant;

use drain::Tracked;
use hbone::{Prepared, Secrets, ThawError, Time};
use mio::net::TcpStream;

use super::Tunnel;
use crate::pool::PoolKey;
use crate::shared::Shared;
use crate::socket;
use crate::telemetry::{ConnectionFacts, Failure, Observation, Open};
use crate::worker::core::{Core, Source};
use crate::worker::leg::Adrift;
use crate::worker::stream::Stream;

/// A tunnel without an owner.
pub struct FrozenTunnel {
    /// Everything but secrets and sockets, in the format of `moving/record.rs`.
    pub record: Vec<u8>,
    /// The traffic secrets of both directions.
    pub secrets: Secrets,
    /// The tunnel's socket, then the local sockets of its streams in the order of the record.
    pub sockets: Vec<OwnedFd>,
}

/// What stays behind of a tunnel that was frozen: its place in the registry and its counters, so that it counts as
/// ours until somebody else has it.
pub struct Kept {
    observations: Vec<Observation>,
    _tracked: Tracked<ConnectionFacts>,
    _open: Open,
}

/// A tunnel on its way to another worker.
pub struct Moved {
    pub(in crate::worker) frozen: FrozenTunnel,
    pub(in crate::worker) kept: Kept,
    /// Whose pool its new owner was entered for.
    pub(in crate::worker) key: Option<PoolKey>,
    pub(in crate::worker) since: Instant,
}

/// Why a frozen tunnel can't run here.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The HBONE connection's own state.
    #[error("the connection's state: {0}")]
    Connection(#[from] ThawError),
    /// Whose it was is served no more.
    #[error("its pod is gone")]
    PodGone,
    /// What surrounds it.
    #[error("the tunnel's record: {0}")]
    Record(&'static str),
    /// Another number of sockets came than the record names.
    #[error("{got} sockets came with a record of {expected}")]
    Sockets {
        /// What the record says.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// The kernel refused a socket.
    #[error("a socket can't be used: {0}")]
    Socket(#[from] std::io::Error),
}

impl Kept {
    /// The tunnel has ended on its way: each of its connections says so in the access log.
    pub(in crate::worker) fn ended(self, now: u64, failure: &Failure) {
        for observation in self.observations {
            observation.close(now, Err(failure));
        }
    }

    /// The tunnel runs elsewhere: nothing is logged, nothing counted as closed.
    pub fn released(self) {
        for observation in self.observations {
            observation.release();
        }
    }
}

impl Tunnel {
    /// Whether it may be frozen now: not while it is saying goodbye.
    pub(in crate::worker) fn is_movable(&self) -> bool {
        self.lingering.is_none()
    }

    /// Takes the tunnel out of this worker. Its sockets leave the event loop first, since epoll follows the open file.
    pub(in crate::worker) fn freeze(self, core: &mut Core) -> (FrozenTunnel, Kept) {
        let encoder = record::Encoder::new(self.leg.pod(), &self.peer, &self.role, &self.tracked, core.now);
        let snapshot = self.connection.freeze().snapshot(Time(core.now));
        let mut sockets = vec![core.take_fd(self.leg)];
        let mut observations = Vec::with_capacity(self.streams.len());
        let mut streams = Vec::with_capacity(self.streams.len());
        for (id, stream) in self.streams {
            streams.push(record::stream(id, &stream.phase, &stream.observation, core.now));
            sockets.push(core.take_fd(stream.leg));
            observations.push(stream.observation);
        }
        let record = encoder.finish(snapshot.state, streams, self.refused);
        let kept = Kept { observations, _tracked: self.tracked, _open: self.open };
        (FrozenTunnel { record, secrets: snapshot.secrets, sockets }, kept)
    }

    /// A tunnel that was frozen elsewhere, as this worker's. Its sockets' owner is `key`.
    ///
    /// # Errors
    /// If the record can't be read or doesn't fit its sockets; then all of them are closed. Those of a pod that is gone are
    /// reset: its applications must not take what was cut for whole.
    pub(in crate::worker) fn thaw(
        frozen: FrozenTunnel,
        key: usize,
        core: &mut Core,
    ) -> Result<Self, MoveError> {
        let record = record::decode(&frozen.record, core.now, &core.shared.pods).inspect_err(|error| {
            if matches!(error, MoveError::PodGone) {
                frozen.sockets.iter().for_each(socket::abort);
            }
        })?;
        let expected = 1 + record.streams.len();
        if frozen.sockets.len() != expected {
            return Err(MoveError::Sockets { expected, got: frozen.sockets.len() });
        }
        let connection = Prepared::read(&record.connection)?.commit(Time(core.now), &frozen.secrets)?;
        let sockets = frozen.sockets.into_iter().map(|fd| TcpStream::from_std(fd.into()));
        let mut sockets = sockets.map(|socket| Adrift::new(socket, record.pod.clone()));
        let mut leg = |core: &mut Core, source| match sockets.next() {
            Some(socket) => core.register(socket, source).map_err(MoveError::from),
            None => Err(MoveError::Sockets { expected, got: 0 }),
        };
        let shared: &Shared = &core.shared.clone();
        let registry = &shared.registry;
        let tracked = registry.track(core.id, drain::Kind::Tunnel, record.facts, record.opened);
        let open = shared.telemetry.tunnel_opened(record.role.metric());
        let mut tunnel =
            Self::new(leg(core, Source::Tunnel(key))?, connection, record.role, record.peer, tracked, open);
        tunnel.refused = record.refused;
        for stream in record.streams {
            let leg = leg(core, Source::Stream(key, stream.id))?;
            let tracked = registry.track(core.id, drain::Kind::Stream, stream.facts, stream.opened);
            let observation = Observation::resume(&shared.telemetry, tracked, stream.sent, stream.received);
            tunnel.insert(stream.id, Stream { leg, phase: stream.phase, observation, queued: false });
            // The event loop will tell what is ready; what the connection keeps for the application is known now.
            tunnel.touched.push(stream.id);
        }
        Ok(tunnel)
    }
}
