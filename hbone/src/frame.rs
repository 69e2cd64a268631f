//! HTTP/2 frames (RFC 9113 sections 4 and 6): nine-byte heads, typed payloads, and the rules that one frame
//! can be judged by alone. What depends on a stream's state or on the frames before (stream identifiers that
//! may be opened, CONTINUATION in its place, flow control) is the session's to judge.
//!
//! Receiving: [`Head::parse`], [`Head::check`] *before* the payload is waited for, then [`Data::begin`] for
//! DATA, whose payload streams through, or [`Frame::parse`] with the complete payload for all others.
//!
//! Sending: every frame's `encode` appends itself to a buffer.

use crate::error::ErrorCode;

mod data;
mod go_away;
mod head;
mod headers;
mod ping;
mod reset;
mod settings;
mod window_update;

pub(crate) use data::{Body, Data, Piece};
pub(crate) use go_away::GoAway;
pub(crate) use head::{Head, Kind, flag};
pub(crate) use headers::{Continuation, Headers};
pub(crate) use ping::Ping;
pub(crate) use reset::Reset;
pub(crate) use settings::{Setting, Settings};
pub(crate) use window_update::WindowUpdate;

/// A frame's head is this long, in bytes (RFC 9113 section 4.1).
pub(crate) const HEAD_LEN: usize = 9;

/// The smallest value that SETTINGS_MAX_FRAME_SIZE may have, and its initial one.
pub(crate) const MIN_MAX_FRAME_SIZE: u32 = 1 << 14;

/// The largest value that SETTINGS_MAX_FRAME_SIZE may have: a length has 24 bits.
pub(crate) const MAX_MAX_FRAME_SIZE: u32 = (1 << 24) - 1;

/// The largest flow-control window (RFC 9113 section 6.9.1).
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// A received frame other than DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// HEADERS: starts a header block.
    Headers(Headers<'a>),
    /// CONTINUATION: more of a header block.
    Continuation(Continuation<'a>),
    /// RST_STREAM.
    Reset(Reset),
    /// SETTINGS without ACK.
    Settings(Settings),
    /// SETTINGS with ACK.
    SettingsAck,
    /// PING, either way.
    Ping(Ping),
    /// GOAWAY.
    GoAway(GoAway<'a>),
    /// WINDOW_UPDATE.
    WindowUpdate(WindowUpdate),
    /// PRIORITY, which RFC 9113 section 5.3.2 lets a receiver ignore, or a type that we don't know
    /// (section 4.1: must be ignored).
    Ignored,
}

impl<'a> Frame<'a> {
    /// Reads a frame of any type but DATA from its complete payload. `head` has passed [`Head::check`].
    pub(crate) fn parse(head: &Head, payload: &'a [u8]) -> Result<Self, FrameError> {
        Ok(match head.kind {
            Kind::Headers => Frame::Headers(Headers::parse(head, payload)?),
            Kind::Continuation => Frame::Continuation(Continuation::parse(head, payload)),
            Kind::Reset => Frame::Reset(Reset::parse(head, payload)?),
            Kind::Settings if head.has(flag::ACK) => Frame::SettingsAck,
            Kind::Settings => Frame::Settings(Settings::parse(payload)?),
            Kind::Ping => Frame::Ping(Ping::parse(head, payload)?),
            Kind::GoAway => Frame::GoAway(GoAway::parse(payload)?),
            Kind::WindowUpdate => Frame::WindowUpdate(WindowUpdate::parse(head, payload)?),
            Kind::Priority | Kind::Unknown(_) => Frame::Ignored,
            // DATA is not read here, and PUSH_PROMISE has not passed the check.
            Kind::Data | Kind::PushPromise => Frame::Ignored,
        })
    }
}

/// A frame that breaks RFC 9113: what to answer, and how far the damage reaches. Always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub(crate) struct FrameError {
    /// For RST_STREAM or GOAWAY.
    pub(crate) code: ErrorCode,
    /// Which of the two.
    pub(crate) reach: Reach,
    /// For people.
    pub(crate) reason: &'static str,
}

/// How far an error reaches (RFC 9113 section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Only this stream: RST_STREAM.
    Stream(u32),
    /// The whole connection: GOAWAY.
    Connection,
}

impl FrameError {
    fn connection(code: ErrorCode, reason: &'static str) -> Self {
        Self { code, reach: Reach::Connection, reason }
    }

    fn stream(stream: u32, code: ErrorCode, reason: &'static str) -> Self {
        Self { code, reach: Reach::Stream(stream), reason }
    }
}

/// Takes a field of fixed length off the front of a payload.
fn take<const N: usize>(payload: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (field, rest) = payload.split_first_chunk().ok_or(FrameError::connection(
        ErrorCode::FRAME_SIZE_ERROR,
        "the frame is too short for its fields",
    ))?;
    *payload = rest;
    Ok(*field)
}

/// Takes 31 bits after a reserved one, which is ignored on receipt.
fn take_u31(payload: &mut &[u8]) -> Result<u32, FrameError> {
    Ok(u32::from_be_bytes(take(payload)?) & MAX_WINDOW)
}

#[cfg(test)]
mod tests;
