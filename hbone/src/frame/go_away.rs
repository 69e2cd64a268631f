//! GOAWAY (RFC 9113 section 6.8).

use super::{FrameError, Head, Kind, take, take_u31};
use crate::error::ErrorCode;

/// A GOAWAY frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoAway<'a> {
    /// The highest stream that the sender may have processed. Streams of the receiver's with higher
    /// identifiers were not processed and may be tried again.
    pub(crate) last_stream: u32,
    /// NO_ERROR in a graceful shutdown.
    pub(crate) code: ErrorCode,
    /// Opaque text for diagnosis; may hold anything.
    pub(crate) debug: &'a [u8],
}

impl<'a> GoAway<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, FrameError> {
        let mut rest = payload;
        let last_stream = take_u31(&mut rest)?;
        let code = ErrorCode::new(u32::from_be_bytes(take(&mut rest)?));
        Ok(Self { last_stream, code, debug: rest })
    }

    /// Appends the frame.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let head = Head { length: 8 + self.debug.len() as u32, kind: Kind::GoAway, flags: 0, stream: 0 };
        out.extend_from_slice(&head.to_bytes());
        out.extend_from_slice(&self.last_stream.to_be_bytes());
        out.extend_from_slice(&self.code.get().to_be_bytes());
        out.extend_from_slice(self.debug);
    }
}
