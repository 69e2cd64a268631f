//! HTTP/2 error codes (RFC 9113 section 7).

use std::fmt;

/// An HTTP/2 error code as RST_STREAM and GOAWAY carry it (RFC 9113 section 7).
///
/// Unknown codes are kept as they came: they have no special meaning and may be passed on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(u32);

impl ErrorCode {
    /// Graceful shutdown, or a stream that needs no more input.
    pub const NO_ERROR: Self = Self(0x00);
    /// The peer broke a rule for which there is no more specific code.
    pub const PROTOCOL_ERROR: Self = Self(0x01);
    /// The endpoint met an error of its own.
    pub const INTERNAL_ERROR: Self = Self(0x02);
    /// The peer sent more than flow control allowed, or a window beyond 2^31-1.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x03);
    /// SETTINGS was not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x04);
    /// A frame for a stream that the peer had already half-closed.
    pub const STREAM_CLOSED: Self = Self(0x05);
    /// A frame of a length that its type forbids.
    pub const FRAME_SIZE_ERROR: Self = Self(0x06);
    /// The stream was refused before any processing: it may be tried again.
    pub const REFUSED_STREAM: Self = Self(0x07);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x08);
    /// The header compression state can't be kept.
    pub const COMPRESSION_ERROR: Self = Self(0x09);
    /// The TCP connection behind a CONNECT was reset or closed abnormally.
    pub const CONNECT_ERROR: Self = Self(0x0a);
    /// The peer causes too much load.
    pub const ENHANCE_YOUR_CALM: Self = Self(0x0b);
    /// The transport is weaker than required.
    pub const INADEQUATE_SECURITY: Self = Self(0x0c);
    /// The request must be made over HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = Self(0x0d);

    /// The code with this number, known or not.
    pub const fn new(code: u32) -> Self {
        Self(code)
    }

    /// The number on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The RFC's name, if the code is one of RFC 9113.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::NO_ERROR => "NO_ERROR",
            Self::PROTOCOL_ERROR => "PROTOCOL_ERROR",
            Self::INTERNAL_ERROR => "INTERNAL_ERROR",
            Self::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
            Self::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
            Self::STREAM_CLOSED => "STREAM_CLOSED",
            Self::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
            Self::REFUSED_STREAM => "REFUSED_STREAM",
            Self::CANCEL => "CANCEL",
            Self::COMPRESSION_ERROR => "COMPRESSION_ERROR",
            Self::CONNECT_ERROR => "CONNECT_ERROR",
            Self::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
            Self::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
            Self::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
