//! DATA (RFC 9113 section 6.1). Its payload is never gathered: whoever reads it hands over what has arrived,
//! and learns how much of it is payload and how much is padding.

use std::num::NonZeroU32;

use super::{FrameError, Head, flag};
use crate::error::ErrorCode;

/// A DATA frame whose payload is arriving.
///
/// The whole of [`Head::length`], padding included, counts for flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) stream: u32,
    /// No more from the peer on this stream once the frame is complete.
    pub(crate) end_stream: bool,
    /// What is still to come of it.
    pub(crate) body: Body,
}

/// What is still to come of a DATA frame.
///
/// ```text
///     begin ──PADDED──> PadLength ──1 byte──> Rest ──payload, then padding──> Rest of 0 + 0: complete
///       └──────────────not padded──────────────^
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The pad length comes next; `left` bytes of the frame are to come with it.
    PadLength { left: NonZeroU32 },
    /// Payload, then padding, in bytes.
    Rest { payload: u32, padding: u8 },
}

/// What the front of the bytes at hand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// This many bytes, at least one, of payload.
    Payload(usize),
    /// This many bytes, at least one, of pad length or padding: to be skipped.
    Padding(usize),
    /// The frame goes on, but there are no more bytes at hand.
    Incomplete,
    /// The frame has ended; the bytes at hand belong to the next.
    Complete,
}

impl Data {
    /// Begins a DATA frame. `head` has passed [`Head::check`].
    pub(crate) fn begin(head: &Head) -> Result<Self, FrameError> {
        let body = if head.has(flag::PADDED) {
            let left = NonZeroU32::new(head.length).ok_or(too_much_padding())?;
            Body::PadLength { left }
        } else {
            Body::Rest { payload: head.length, padding: 0 }
        };
        Ok(Self { stream: head.stream, end_stream: head.has(flag::END_STREAM), body })
    }

    /// Tells what `bytes`, the next of the connection, begin with. The caller skips as many as the piece has
    /// and asks again until the piece is [`Piece::Incomplete`] or [`Piece::Complete`].
    pub(crate) fn next_piece(&mut self, bytes: &[u8]) -> Result<Piece, FrameError> {
        let piece = match (&mut self.body, bytes) {
            (Body::Rest { payload: 0, padding: 0 }, _) => Piece::Complete,
            (_, []) => Piece::Incomplete,
            (Body::PadLength { left }, &[padding, ..]) => {
                let payload = (left.get() - 1).checked_sub(u32::from(padding)).ok_or(too_much_padding())?;
                self.body = Body::Rest { payload, padding };
                Piece::Padding(1)
            }
            (Body::Rest { payload: 0, padding }, _) => {
                let n = usize::from(*padding).min(bytes.len());
                *padding -= n as u8;
                Piece::Padding(n)
            }
            (Body::Rest { payload, .. }, _) => {
                let n = (*payload as usize).min(bytes.len());
                *payload -= n as u32;
                Piece::Payload(n)
            }
        };
        Ok(piece)
    }

    /// Whether nothing more is to come.
    pub(crate) fn is_complete(&self) -> bool {
        self.body == Body::Rest { payload: 0, padding: 0 }
    }
}

fn too_much_padding() -> FrameError {
    FrameError::connection(ErrorCode::PROTOCOL_ERROR, "padding as long as its frame or longer")
}
