//! What a connection tells its caller, and how streams are named.

use std::fmt;
use std::ops::Range;

use crate::connect::{ConnectRequest, ConnectResponse};
use crate::error::ErrorCode;

/// A stream's number on its connection (RFC 9113 section 5.1.1): never 0, at most 2^31-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// The stream with this number; `None` for 0, which means the connection, and beyond 2^31-1.
    #[must_use]
    pub fn new(id: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&id).then_some(Self(id))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The highest stream id, 2^31-1.
    pub(crate) const MAX: u32 = (1 << 31) - 1;
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What happened on a connection, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Server: a peer opens a stream. The method may be other than CONNECT: the caller answers 400.
    Request {
        /// The new stream.
        stream: StreamId,
        /// What it asks for.
        request: ConnectRequest,
    },
    /// Client: the final response to our request; 1xx are skipped.
    Response {
        /// Our stream.
        stream: StreamId,
        /// The answer.
        response: ConnectResponse,
    },
    /// Payload. Each byte must be answered by [`consumed`](crate::Connection::consumed) or
    /// [`stash`](crate::Connection::stash), or the window never opens again.
    Data {
        /// The stream it belongs to.
        stream: StreamId,
        /// Where it lies in the [`Inbox`](crate::Inbox), until the next receive.
        range: Range<usize>,
    },
    /// The peer's direction is done (END_STREAM; trailers are skipped). Stashed payload is still there.
    End {
        /// The stream.
        stream: StreamId,
    },
    /// The stream is over in both directions: RST_STREAM, GOAWAY, a rule broken on it, or the connection's end. Payload
    /// that came before stays until it is taken. Who doesn't want it must call
    /// [`reset`](crate::Connection::reset), or it goes on counting against the connection's window.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: ErrorCode,
        /// The peer never processed it: safe to try again elsewhere.
        retryable: bool,
    },
    /// [`send_room`](crate::Connection::send_room) was 0 for lack of window and isn't any more.
    Window {
        /// The stream that may send.
        stream: StreamId,
    },
    /// Client: [`stream_room`](crate::Connection::stream_room) was 0 and isn't any more.
    Room,
    /// The peer has answered a [`probe`](crate::Connection::probe): it has read all that was sent before it.
    Answered,
    /// The peer sent GOAWAY: no new streams here.
    Draining,
    /// The peer is done (close_notify, or GOAWAY) and no stream is left.
    Closed,
}
