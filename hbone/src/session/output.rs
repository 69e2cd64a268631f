//! Control frames on their way out.

use super::Session;
use crate::error::{ConnectionError, ErrorCode};
use crate::event::StreamId;
use crate::frame::{GoAway, Ping, Reset, Settings, WindowUpdate};
use crate::role::Role;
use crate::settings::SessionConfig;

/// Whole control frames in the order in which they will be sent.
#[derive(Default)]
pub(super) struct Output {
    pub(super) control: Vec<u8>,
    /// How many of those bytes the peer made us queue.
    pub(super) replies: usize,
    /// Some window may be due an update.
    pub(super) windows: bool,
}

impl Session {
    /// Whether [`Session::control`] would hand something out.
    pub(crate) fn wants_flush(&self) -> bool {
        !self.output.control.is_empty() || self.output.windows
    }

    /// The control frames to send, window updates included. The caller takes all and clears.
    pub(crate) fn control(&mut self) -> &mut Vec<u8> {
        if std::mem::take(&mut self.output.windows) {
            self.update_windows();
        }
        self.output.replies = 0;
        &mut self.output.control
    }

    fn update_windows(&mut self) {
        let control = &mut self.output.control;
        let increment = self.receive.connection_due();
        if increment > 0 {
            self.receive.grant(increment);
            WindowUpdate { stream: 0, increment }.encode(control);
        }
        for stream in self.streams.iter_mut().filter(|stream| !stream.state.peer_ended()) {
            let increment = stream.receive.stream_due();
            if increment > 0 {
                stream.receive.grant(increment);
                WindowUpdate { stream: stream.id.get(), increment }.encode(control);
            }
        }
    }

    /// After a thaw: whether window updates are due is seen from the windows.
    pub(super) fn notice_windows(&mut self) {
        let streams = self.streams.iter().filter(|stream| !stream.state.peer_ended());
        let due = streams.map(|stream| stream.receive.stream_due()).max().unwrap_or(0);
        self.output.notice_window(due.max(self.receive.connection_due()));
    }
}

impl Output {
    /// The client's preface and either side's SETTINGS (RFC 9113 section 3.4).
    pub(super) fn greet(&mut self, role: Role, config: &SessionConfig) {
        if role == Role::Client {
            self.control.extend_from_slice(PREFACE);
        }
        config.announce(role, &mut self.control);
    }

    /// A window could be raised by `due` bytes.
    pub(super) fn notice_window(&mut self, due: u32) {
        self.windows |= due > 0;
    }

    pub(super) fn reset(&mut self, id: StreamId, code: ErrorCode) {
        Reset { stream: id.get(), code }.encode(&mut self.control);
    }

    pub(super) fn go_away(&mut self, last_stream: u32, code: ErrorCode) {
        GoAway { last_stream, code, debug: b"" }.encode(&mut self.control);
    }

    pub(super) fn ping(&mut self, payload: [u8; 8]) {
        Ping { ack: false, payload }.encode(&mut self.control);
    }

    /// Queues what the peer makes us say, within bounds.
    pub(super) fn reply(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), ConnectionError> {
        let before = self.control.len();
        encode(&mut self.control);
        self.replies += self.control.len() - before;
        if self.replies > MAX_REPLIES {
            return Err(ConnectionError::http2(
                ErrorCode::ENHANCE_YOUR_CALM,
                "the peer demands more answers than it reads",
            ));
        }
        Ok(())
    }

    pub(super) fn acknowledge_settings(&mut self) -> Result<(), ConnectionError> {
        self.reply(Settings::encode_ack)
    }
}

/// The client's first bytes (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most bytes of answers between two flushes.
const MAX_REPLIES: usize = 64 << 10;
