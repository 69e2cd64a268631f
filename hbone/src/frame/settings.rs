//! SETTINGS (RFC 9113 section 6.5).

use super::{FrameError, Head, Kind, MAX_MAX_FRAME_SIZE, MAX_WINDOW, MIN_MAX_FRAME_SIZE, flag, take};
use crate::error::ErrorCode;

/// One entry of a SETTINGS frame, in RFC 9113 section 6.5.2's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// SETTINGS_HEADER_TABLE_SIZE, in bytes (RFC 7541 section 4.1).
    HeaderTableSize(u32),
    /// SETTINGS_ENABLE_PUSH. From a server to a client only `false` is allowed.
    EnablePush(bool),
    /// SETTINGS_MAX_CONCURRENT_STREAMS: how many streams the receiver of the frame may open.
    MaxConcurrentStreams(u32),
    /// SETTINGS_INITIAL_WINDOW_SIZE: a new stream's window, in bytes; at most 2^31-1.
    InitialWindowSize(u32),
    /// SETTINGS_MAX_FRAME_SIZE, in bytes; from 2^14 to 2^24-1.
    MaxFrameSize(u32),
    /// SETTINGS_MAX_HEADER_LIST_SIZE, in bytes, uncompressed, with 32 a field on top. Advisory.
    MaxHeaderListSize(u32),
}

/// What a SETTINGS frame changes. A parameter that it names twice has the last value (section 6.5.3: in
/// order, and no state between them can be seen).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) header_table_size: Option<u32>,
    pub(crate) enable_push: Option<bool>,
    pub(crate) max_concurrent_streams: Option<u32>,
    pub(crate) initial_window_size: Option<u32>,
    pub(crate) max_frame_size: Option<u32>,
    pub(crate) max_header_list_size: Option<u32>,
}

impl Settings {
    /// Reads the payload of a SETTINGS frame without ACK. Unknown parameters are ignored.
    pub(super) fn parse(mut payload: &[u8]) -> Result<Self, FrameError> {
        let mut settings = Self::default();
        while !payload.is_empty() {
            let id = u16::from_be_bytes(take(&mut payload)?);
            let value = u32::from_be_bytes(take(&mut payload)?);
            match Setting::parse(id, value)? {
                Some(setting) => settings.set(setting),
                None => continue,
            }
        }
        Ok(settings)
    }

    /// Appends a SETTINGS frame with these entries.
    pub(crate) fn encode(entries: &[Setting], out: &mut Vec<u8>) {
        let head = Head { length: 6 * entries.len() as u32, kind: Kind::Settings, flags: 0, stream: 0 };
        out.extend_from_slice(&head.to_bytes());
        for entry in entries {
            let (id, value) = entry.wire();
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// Appends an acknowledgement.
    pub(crate) fn encode_ack(out: &mut Vec<u8>) {
        let head = Head { length: 0, kind: Kind::Settings, flags: flag::ACK, stream: 0 };
        out.extend_from_slice(&head.to_bytes());
    }

    fn set(&mut self, setting: Setting) {
        match setting {
            Setting::HeaderTableSize(size) => self.header_table_size = Some(size),
            Setting::EnablePush(allowed) => self.enable_push = Some(allowed),
            Setting::MaxConcurrentStreams(max) => self.max_concurrent_streams = Some(max),
            Setting::InitialWindowSize(size) => self.initial_window_size = Some(size),
            Setting::MaxFrameSize(size) => self.max_frame_size = Some(size),
            Setting::MaxHeaderListSize(size) => self.max_header_list_size = Some(size),
        }
    }
}

impl Setting {
    fn parse(id: u16, value: u32) -> Result<Option<Self>, FrameError> {
        let (setting, valid, code, reason) = match id {
            1 => return Ok(Some(Setting::HeaderTableSize(value))),
            3 => return Ok(Some(Setting::MaxConcurrentStreams(value))),
            6 => return Ok(Some(Setting::MaxHeaderListSize(value))),
            2 => (
                Setting::EnablePush(value == 1),
                value <= 1,
                ErrorCode::PROTOCOL_ERROR,
                "SETTINGS_ENABLE_PUSH neither 0 nor 1",
            ),
            4 => (
                Setting::InitialWindowSize(value),
                value <= MAX_WINDOW,
                ErrorCode::FLOW_CONTROL_ERROR,
                "SETTINGS_INITIAL_WINDOW_SIZE beyond 2^31-1",
            ),
            5 => (
                Setting::MaxFrameSize(value),
                (MIN_MAX_FRAME_SIZE..=MAX_MAX_FRAME_SIZE).contains(&value),
                ErrorCode::PROTOCOL_ERROR,
                "SETTINGS_MAX_FRAME_SIZE not within 2^14 and 2^24-1",
            ),
            _ => return Ok(None),
        };
        if valid { Ok(Some(setting)) } else { Err(FrameError::connection(code, reason)) }
    }

    fn wire(self) -> (u16, u32) {
        match self {
            Setting::HeaderTableSize(size) => (1, size),
            Setting::EnablePush(allowed) => (2, u32::from(allowed)),
            Setting::MaxConcurrentStreams(max) => (3, max),
            Setting::InitialWindowSize(size) => (4, size),
            Setting::MaxFrameSize(size) => (5, size),
            Setting::MaxHeaderListSize(size) => (6, size),
        }
    }
}
