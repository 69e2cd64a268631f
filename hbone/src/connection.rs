//! The public value: a tunnel's TLS and HTTP/2 state joined.

mod inbox;
mod input;
mod outbox;
mod output;

pub use inbox::Inbox;
pub use outbox::Outbox;

use crate::connect::{ConnectRequest, ConnectResponse};
use crate::error::{ConnectionError, ErrorCode, OpenError};
use crate::event::{Event, StreamId};
use crate::record::Records;
use crate::role::Role;
use crate::session::Session;
use crate::time::Time;

/// One established tunnel: TLS 1.3 records around HTTP/2, without socket and clock.
///
/// Methods are of four kinds: those that *ask* change nothing; those that take *input* (`receive`, `receive_end`,
/// `handle_timeout`) make events; *commands* change streams and queue control frames; *output* makes sealed bytes.
/// A turn goes in this order:
///
/// 1. read the socket into [`Inbox::space`], then [`receive`](Self::receive), then act on the events;
/// 2. write [`unsent`](Self::unsent) and tell [`advance`](Self::advance); go on only once it is empty;
/// 3. [`flush`](Self::flush), then for each stream that has something to send [`slots`](Self::slots) and
///    [`seal`](Self::seal) (or [`send`](Self::send)), round robin;
/// 4. write [`Outbox::sealed`] once and tell [`written`](Self::written), which keeps the rest as unsent.
///
/// Between two turns, that is with nothing sealed that [`written`](Self::written) hasn't heard of, it can be
/// [frozen](Self::freeze).
///
/// Events come from input alone. Who closes the last stream by a command must look at
/// [`open_streams`](Self::open_streams) and [`stream_room`](Self::stream_room) itself.
///
/// After a [`ConnectionError`] everything is over: streams are gone, input is ignored. What the peer is owed (GOAWAY,
/// an alert) is queued: flush and write once, then close.
pub struct Connection {
    pub(crate) records: Records,
    pub(crate) session: Session,
    /// The received part of a record that isn't complete.
    pub(crate) carry: Vec<u8>,
    /// Sealed bytes that a socket hasn't taken. They leave before anything else.
    pub(crate) unsent: Unsent,
    pub(crate) ending: Ending,
    /// The peer's close_notify came.
    pub(crate) peer_ended: bool,
    /// Bytes sealed into an outbox of which `written` hasn't told yet.
    in_outbox: usize,
}

/// How far our end of sending is.
///
/// ```text
///   Open ──close, or an error──> Owed ──flush──> Over
///     └──────────the peer's fatal alert───────────^
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All is well.
    Open,
    /// Queued control frames are to be sent, and then this TLS alert.
    Owed { alert: u8 },
    /// Nothing is ever sent again.
    Over,
}

/// Ciphertext and how much of it is gone.
#[derive(Default)]
pub(crate) struct Unsent {
    bytes: Vec<u8>,
    written: usize,
}

impl Unsent {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, written: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn advance(&mut self, n: usize) {
        self.written += n.min(self.bytes().len());
        if self.written == self.bytes.len() {
            *self = Self::default();
        }
    }
}

// Ask.
impl Connection {
    /// Which end we are.
    #[must_use]
    pub fn role(&self) -> Role {
        self.session.role()
    }

    /// Streams of which at least one direction is open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.session.open_streams()
    }

    /// All streams in ascending order, those included that are closed and only wait for their reader.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = StreamId> {
        self.session.streams()
    }

    /// Client: how many more streams may be opened now: what the peer (SETTINGS_MAX_CONCURRENT_STREAMS) and the
    /// configuration allow; 0 once [draining](Self::is_draining).
    #[must_use]
    pub fn stream_room(&self) -> usize {
        if self.ending == Ending::Open { self.session.stream_room() } else { 0 }
    }

    /// No new streams here: GOAWAY was sent or received, stream ids are used up, or the connection is over.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.ending != Ending::Open || self.session.is_draining()
    }

    /// Payload bytes that may be sent on a stream now: what both windows allow; 0 while there are unsent bytes.
    #[must_use]
    pub fn send_room(&self, stream: StreamId) -> usize {
        if self.can_seal() { self.session.send_room(stream) } else { 0 }
    }

    /// Payload that was [stashed](Self::stash) and not consumed.
    #[must_use]
    pub fn pending(&self, stream: StreamId) -> &[u8] {
        self.session.pending(stream)
    }

    /// Sealed bytes that a socket hasn't taken yet: they leave before anything else.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.unsent.bytes()
    }

    /// Whether [`flush`](Self::flush) would produce bytes.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        match self.ending {
            _ if !self.unsent().is_empty() => false,
            Ending::Open => self.session.wants_flush() || self.records.owes(),
            Ending::Owed { .. } => true,
            Ending::Over => false,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; `None` once the connection is over.
    #[must_use]
    pub fn timeout(&self) -> Option<Time> {
        (self.ending == Ending::Open && !self.peer_ended).then(|| self.session.timeout())
    }

    /// Nothing more will happen here, and it should be [closed](Self::close): the peer has gone away, or our own final
    /// GOAWAY is said, and no stream is left. [`Event::Closed`] tells the same when input made it so.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_closed() || self.session.is_done()
    }

    /// [`close`](Self::close) was called, the connection failed, or the peer said close_notify and no stream is left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ending != Ending::Open || (self.peer_ended && self.session.streams().len() == 0)
    }
}

// Command.
impl Connection {
    /// Client: opens a stream.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was sent then.
    pub fn connect(&mut self, request: &ConnectRequest) -> Result<StreamId, OpenError> {
        if self.ending != Ending::Open {
            return Err(OpenError::Draining);
        }
        self.session.connect(request)
    }

    /// Server: answers a request; with `end` the answer is all that we send on the stream.
    /// Does nothing on a stream that has been answered or is gone.
    pub fn respond(&mut self, stream: StreamId, response: &ConnectResponse, end: bool) {
        self.session.respond(stream, response, end);
    }

    /// Our direction of a stream is done (END_STREAM). Does nothing where payload can't be sent, so not before the
    /// response either.
    pub fn finish(&mut self, stream: StreamId) {
        self.session.finish(stream);
    }

    /// Ends a stream in both directions (RST_STREAM) and drops what it holds. On one that is over already it only drops
    /// payload that wasn't taken.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        self.session.reset(stream, code);
    }

    /// `n` bytes of [`Event::Data`] were handed to the local reader: gives window back.
    pub fn consumed(&mut self, stream: StreamId, n: usize) {
        self.session.consumed(stream, n);
    }

    /// Keeps payload of [`Event::Data`] that the local reader didn't take. Bounded by the stream's window, which
    /// stops growing until all of it is consumed.
    pub fn stash(&mut self, stream: StreamId, payload: &[u8]) {
        self.session.stash(stream, payload);
    }

    /// The local reader took `n` bytes of [`pending`](Self::pending).
    pub fn consume_pending(&mut self, stream: StreamId, n: usize) {
        self.session.consume_pending(stream, n);
    }

    /// Sends a PING of the caller's own (RFC 9113 section 6.7); [`Event::Answered`](crate::Event::Answered) tells of its
    /// answer. One at a time: asking again before that changes nothing. A question doesn't move with the connection: its
    /// answer is ignored elsewhere.
    pub fn probe(&mut self) {
        self.session.probe();
    }

    /// Begins a graceful end (RFC 9113 section 6.8): GOAWAY without a limit, a PING, and once that is answered GOAWAY with
    /// the last stream. Streams that are open go on; [`close`](Self::close) when none is left.
    pub fn shutdown(&mut self, now: Time) {
        self.session.shutdown(now);
    }

    /// Ends the connection: the final GOAWAY with `code` and close_notify; nothing after. Streams are dropped.
    pub fn close(&mut self, code: ErrorCode) {
        if self.ending == Ending::Open {
            self.session.fail(code, &mut Vec::new());
            self.ending = Ending::Owed { alert: CLOSE_NOTIFY };
        }
    }

    /// Owes an update of our sending key (RFC 8446 section 4.6.3); with `request_peer` the peer must update its own.
    pub fn update_keys(&mut self, request_peer: bool) {
        self.records.request_key_update(request_peer);
    }
}

impl Connection {
    /// A connection right after its handshake. `carry` came behind the handshake; `unsent` is what the socket
    /// hasn't taken of it.
    pub(crate) fn new(records: Records, session: Session, carry: Vec<u8>, unsent: Vec<u8>) -> Self {
        Self::restore(records, session, carry, unsent, Ending::Open, false)
    }

    pub(crate) fn restore(
        records: Records,
        session: Session,
        carry: Vec<u8>,
        unsent: Vec<u8>,
        ending: Ending,
        peer_ended: bool,
    ) -> Self {
        Self { records, session, carry, unsent: Unsent::new(unsent), ending, peer_ended, in_outbox: 0 }
    }

    /// Everything sealed is with the caller or in `unsent`.
    pub(crate) fn is_between_turns(&self) -> bool {
        self.in_outbox == 0
    }

    fn can_seal(&self) -> bool {
        self.ending == Ending::Open && self.unsent().is_empty()
    }

    /// Ends everything and queues what the peer is told.
    fn fail(&mut self, error: ConnectionError, events: &mut Vec<Event>) -> ConnectionError {
        if self.ending == Ending::Open {
            let code = error.code().unwrap_or(ErrorCode::INTERNAL_ERROR);
            self.session.fail(code, events);
            self.ending = match &error {
                ConnectionError::Http2 { .. } | ConnectionError::PingTimeout => {
                    Ending::Owed { alert: CLOSE_NOTIFY }
                }
                ConnectionError::Tls(error) => {
                    // Below HTTP/2: the alert says it all.
                    self.session.control().clear();
                    error.alert().map_or(Ending::Over, |alert| Ending::Owed { alert })
                }
                ConnectionError::Truncated => Ending::Over,
            };
        }
        error
    }
}

/// `close_notify` (RFC 8446 section 6.1).
const CLOSE_NOTIFY: u8 = 0;
