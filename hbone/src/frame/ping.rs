//! PING (RFC 9113 section 6.7).

use super::{FrameError, Head, Kind, flag, take};

/// A PING frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ping {
    /// Whether it answers one of ours; if not, it must be answered with the same payload.
    pub(crate) ack: bool,
    /// Eight bytes of the sender's choosing.
    pub(crate) payload: [u8; 8],
}

impl Ping {
    pub(super) fn parse(head: &Head, mut payload: &[u8]) -> Result<Self, FrameError> {
        Ok(Self { ack: head.has(flag::ACK), payload: take(&mut payload)? })
    }

    /// Appends the frame.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        let flags = if self.ack { flag::ACK } else { 0 };
        let head = Head { length: 8, kind: Kind::Ping, flags, stream: 0 };
        out.extend_from_slice(&head.to_bytes());
        out.extend_from_slice(&self.payload);
    }
}
