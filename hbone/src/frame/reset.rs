//! RST_STREAM (RFC 9113 section 6.4).

use super::{FrameError, Head, Kind, take};
use crate::error::ErrorCode;

/// A RST_STREAM frame: the stream ends at once, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reset {
    pub(crate) stream: u32,
    pub(crate) code: ErrorCode,
}

impl Reset {
    pub(super) fn parse(head: &Head, mut payload: &[u8]) -> Result<Self, FrameError> {
        let code = ErrorCode::new(u32::from_be_bytes(take(&mut payload)?));
        Ok(Self { stream: head.stream, code })
    }

    /// Appends the frame.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let head = Head { length: 4, kind: Kind::Reset, flags: 0, stream: self.stream };
        out.extend_from_slice(&head.to_bytes());
        out.extend_from_slice(&self.code.get().to_be_bytes());
    }
}
