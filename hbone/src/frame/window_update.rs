//! WINDOW_UPDATE (RFC 9113 section 6.9).

use super::{FrameError, Head, Kind, take_u31};
use crate::error::ErrorCode;

/// A WINDOW_UPDATE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowUpdate {
    /// The stream whose window grows, or 0 for the connection's.
    pub(crate) stream: u32,
    /// By how many bytes: 1 to 2^31-1.
    pub(crate) increment: u32,
}

impl WindowUpdate {
    pub(super) fn parse(head: &Head, mut payload: &[u8]) -> Result<Self, FrameError> {
        let reason = "WINDOW_UPDATE of 0";
        match (head.stream, take_u31(&mut payload)?) {
            (0, 0) => Err(FrameError::connection(ErrorCode::PROTOCOL_ERROR, reason)),
            (stream, 0) => Err(FrameError::stream(stream, ErrorCode::PROTOCOL_ERROR, reason)),
            (stream, increment) => Ok(Self { stream, increment }),
        }
    }

    /// Appends the frame.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let head = Head { length: 4, kind: Kind::WindowUpdate, flags: 0, stream: self.stream };
        out.extend_from_slice(&head.to_bytes());
        out.extend_from_slice(&self.increment.to_be_bytes());
    }
}
