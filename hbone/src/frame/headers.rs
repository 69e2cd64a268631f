//! HEADERS and CONTINUATION (RFC 9113 sections 6.2 and 6.10): the pieces of a header block.

use super::{FrameError, Head, Kind, flag, take};
use crate::error::ErrorCode;

/// A HEADERS frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers<'a> {
    pub(crate) stream: u32,
    /// No content follows the header block.
    pub(crate) end_stream: bool,
    /// Whether the block ends here; else CONTINUATION frames must follow at once.
    pub(crate) end_headers: bool,
    /// The (first piece of the) HPACK block.
    pub(crate) fragment: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Reads the payload. Priority fields are skipped, as RFC 9113 section 5.3.2 allows.
    pub(super) fn parse(head: &Head, payload: &'a [u8]) -> Result<Self, FrameError> {
        let mut rest = payload;
        let padding = if head.has(flag::PADDED) { usize::from(take::<1>(&mut rest)?[0]) } else { 0 };
        if head.has(flag::PRIORITY) {
            take::<5>(&mut rest)?;
        }
        let end = rest.len().checked_sub(padding).ok_or(FrameError::connection(
            ErrorCode::PROTOCOL_ERROR,
            "padding longer than what the header block leaves",
        ))?;
        Ok(Self {
            stream: head.stream,
            end_stream: head.has(flag::END_STREAM),
            end_headers: head.has(flag::END_HEADERS),
            fragment: &rest[..end],
        })
    }

    /// Appends a whole header block: HEADERS and as many CONTINUATION frames as `max_frame_size`, the
    /// peer's SETTINGS_MAX_FRAME_SIZE, makes necessary. Nothing else may be sent between them.
    pub(crate) fn encode(
        stream: u32,
        end_stream: bool,
        block: &[u8],
        max_frame_size: u32,
        out: &mut Vec<u8>,
    ) {
        let mut kind = Kind::Headers;
        let mut flags = if end_stream { flag::END_STREAM } else { 0 };
        let mut rest = block;
        loop {
            let (fragment, later) = rest.split_at(rest.len().min(max_frame_size as usize));
            if later.is_empty() {
                flags |= flag::END_HEADERS;
            }
            let head = Head { length: fragment.len() as u32, kind, flags, stream };
            out.extend_from_slice(&head.to_bytes());
            out.extend_from_slice(fragment);
            if later.is_empty() {
                return;
            }
            (kind, flags, rest) = (Kind::Continuation, 0, later);
        }
    }
}

/// A CONTINUATION frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Continuation<'a> {
    pub(crate) stream: u32,
    /// Whether the block ends here.
    pub(crate) end_headers: bool,
    /// The next piece of the HPACK block.
    pub(crate) fragment: &'a [u8],
}

impl<'a> Continuation<'a> {
    pub(super) fn parse(head: &Head, payload: &'a [u8]) -> Self {
        Self { stream: head.stream, end_headers: head.has(flag::END_HEADERS), fragment: payload }
    }
}
