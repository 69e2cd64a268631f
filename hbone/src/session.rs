//! HTTP/2 for CONNECT (RFC 9113), on cleartext bytes, in both roles.
//!
//! Bytes come in through [`Session::receive`] and become events; commands and answers queue control frames, which
//! [`Session::control`] hands out in whole frames. Payload to send is never queued: the caller writes DATA frames
//! itself, as much as [`Session::send_room`] allows, and reports them to [`Session::sent`].

mod control;
mod freeze;
mod headers;
mod input;
mod keepalive;
mod limits;
mod output;
mod shutdown;
#[cfg(test)]
mod tests;

use crate::connect::{ConnectRequest, ConnectResponse};
use crate::error::{ConnectionError, ErrorCode, OpenError};
use crate::event::{Event, StreamId};
use crate::frame::{Head, Headers};
use crate::hpack::{self, Decoder};
use crate::role::Role;
use crate::settings::{DEFAULT_WINDOW, PeerSettings, SessionConfig};
use crate::stream::{Pending, ReceiveWindow, SendWindow, State, Stream, Streams};
use crate::time::Time;
use headers::Block;
use input::Input;
use keepalive::{Due, Keepalive};
use limits::{Budget, Recent};
use output::Output;
use shutdown::Shutdown;

/// One HTTP/2 connection.
pub(crate) struct Session {
    role: Role,
    config: SessionConfig,
    peer: PeerSettings,
    /// The peer's first SETTINGS have arrived.
    greeted: bool,
    /// The peer has acknowledged ours.
    acknowledged: bool,
    input: Input,
    /// The header block that CONTINUATION frames are completing.
    block: Option<Block>,
    decoder: Decoder,
    output: Output,
    streams: Streams,
    /// The highest stream that its initiator, the client, has opened; 0 before.
    last_id: u32,
    receive: ReceiveWindow,
    send: SendWindow,
    keepalive: Keepalive,
    /// A PING of the caller's is out. Not frozen: whoever goes on with the connection hasn't asked.
    probing: bool,
    shutdown: Shutdown,
    /// The last stream that the peer's GOAWAY leaves us.
    peer_shutdown: Option<u32>,
    /// The peer sends nothing more (close_notify).
    ended: bool,
    resets: Budget,
    trifles: Budget,
    recent: Recent,
    /// No stream could be opened when last looked at: worth an [`Event::Room`] once that changes.
    full: bool,
    told_closed: bool,
}

impl Session {
    /// A session before its first byte. Preface, SETTINGS and the connection's window are queued.
    pub(crate) fn new(role: Role, config: SessionConfig, now: Time) -> Self {
        let config = config.clamped();
        let mut session = Self {
            role,
            peer: PeerSettings::default(),
            greeted: false,
            acknowledged: false,
            input: Input::start(role),
            block: None,
            decoder: Decoder::new(hpack::DEFAULT_TABLE_SIZE),
            output: Output::default(),
            streams: Streams::default(),
            last_id: 0,
            receive: ReceiveWindow::new(
                DEFAULT_WINDOW,
                config.initial_connection_window(),
                config.connection_window,
            ),
            send: SendWindow::new(DEFAULT_WINDOW),
            keepalive: Keepalive::new(now, &config),
            probing: false,
            shutdown: Shutdown::Running,
            peer_shutdown: None,
            ended: false,
            resets: Budget::default(),
            trifles: Budget::default(),
            recent: Recent::default(),
            full: false,
            told_closed: false,
            config,
        };
        session.output.greet(role, &session.config);
        session.output.notice_window(session.receive.connection_due());
        session
    }

    /// Takes bytes from the peer in any cut. Payload ranges in `events` are relative to `base` bytes before `bytes`.
    pub(crate) fn receive(
        &mut self,
        now: Time,
        bytes: &[u8],
        base: usize,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(now, &bytes[at..], base + at, events)?;
        }
        Ok(())
    }

    /// Tells what a turn's bytes changed for the connection as a whole.
    pub(crate) fn settle(&mut self, events: &mut Vec<Event>) {
        let full = self.role == Role::Client && self.stream_room() == 0;
        if self.full && !full {
            events.push(Event::Room);
        }
        self.full = full;
        if self.is_done() && !self.told_closed {
            self.told_closed = true;
            events.push(Event::Closed);
        }
    }

    /// The peer sends nothing more: streams whose end hasn't come are cut. Tells how many.
    pub(crate) fn receive_end(&mut self, events: &mut Vec<Event>) -> usize {
        self.ended = true;
        self.abandon_frame();
        let cut = self.streams.active();
        // Not CANCEL or NO_ERROR: with these a peer ends a stream of its own accord.
        self.cut_above(0, ErrorCode::CONNECT_ERROR, false, events);
        cut
    }

    /// The connection failed: queues the GOAWAY that says why and ends all streams.
    pub(crate) fn fail(&mut self, code: ErrorCode, events: &mut Vec<Event>) {
        self.abandon_frame();
        self.cut_above(0, code, false, events);
        self.say_final(code);
    }

    /// Does what is due by `now`.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> Result<(), ConnectionError> {
        if self.shutdown.timeout().is_some_and(|deadline| deadline <= now) {
            self.say_final(ErrorCode::NO_ERROR);
        }
        match self.keepalive.expire(now, &self.config) {
            Due::Nothing => Ok(()),
            Due::Ping => {
                self.recent.asked();
                self.output.ping(KEEPALIVE);
                Ok(())
            }
            Due::GiveUp => Err(ConnectionError::PingTimeout),
        }
    }

    /// When [`Session::handle_timeout`] has something to do.
    pub(crate) fn timeout(&self) -> Time {
        let keepalive = self.keepalive.timeout();
        self.shutdown.timeout().map_or(keepalive, |deadline| deadline.min(keepalive))
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams.active()
    }

    pub(crate) fn streams(&self) -> impl ExactSizeIterator<Item = StreamId> {
        self.streams.iter().map(|stream| stream.id)
    }

    pub(crate) fn stream_room(&self) -> usize {
        if self.role == Role::Server || self.is_draining() {
            return 0;
        }
        let most = self.peer.max_concurrent_streams.min(self.config.max_concurrent_streams);
        (most as usize).saturating_sub(self.streams.active())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.peer_shutdown.is_some()
            || self.shutdown != Shutdown::Running
            || self.ended
            || self.is_exhausted()
    }

    /// One side has said that nothing new will come, and no stream is left.
    pub(crate) fn is_done(&self) -> bool {
        let leaving = self.peer_shutdown.is_some() || matches!(self.shutdown, Shutdown::Final { .. });
        (leaving || self.ended) && self.streams.active() == 0
    }

    /// Payload that flow control lets us send on a stream.
    pub(crate) fn send_room(&self, id: StreamId) -> usize {
        let stream = self.streams.get(id).filter(|stream| stream.state.can_send());
        stream.map_or(0, |stream| stream.send.room().min(self.send.room()))
    }

    /// The largest DATA frame that the peer takes.
    pub(crate) fn max_data(&self) -> usize {
        self.peer.max_frame_size as usize
    }

    pub(crate) fn pending(&self, id: StreamId) -> &[u8] {
        self.streams.get(id).map_or(&[], |stream| stream.pending.bytes())
    }

    pub(crate) fn connect(&mut self, request: &ConnectRequest) -> Result<StreamId, OpenError> {
        if self.role == Role::Server {
            return Err(OpenError::NotClient);
        }
        if self.is_draining() {
            return Err(OpenError::Draining);
        }
        if self.stream_room() == 0 {
            self.full = true;
            return Err(OpenError::Full);
        }
        let next = if self.last_id == 0 { 1 } else { self.last_id + 2 };
        let id = StreamId::new(next).ok_or(OpenError::Draining)?;
        self.last_id = next;
        self.open(id);
        let mut block = Vec::new();
        hpack::begin_block(&mut block);
        request.encode(&mut block);
        Headers::encode(next, false, &block, self.peer.max_frame_size, &mut self.output.control);
        self.full = self.stream_room() == 0;
        Ok(id)
    }

    pub(crate) fn respond(&mut self, id: StreamId, response: &ConnectResponse, end: bool) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.state.owes_response()) else {
            return;
        };
        stream.state.send_response(end);
        let mut block = Vec::new();
        hpack::begin_block(&mut block);
        response.encode(&mut block);
        Headers::encode(id.get(), end, &block, self.peer.max_frame_size, &mut self.output.control);
        self.retire(id);
    }

    pub(crate) fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.state.can_send()) else { return };
        stream.state.send_end();
        self.output.control.extend_from_slice(&Head::data(id.get(), 0, true).to_bytes());
        self.retire(id);
    }

    pub(crate) fn reset(&mut self, id: StreamId, code: ErrorCode) {
        let Some(stream) = self.drop_stream(id) else { return };
        if !stream.state.is_closed() {
            self.recent.push_reset(id);
            self.output.reset(id, code);
        }
    }

    pub(crate) fn consumed(&mut self, id: StreamId, n: usize) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let n = n.min(stream.unanswered()) as u32;
        self.give_back(id, n);
    }

    pub(crate) fn stash(&mut self, id: StreamId, payload: &[u8]) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let payload = &payload[..payload.len().min(stream.unanswered())];
        if payload.is_empty() {
            return;
        }
        stream.pending.push(payload);
        stream.receive.fall_back();
    }

    pub(crate) fn consume_pending(&mut self, id: StreamId, n: usize) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let n = n.min(stream.pending.bytes().len());
        stream.pending.take(n);
        self.give_back(id, n as u32);
    }

    /// Payload went out: at most [`Session::send_room`].
    pub(crate) fn sent(&mut self, id: StreamId, n: usize) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.send.spend(n);
            self.send.spend(n);
        }
    }

    /// Asks the peer whether it is there.
    pub(crate) fn probe(&mut self) {
        if !std::mem::replace(&mut self.probing, true) {
            self.output.ping(PROBE);
        }
    }

    pub(crate) fn shutdown(&mut self, now: Time) {
        if self.shutdown != Shutdown::Running {
            return;
        }
        self.output.go_away(StreamId::MAX, ErrorCode::NO_ERROR);
        self.output.ping(SHUTDOWN);
        self.shutdown = Shutdown::Announced { deadline: now.after(self.config.ping_timeout) };
    }

    /// Queues the GOAWAY behind which no stream of the peer's is taken. The last one counts if there are several.
    pub(crate) fn say_final(&mut self, code: ErrorCode) {
        let last = match (self.shutdown, self.role) {
            (Shutdown::Final { .. }, _) if code == ErrorCode::NO_ERROR => return,
            (Shutdown::Final { last }, _) => last,
            (_, Role::Server) => self.last_id,
            (_, Role::Client) => 0,
        };
        self.output.go_away(last, code);
        self.shutdown = Shutdown::Final { last };
    }

    fn is_exhausted(&self) -> bool {
        self.role == Role::Client && self.last_id > StreamId::MAX - 2
    }

    /// Adds a stream whose request was just sent or received.
    fn open(&mut self, id: StreamId) {
        let floor = self.config.initial_stream_window();
        // Until our SETTINGS are acknowledged, the peer may still count on the default.
        let size = if self.acknowledged { floor } else { floor.max(DEFAULT_WINDOW) };
        self.streams.push(Stream {
            id,
            state: State::opened(self.role),
            receive: ReceiveWindow::new(size, floor, self.config.stream_window),
            send: SendWindow::new(self.peer.initial_window),
            pending: Pending::default(),
        });
    }

    /// `n` bytes that a stream held were consumed.
    fn give_back(&mut self, id: StreamId, n: u32) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let keeps_up = stream.pending.is_empty();
        stream.receive.consume(n, keeps_up);
        if !stream.state.peer_ended() {
            self.output.notice_window(stream.receive.stream_due());
        }
        self.release(n, keeps_up);
        self.retire(id);
    }

    /// `n` bytes that the connection held are gone.
    fn release(&mut self, n: u32, keeps_up: bool) {
        self.receive.consume(n, keeps_up);
        self.output.notice_window(self.receive.connection_due());
    }

    /// Forgets a stream on which nothing more will happen.
    fn retire(&mut self, id: StreamId) {
        if self.streams.get(id).is_some_and(Stream::is_over) {
            self.streams.remove(id);
            self.recent.push_ended(id);
        }
    }

    /// Forgets a stream and all that it holds.
    fn drop_stream(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(id)?;
        self.release(stream.receive.held(), false);
        Some(stream)
    }

    /// A stream ended in both directions at once. Payload that was received stays until it is read: its reader may be
    /// in the middle of it. Whoever doesn't want it calls [`Session::reset`].
    fn cut(&mut self, id: StreamId, code: ErrorCode, retryable: bool, events: &mut Vec<Event>) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| !stream.state.is_closed()) else {
            return;
        };
        stream.state.close();
        if stream.is_over() {
            self.streams.remove(id);
        }
        events.push(Event::Reset { stream: id, code, retryable });
    }

    /// Cuts all streams above `last`.
    fn cut_above(&mut self, last: u32, code: ErrorCode, retryable: bool, events: &mut Vec<Event>) {
        let above = self.streams.iter().filter(|stream| stream.id.get() > last);
        let ids: Vec<_> = above.map(|stream| stream.id).collect();
        for id in ids {
            self.cut(id, code, retryable, events);
        }
    }

    /// Where a received frame's stream stands.
    fn standing(&self, id: u32) -> Standing {
        match StreamId::new(id) {
            Some(id) if self.streams.get(id).is_some_and(|stream| !stream.state.is_closed()) => {
                Standing::Live(id)
            }
            Some(id) if self.recent.was_reset(id) => Standing::Ignored,
            Some(_) if self.role == Role::Server && self.shutdown.ignores(id) => Standing::Ignored,
            Some(known) if id % 2 == 1 && id <= self.last_id => Standing::Closed(known),
            _ => Standing::Idle,
        }
    }
}

/// What a received frame finds where its stream should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A stream.
    Live(StreamId),
    /// Nothing yet: only the client's next HEADERS may come here.
    Idle,
    /// A stream that the peer doesn't know to be gone. What comes is read and dropped.
    Ignored,
    /// A stream that is over, as the peer must know. Its payload may still be here.
    Closed(StreamId),
}

/// What our keepalive PING carries.
const KEEPALIVE: [u8; 8] = *b"hbone ka";

/// What a PING of the caller's carries.
const PROBE: [u8; 8] = *b"hbone ok";

/// What the PING behind our first GOAWAY carries.
const SHUTDOWN: [u8; 8] = *b"hbone go";
