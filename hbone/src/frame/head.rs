//! The head that every frame begins with, and the rules on its length and stream identifier.

use super::{FrameError, HEAD_LEN, MAX_WINDOW};
use crate::error::ErrorCode;

/// Flags of RFC 9113 section 6. A flag's meaning depends on the type; unknown ones are ignored.
pub(crate) mod flag {
    /// DATA, HEADERS: the sender's last frame with content on this stream.
    pub(crate) const END_STREAM: u8 = 0x01;
    /// SETTINGS, PING: an answer.
    pub(crate) const ACK: u8 = 0x01;
    /// HEADERS, CONTINUATION: the header block ends here.
    pub(crate) const END_HEADERS: u8 = 0x04;
    /// DATA, HEADERS: a pad length comes first, padding last.
    pub(crate) const PADDED: u8 = 0x08;
    /// HEADERS: five bytes of the priority scheme that RFC 9113 deprecates.
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// A frame's type (RFC 9113 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Headers,
    Priority,
    /// RST_STREAM.
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// A type of an extension: to be ignored.
    Unknown(u8),
}

impl Kind {
    fn from_u8(kind: u8) -> Self {
        match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::Reset,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            other => Kind::Unknown(other),
        }
    }

    fn to_u8(self) -> u8 {
        match self {
            Kind::Data => 0,
            Kind::Headers => 1,
            Kind::Priority => 2,
            Kind::Reset => 3,
            Kind::Settings => 4,
            Kind::PushPromise => 5,
            Kind::Ping => 6,
            Kind::GoAway => 7,
            Kind::WindowUpdate => 8,
            Kind::Continuation => 9,
            Kind::Unknown(other) => other,
        }
    }
}

/// A frame's head (RFC 9113 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of payload that follow; 24 bits.
    pub(crate) length: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    /// Stream identifier, 31 bits; 0 is the connection.
    pub(crate) stream: u32,
}

impl Head {
    /// Reads a head. Any nine bytes are one; the reserved bit is ignored.
    pub(crate) fn parse(bytes: &[u8; HEAD_LEN]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind: Kind::from_u8(kind),
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_WINDOW,
        }
    }

    /// The head as it goes on the wire.
    pub(crate) fn to_bytes(self) -> [u8; HEAD_LEN] {
        debug_assert!(self.length < 1 << 24 && self.stream <= MAX_WINDOW);
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind.to_u8(), self.flags, s0, s1, s2, s3]
    }

    /// The head of a DATA frame without padding.
    pub(crate) fn data(stream: u32, length: u32, end_stream: bool) -> Self {
        Self { length, kind: Kind::Data, flags: if end_stream { flag::END_STREAM } else { 0 }, stream }
    }

    /// Whether any of these flags is set.
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Judges what the head alone shows, before any payload is waited for: `max_frame_size` is what we
    /// advertised (SETTINGS_MAX_FRAME_SIZE).
    ///
    /// An oversized frame is a connection error whatever its type: its payload would have to be read past.
    pub(crate) fn check(&self, max_frame_size: u32) -> Result<(), FrameError> {
        if self.length > max_frame_size {
            return Err(too_large());
        }
        self.check_stream()?;
        self.check_length()
    }

    fn check_stream(&self) -> Result<(), FrameError> {
        let reason = match (self.kind, self.stream) {
            (Kind::PushPromise, _) => "PUSH_PROMISE, although we never allow it",
            (Kind::Data, 0) => "DATA on stream 0",
            (Kind::Headers, 0) => "HEADERS on stream 0",
            (Kind::Priority, 0) => "PRIORITY on stream 0",
            (Kind::Reset, 0) => "RST_STREAM on stream 0",
            (Kind::Continuation, 0) => "CONTINUATION on stream 0",
            (Kind::Settings, 1..) => "SETTINGS on a stream",
            (Kind::Ping, 1..) => "PING on a stream",
            (Kind::GoAway, 1..) => "GOAWAY on a stream",
            _ => return Ok(()),
        };
        Err(FrameError::connection(ErrorCode::PROTOCOL_ERROR, reason))
    }

    fn check_length(&self) -> Result<(), FrameError> {
        let length = self.length;
        let (fits, reason) = match self.kind {
            Kind::Data => (length >= self.pad_field(), "DATA without room for its pad length"),
            Kind::Headers => {
                let priority = if self.has(flag::PRIORITY) { 5 } else { 0 };
                (length >= self.pad_field() + priority, "HEADERS without room for its fields")
            }
            Kind::Priority if length != 5 => {
                let reason = "PRIORITY not of 5 bytes";
                return Err(FrameError::stream(self.stream, ErrorCode::FRAME_SIZE_ERROR, reason));
            }
            Kind::Reset => (length == 4, "RST_STREAM not of 4 bytes"),
            Kind::Settings if self.has(flag::ACK) => (length == 0, "SETTINGS acknowledgement with a payload"),
            Kind::Settings => (length.is_multiple_of(6), "SETTINGS not of 6 bytes an entry"),
            Kind::Ping => (length == 8, "PING not of 8 bytes"),
            Kind::GoAway => (length >= 8, "GOAWAY shorter than 8 bytes"),
            Kind::WindowUpdate => (length == 4, "WINDOW_UPDATE not of 4 bytes"),
            Kind::Priority | Kind::PushPromise | Kind::Continuation | Kind::Unknown(_) => (true, ""),
        };
        if fits { Ok(()) } else { Err(FrameError::connection(ErrorCode::FRAME_SIZE_ERROR, reason)) }
    }

    fn pad_field(&self) -> u32 {
        u32::from(self.has(flag::PADDED))
    }
}

fn too_large() -> FrameError {
    FrameError::connection(ErrorCode::FRAME_SIZE_ERROR, "a frame larger than our SETTINGS_MAX_FRAME_SIZE")
}
