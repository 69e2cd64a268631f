//! Errors by reach and fault.
//!
//! An error that reaches one stream never surfaces as an `Err`: the stream is reset and an
//! [`Event::Reset`](crate::Event::Reset) tells so. A [`ConnectionError`] ends the whole connection, so the two
//! can't be mistaken for each other.

mod code;

pub use code::ErrorCode;

use crate::RecordError;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer broke a rule, went silent, or left early.
    Peer,
    /// Our side failed or was misused.
    Local,
}

/// The end of a connection and of every stream on it. Its text is short and fit for an access log.
///
/// Whatever we owe the peer (GOAWAY, a TLS alert) is queued by then: flush once, write once, close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// A TLS record couldn't be opened or sealed, or the peer sent a fatal alert.
    #[error(transparent)]
    Tls(#[from] RecordError),
    /// The peer broke HTTP/2; `code` is what its GOAWAY says.
    #[error("HTTP/2: {text} ({code})")]
    Http2 {
        /// The code of our GOAWAY.
        code: ErrorCode,
        /// Which rule was broken.
        text: &'static str,
    },
    /// The TCP connection ended while streams were open and without the peer's close_notify.
    #[error("the peer closed the connection with streams open")]
    Truncated,
    /// No answer to a keepalive PING.
    #[error("the peer didn't answer a PING in time")]
    PingTimeout,
}

impl ConnectionError {
    /// A broken HTTP/2 rule.
    pub(crate) fn http2(code: ErrorCode, text: &'static str) -> Self {
        Self::Http2 { code, text }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Tls(error) if error.alert() == Some(INTERNAL_ERROR_ALERT) => Fault::Local,
            Self::Http2 { code: ErrorCode::INTERNAL_ERROR, .. } => Fault::Local,
            Self::Tls(_) | Self::Http2 { .. } | Self::Truncated | Self::PingTimeout => Fault::Peer,
        }
    }

    /// The code that our GOAWAY carries, if one is sent.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Http2 { code, .. } => Some(*code),
            Self::PingTimeout => Some(ErrorCode::NO_ERROR),
            Self::Tls(_) | Self::Truncated => None,
        }
    }

    /// The TLS alert (RFC 8446 section 6) that we send, if one is sent.
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        match self {
            Self::Tls(error) => error.alert(),
            Self::Http2 { .. } | Self::Truncated | Self::PingTimeout => None,
        }
    }
}

/// Why a stream can't be opened. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many streams are open as the peer and the configuration allow.
    #[error("all streams of this connection are in use")]
    Full,
    /// The connection is going away (GOAWAY either way, closed, or failed) or is out of stream ids.
    #[error("the connection takes no new streams")]
    Draining,
    /// Only a client opens streams.
    #[error("a server opens no streams")]
    NotClient,
}

/// Why a snapshot can't become a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThawError {
    /// The bytes don't begin like a snapshot.
    #[error("not a connection snapshot")]
    NotASnapshot,
    /// Written by a format version that this build doesn't read.
    #[error("snapshot version {0} is not supported")]
    Version(u16),
    /// The snapshot needs a feature that this build doesn't know.
    #[error("snapshot needs the unknown feature {0:?}")]
    Feature(String),
    /// The bytes end before the snapshot does.
    #[error("snapshot is truncated")]
    Truncated,
    /// The checksum doesn't match.
    #[error("snapshot is damaged")]
    Checksum,
    /// Longer than any snapshot may be.
    #[error("snapshot is too large")]
    TooLarge,
    /// A field holds a value that no connection has.
    #[error("snapshot field is invalid: {0}")]
    Invalid(&'static str),
}

/// `internal_error` (RFC 8446 section 6): sent only where the fault is ours.
const INTERNAL_ERROR_ALERT: u8 = 80;
