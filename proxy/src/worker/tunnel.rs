//! A tunnel and everything that belongs to it: its TCP socket, the HBONE connection, its streams and their local
//! sockets. All of it belongs to one worker at a time.
//!
//! A turn ([`Tunnel::drive`]) takes what the socket has, gives it to the applications, collects what the applications
//! have, and writes to the tunnel once. Every turn ends with the whole state in plain values, so that the tunnel can be
//! frozen between any two of them ([`moving`]).

mod client;
pub(super) mod moving;
mod receive;
mod server;
mod transmit;

use std::collections::{BTreeSet, VecDeque};

use drain::Tracked;
use hbone::{Connection, ConnectionError, ErrorCode, StreamId, Time};

use super::core::{Core, Job};
use super::end::End;
use super::frozen::arrival::Arrival;
use super::jobs::Queued;
use super::leg::{Leg, Taken};
use super::stream::{Delivered, Phase, Requested, Stream, Streams};
use crate::inbound::TunnelPeer;
use crate::pool::PoolKey;
use crate::telemetry::{ConnectionFacts, Failure, Observation, Open, ResponseFlags, TunnelRole};

/// How long a closed tunnel waits for its peer's FIN, ms. Closing at once would turn bytes that are still under way
/// into a RST, which can destroy what the peer hasn't read yet.
const LINGER: u64 = 1_000;

/// Our part in the tunnel.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// We dialled it, for everybody with this key.
    Client {
        key: PoolKey,
        /// Since when it has had no stream, ms; meaningless while it has one.
        idle_since: u64,
    },
    /// A peer dialled it.
    Server,
}

impl Role {
    /// For the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Client { .. } => "client",
            Self::Server => "server",
        }
    }

    /// For the metrics.
    pub(super) fn metric(&self) -> TunnelRole {
        match self {
            Self::Client { .. } => TunnelRole::Client,
            Self::Server => TunnelRole::Server,
        }
    }
}

/// What a turn asks of the worker.
pub(super) enum Effect {
    /// This user's request was not processed by the peer: another tunnel may serve it.
    Again(Box<Returned>),
    /// Waiting users may find room now.
    Room,
    /// No new stream may be opened on this tunnel.
    LeavePool,
}

/// A user's connection that comes back from a tunnel that didn't process its request.
pub(super) struct Returned {
    pub(super) leg: Leg,
    pub(super) requested: Box<Requested>,
    pub(super) observation: Observation,
}

/// See the module.
pub(super) struct Tunnel {
    pub(super) leg: Leg,
    pub(super) connection: Connection,
    pub(super) role: Role,
    pub(super) peer: TunnelPeer,
    streams: Streams,
    /// Streams whose application has something to send, in the order of their turns.
    active: VecDeque<StreamId>,
    /// Streams whose local socket had an event since the last turn.
    touched: Vec<StreamId>,
    /// Deadlines of streams that aren't open; may hold some that have become open since.
    deadlines: BTreeSet<(u64, StreamId)>,
    tracked: Tracked<ConnectionFacts>,
    /// Its place in the gauge of open tunnels.
    open: Open,
    /// Set once the connection is closed: until when the peer's FIN is waited for, ms.
    lingering: Option<u64>,
    /// A stream ended since the last turn: there may be room for a waiting user.
    freed: bool,
    /// The peer refused a stream (REFUSED_STREAM, RFC 9113, 8.7): it has no room until another one ends.
    refused: bool,
    /// When an application's bytes last passed, ms.
    active_at: u64,
    /// Who waits for news of it, if it has just arrived.
    arrival: Option<Box<Arrival>>,
    pub(super) armed: Option<u64>,
    pub(super) queued: Queued,
}

impl Tunnel {
    pub(super) fn new(
        leg: Leg,
        connection: Connection,
        role: Role,
        peer: TunnelPeer,
        tracked: Tracked<ConnectionFacts>,
        open: Open,
    ) -> Self {
        let queued = Queued::of(leg.pod());
        Self {
            leg,
            connection,
            role,
            peer,
            streams: Streams::new(),
            active: VecDeque::new(),
            touched: Vec::new(),
            deadlines: BTreeSet::new(),
            active_at: tracked.opened_ms(),
            tracked,
            open,
            lingering: None,
            freed: false,
            refused: false,
            arrival: None,
            armed: None,
            queued,
        }
    }

    /// The key of a tunnel that we dialled.
    pub(super) fn key(&self) -> Option<&PoolKey> {
        match &self.role {
            Role::Client { key, .. } => Some(key),
            Role::Server => None,
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// When an application's bytes last passed, ms.
    pub(super) fn active_at(&self) -> u64 {
        self.active_at
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = StreamId> {
        self.streams.keys().copied()
    }

    pub(super) fn observation(&self, id: StreamId) -> Option<&Observation> {
        self.streams.get(&id).map(|stream| &stream.observation)
    }

    /// Takes note of an event at a stream's local socket.
    pub(super) fn stream_event(&mut self, id: StreamId, event: &mio::event::Event) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.leg.note(event);
            self.touched.push(id);
        }
    }

    /// One turn. `Ok(true)` once the tunnel is over in good order.
    ///
    /// # Errors
    /// The tunnel is lost, and with it its streams: the caller ends it by [`Tunnel::fail`].
    pub(super) fn drive(
        &mut self,
        key: usize,
        core: &mut Core,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, Failure> {
        if self.lingering.is_some() {
            return Ok(self.linger(key, core));
        }
        self.receive(key, core, effects)?;
        self.serve_touched(core);
        self.expire(core);
        self.transmit(key, core)?;
        if std::mem::take(&mut self.freed) {
            effects.push(Effect::Room);
        }
        if self.is_over(core) {
            self.connection.close(ErrorCode::NO_ERROR);
            self.transmit(key, core)?;
            self.leg.shutdown_write();
            self.lingering = Some(core.now + LINGER);
            effects.push(Effect::LeavePool);
        }
        self.arm(key, core);
        self.note_arrival(Arrival::ran);
        Ok(false)
    }

    /// Who waits for news of it hears of its first turn, and of the peer's answer if they want that.
    pub(super) fn announce(&mut self, arrival: Arrival) {
        if arrival.wants_proof() {
            self.connection.probe();
        }
        self.arrival = Some(Box::new(arrival));
    }

    fn note_arrival(&mut self, news: impl FnOnce(&mut Arrival)) {
        if let Some(arrival) = &mut self.arrival {
            news(arrival);
            if arrival.is_over() {
                self.arrival = None;
            }
        }
    }

    /// The first turn after the handshake: bytes that came along with its last flight are waiting in the connection.
    pub(super) fn start(
        &mut self,
        key: usize,
        core: &mut Core,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let result = self.connection.receive(Time(core.now), &mut core.inbox, 0, &mut core.events);
        self.dispatch(key, core, effects);
        result.map_err(|error| failure(&error))?;
        core.enqueue(Job::Tunnel(key), &mut self.queued);
        Ok(())
    }

    /// Tells the peer that no new stream is wanted here (GOAWAY, RFC 9113, 6.8); the streams go on.
    pub(super) fn shut_down(&mut self, key: usize, core: &mut Core) {
        self.connection.shutdown(Time(core.now));
        core.enqueue(Job::Tunnel(key), &mut self.queued);
    }

    /// Ends the tunnel and its streams because of `failure`, after one try to tell the peer.
    pub(super) fn fail(mut self, core: &mut Core, failure: &Failure) {
        self.connection.close(ErrorCode::INTERNAL_ERROR);
        let unsent = self.connection.unsent().len();
        if unsent == 0 || self.leg.write(self.connection.unsent()).is_ok_and(|n| n == unsent) {
            self.connection.advance(unsent);
            let _ = self.connection.flush(&mut core.outbox);
            let _ = self.leg.write(core.outbox.sealed());
        }
        let sealed = core.outbox.sealed().len();
        self.connection.written(&mut core.outbox, sealed);
        for (_, stream) in std::mem::take(&mut self.streams) {
            end_stream(stream, core, End::Failed(failure));
        }
        core.close(self.leg);
    }

    /// Closes a tunnel that is over.
    pub(super) fn close(self, core: &mut Core) {
        core.close(self.leg);
    }

    /// Everything is done, or nobody has used it for so long that it isn't worth keeping.
    fn is_over(&self, core: &Core) -> bool {
        if !self.streams.is_empty() {
            return false;
        }
        let idle = match &self.role {
            Role::Client { idle_since, .. } => {
                let unused = core.now.saturating_sub(*idle_since);
                core.draining || self.refused || unused >= core.shared.pool.unused_release_timeout_ms
            }
            Role::Server => false,
        };
        idle || self.connection.is_done()
    }

    fn linger(&mut self, key: usize, core: &mut Core) -> bool {
        while self.leg.readable {
            match self.leg.read(&mut core.plain) {
                Taken::Bytes(_) => {}
                Taken::Blocked => break,
                Taken::End | Taken::Failed(_) => return true,
            }
        }
        core.timers.set(Job::Tunnel(key), &mut self.armed, self.lingering);
        self.lingering.is_some_and(|until| until <= core.now)
    }

    /// Local sockets with news: connections that came up, room for what was kept, bytes to send.
    fn serve_touched(&mut self, core: &mut Core) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if let Phase::Connecting { .. } = stream.phase {
                self.connected(id, core);
                continue;
            }
            let outcome = match stream.phase {
                Phase::Open(halves) if halves.local_done && stream.leg.has_failed() => Delivered::Gone,
                _ => stream.deliver_pending(id, &mut self.connection),
            };
            self.activate(id);
            self.settle(id, outcome, core);
        }
        self.touched = touched;
    }

    /// Queues a stream whose application may be read.
    fn activate(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
            && stream.wants_to_send()
        {
            stream.queued = true;
            self.active.push_back(id);
        }
    }

    /// After something was delivered: the stream may be over.
    fn settle(&mut self, id: StreamId, outcome: Delivered, core: &mut Core) {
        if outcome == Delivered::Gone {
            self.application_gone(id, core);
        } else if self.streams.get(&id).is_some_and(Stream::is_whole) {
            self.finish_stream(id, core, End::Whole);
        }
    }

    /// The application has gone: the peer is told as stock tells it.
    fn application_gone(&mut self, id: StreamId, core: &mut Core) {
        self.connection.reset(id, ErrorCode::CANCEL);
        match self.streams.get(&id).and_then(Stream::socket_error) {
            Some(error) => {
                let failure = Failure::new(ResponseFlags::None, format!("application: {error}"));
                self.finish_stream(id, core, End::Failed(&failure));
            }
            None => self.finish_stream(id, core, End::Reset),
        }
    }

    fn finish_stream(&mut self, id: StreamId, core: &mut Core, end: End<'_>) {
        if let Some(stream) = self.streams.remove(&id) {
            end_stream(stream, core, end);
            self.note_idle(core.now);
        }
    }

    fn note_idle(&mut self, now: u64) {
        self.freed = true;
        self.refused = false;
        if let Role::Client { idle_since, .. } = &mut self.role {
            *idle_since = now;
        }
    }

    /// Ends streams that didn't come up in time.
    fn expire(&mut self, core: &mut Core) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= core.now
        {
            self.deadlines.pop_first();
            if self.streams.get(&id).and_then(Stream::deadline) == Some(at) {
                self.stream_timeout(id, core);
            }
        }
    }

    fn stream_timeout(&mut self, id: StreamId, core: &mut Core) {
        match self.role {
            Role::Client { .. } => self.reply_timeout(id, core),
            Role::Server => self.connect_failed(id, core, "connect timed out"),
        }
    }

    fn insert(&mut self, id: StreamId, stream: Stream) {
        if let Some(deadline) = stream.deadline() {
            self.deadlines.insert((deadline, id));
        }
        self.streams.insert(id, stream);
    }

    fn arm(&mut self, key: usize, core: &mut Core) {
        let idle = match &self.role {
            Role::Client { idle_since, .. } if self.streams.is_empty() => {
                Some(idle_since.saturating_add(core.shared.pool.unused_release_timeout_ms))
            }
            _ => None,
        };
        let stream = self.deadlines.first().map(|(at, _)| *at);
        let connection = self.connection.timeout().map(|time| time.0);
        let next = [self.lingering, idle, stream, connection].into_iter().flatten().min();
        core.timers.set(Job::Tunnel(key), &mut self.armed, next);
    }

    /// A deadline of the tunnel or of one of its streams has come.
    pub(super) fn timeout(&mut self, key: usize, core: &mut Core) -> Result<(), Failure> {
        self.armed = None;
        if self.connection.timeout().is_some_and(|at| at.0 <= core.now) {
            self.connection.handle_timeout(Time(core.now)).map_err(|error| failure(&error))?;
        }
        core.enqueue(Job::Tunnel(key), &mut self.queued);
        Ok(())
    }
}

/// Closes a stream's local socket and writes its access log.
fn end_stream(stream: Stream, core: &mut Core, end: End<'_>) {
    Stream::close_socket(stream.leg, !matches!(end, End::Whole), core);
    stream.observation.close(core.now, end.outcome());
}

/// A connection error as the access log tells it.
fn failure(error: &ConnectionError) -> Failure {
    Failure::new(ResponseFlags::None, format!("tunnel: {error}"))
}
