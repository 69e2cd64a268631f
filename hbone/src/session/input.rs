//! From bytes in any cut to frames. DATA streams through; other payload is gathered only if it comes in pieces.

use super::limits::TRIFLES;
use super::output::PREFACE;
use super::{Session, Standing};
use crate::error::{ConnectionError, ErrorCode};
use crate::event::{Event, StreamId};
use crate::frame::{Body, Data, Frame, FrameError, HEAD_LEN, Head, Kind, Piece, Reach, flag};
use crate::role::Role;
use crate::stream::HeadersAre;
use crate::time::Time;

/// Where in the peer's bytes we are.
///
/// ```text
///   Preface ──24 bytes──> Head ──DATA────────────> Data ────complete──┐
///   (server)               ^ ├───ignored types───> Skip ────complete──┤
///                          │ └───all others──────> Payload ─complete──┤
///                          └──────────────────────────────────────────┘
/// ```
pub(super) enum Input {
    /// This many bytes of the client's preface have come.
    Preface { seen: usize },
    /// The first `seen` bytes of a frame's head.
    Head { bytes: [u8; HEAD_LEN], seen: usize },
    /// A DATA frame is streaming through. Its stream may be gone by now.
    Data(Data),
    /// What has come of another frame's payload.
    Payload { head: Head, bytes: Vec<u8> },
    /// The rest of a frame that says nothing to us.
    Skip { left: usize },
}

impl Input {
    pub(super) const NEXT_FRAME: Self = Self::Head { bytes: [0; HEAD_LEN], seen: 0 };

    pub(super) fn start(role: Role) -> Self {
        match role {
            Role::Client => Self::NEXT_FRAME,
            Role::Server => Self::Preface { seen: 0 },
        }
    }
}

impl Session {
    /// Consumes at least one of the bytes, which aren't none, and returns how many.
    pub(super) fn step(
        &mut self,
        now: Time,
        bytes: &[u8],
        base: usize,
        events: &mut Vec<Event>,
    ) -> Result<usize, ConnectionError> {
        match &mut self.input {
            Input::Preface { seen } => {
                let n = bytes.len().min(PREFACE.len() - *seen);
                if bytes[..n] != PREFACE[*seen..*seen + n] {
                    return Err(violation("the peer doesn't speak HTTP/2"));
                }
                *seen += n;
                if *seen == PREFACE.len() {
                    self.input = Input::NEXT_FRAME;
                }
                Ok(n)
            }
            Input::Head { bytes: head, seen } => {
                let n = bytes.len().min(HEAD_LEN - *seen);
                head[*seen..*seen + n].copy_from_slice(&bytes[..n]);
                *seen += n;
                if *seen == HEAD_LEN {
                    let head = Head::parse(head);
                    self.input = Input::NEXT_FRAME;
                    self.begin(now, head, events)?;
                }
                Ok(n)
            }
            Input::Data(data) => {
                let (id, end) = (data.stream, data.end_stream);
                let piece = data.next_piece(bytes);
                let (complete, empty) =
                    (data.is_complete(), matches!(data.body, Body::Rest { payload: 0, .. }));
                let n = match piece {
                    Ok(Piece::Payload(n)) => {
                        self.receive_payload(id, base, n, events);
                        n
                    }
                    Ok(Piece::Padding(n)) => {
                        let was_length = n == 1 && empty && !end;
                        self.receive_padding(id, n as u32);
                        if was_length {
                            self.trifle(now)?;
                        }
                        n
                    }
                    // Neither happens: there are bytes, and a complete frame is left at once.
                    Ok(Piece::Incomplete | Piece::Complete) => 0,
                    Err(error) => {
                        self.frame_error(now, error, events)?;
                        0
                    }
                };
                if complete {
                    self.end_data(id, end, events);
                }
                Ok(n)
            }
            Input::Skip { left } => {
                let n = bytes.len().min(*left);
                *left -= n;
                if *left == 0 {
                    self.input = Input::NEXT_FRAME;
                }
                Ok(n)
            }
            Input::Payload { head, bytes: got } => {
                let head = *head;
                let n = bytes.len().min(head.length as usize - got.len());
                if got.is_empty() && n == head.length as usize {
                    self.input = Input::NEXT_FRAME;
                    self.receive_frame(now, &head, &bytes[..n], events)?;
                    return Ok(n);
                }
                got.extend_from_slice(&bytes[..n]);
                if got.len() == head.length as usize {
                    let payload = std::mem::take(got);
                    self.input = Input::NEXT_FRAME;
                    self.receive_frame(now, &head, &payload, events)?;
                }
                Ok(n)
            }
        }
    }

    /// A frame's head is complete. Frames without payload are handled at once.
    fn begin(&mut self, now: Time, head: Head, events: &mut Vec<Event>) -> Result<(), ConnectionError> {
        self.check_order(&head)?;
        if let Err(error) = head.check(self.config.max_frame_size) {
            self.frame_error(now, error, events)?;
            return self.skip(head.length);
        }
        match head.kind {
            Kind::Data => self.begin_data(now, &head, events),
            Kind::Priority | Kind::Unknown(_) => {
                self.trifle(now)?;
                self.skip(head.length)
            }
            _ if head.length == 0 => self.receive_frame(now, &head, &[], events),
            _ => {
                self.check_bound(&head)?;
                self.input = Input::Payload { head, bytes: Vec::new() };
                Ok(())
            }
        }
    }

    /// SETTINGS come first (RFC 9113 section 3.4), and nothing between HEADERS and its CONTINUATIONs (section 6.10).
    fn check_order(&self, head: &Head) -> Result<(), ConnectionError> {
        if !self.greeted && (head.kind != Kind::Settings || head.has(flag::ACK)) {
            return Err(violation("the peer's first frame isn't SETTINGS"));
        }
        let continues = head.kind == Kind::Continuation;
        match &self.block {
            Some(block) if !continues || head.stream != block.stream => {
                Err(violation("a frame in the middle of a header block"))
            }
            None if continues => Err(violation("CONTINUATION without a header block")),
            _ => Ok(()),
        }
    }

    /// What is gathered must stay small, whatever frame size we allow.
    fn check_bound(&self, head: &Head) -> Result<(), ConnectionError> {
        let bound = match head.kind {
            Kind::Headers | Kind::Continuation => {
                let begun = self.block.as_ref().map_or(0, |block| block.fragment.len());
                self.max_block().saturating_sub(begun)
            }
            _ => MAX_CONTROL_PAYLOAD,
        };
        if head.length as usize > bound {
            return Err(ConnectionError::http2(
                ErrorCode::ENHANCE_YOUR_CALM,
                "a control frame that is too large",
            ));
        }
        Ok(())
    }

    /// Most bytes of a header block. It is never longer than what it stands for, so this is generous.
    fn max_block(&self) -> usize {
        (self.config.max_header_list_size as usize).saturating_mul(2).saturating_add(16 << 10)
    }

    fn skip(&mut self, length: u32) -> Result<(), ConnectionError> {
        self.input = match length {
            0 => Input::NEXT_FRAME,
            _ => Input::Skip { left: length as usize },
        };
        Ok(())
    }

    fn receive_frame(
        &mut self,
        now: Time,
        head: &Head,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        match Frame::parse(head, payload) {
            Ok(Frame::Headers(headers)) => self.receive_headers(now, headers, events),
            Ok(Frame::Continuation(continuation)) => self.receive_continuation(now, continuation, events),
            Ok(Frame::Reset(reset)) => self.receive_reset(now, reset, events),
            Ok(Frame::Settings(settings)) => self.receive_settings(now, &settings, events),
            Ok(Frame::SettingsAck) => self.receive_settings_ack(),
            Ok(Frame::Ping(ping)) => self.receive_ping(now, ping, events),
            Ok(Frame::GoAway(go_away)) => self.receive_go_away(now, &go_away, events),
            Ok(Frame::WindowUpdate(update)) => self.receive_window_update(now, update, events),
            Ok(Frame::Ignored) => Ok(()),
            Err(error) => self.frame_error(now, error, events),
        }
    }

    /// The whole frame counts for flow control at once, padding included (section 6.9.1).
    fn begin_data(&mut self, now: Time, head: &Head, events: &mut Vec<Event>) -> Result<(), ConnectionError> {
        let length = head.length;
        if self.receive.receive(length).is_err() {
            return Err(ConnectionError::http2(
                ErrorCode::FLOW_CONTROL_ERROR,
                "more payload than the connection's window",
            ));
        }
        let refused = match self.standing(head.stream) {
            Standing::Idle => return Err(violation("DATA on an idle stream")),
            Standing::Ignored => Some(None),
            Standing::Closed(_) => Some(Some((ErrorCode::STREAM_CLOSED, "DATA on a closed stream"))),
            Standing::Live(id) => self.charge_stream(id, length).err().map(Some),
        };
        if let Some(error) = refused {
            self.release(length, true);
            if let Some((code, text)) = error {
                self.stream_error(now, head.stream, code, text, events)?;
            }
        }
        match Data::begin(head) {
            Ok(data) if data.is_complete() => {
                if !data.end_stream {
                    self.trifle(now)?;
                }
                self.end_data(data.stream, data.end_stream, events);
            }
            Ok(data) => self.input = Input::Data(data),
            Err(error) => self.frame_error(now, error, events)?,
        }
        Ok(())
    }

    fn charge_stream(&mut self, id: StreamId, length: u32) -> Result<(), (ErrorCode, &'static str)> {
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        match stream.state.expects() {
            HeadersAre::Trailers => {}
            HeadersAre::Response => return Err((ErrorCode::PROTOCOL_ERROR, "DATA before the response")),
            HeadersAre::Late => return Err((ErrorCode::STREAM_CLOSED, "DATA behind END_STREAM")),
        }
        let overflow = (ErrorCode::FLOW_CONTROL_ERROR, "more payload than the stream's window");
        stream.receive.receive(length).map_err(|_| overflow)
    }

    fn receive_payload(&mut self, id: u32, base: usize, n: usize, events: &mut Vec<Event>) {
        if let Standing::Live(stream) = self.standing(id) {
            events.push(Event::Data { stream, range: base..base + n });
        }
    }

    /// Padding is given back at once. If the stream is gone, so is all that it held.
    fn receive_padding(&mut self, id: u32, n: u32) {
        if let Standing::Live(id) = self.standing(id) {
            self.give_back(id, n);
        }
    }

    fn end_data(&mut self, id: u32, end: bool, events: &mut Vec<Event>) {
        self.input = Input::NEXT_FRAME;
        if let (true, Standing::Live(id)) = (end, self.standing(id)) {
            self.end_peer(id, events);
        }
    }

    /// The rest of a DATA frame will never come: nobody holds it.
    pub(super) fn abandon_frame(&mut self) {
        let Input::Data(Data { stream, body, .. }) = self.input else { return };
        let missing = match body {
            Body::PadLength { left } => left.get(),
            Body::Rest { payload, padding } => payload + u32::from(padding),
        };
        self.input = Input::NEXT_FRAME;
        self.receive_padding(stream, missing);
    }

    /// END_STREAM came.
    pub(super) fn end_peer(&mut self, id: StreamId, events: &mut Vec<Event>) {
        let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.state.can_receive()) else {
            return;
        };
        stream.state.receive_end();
        events.push(Event::End { stream: id });
        self.retire(id);
    }

    /// A frame that is wrong by itself.
    pub(super) fn frame_error(
        &mut self,
        now: Time,
        error: FrameError,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        match error.reach {
            Reach::Connection => Err(ConnectionError::http2(error.code, error.reason)),
            Reach::Stream(id) => self.stream_error(now, id, error.code, error.reason, events),
        }
    }

    /// The peer broke a rule on one stream: RST_STREAM (section 5.4.2). Where there never was a stream, it reaches the
    /// connection.
    pub(super) fn stream_error(
        &mut self,
        now: Time,
        id: u32,
        code: ErrorCode,
        text: &'static str,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        match self.standing(id) {
            Standing::Idle => Err(ConnectionError::http2(code, text)),
            Standing::Ignored => Ok(()),
            Standing::Closed(id) => self.reject(now, id, code),
            Standing::Live(id) => {
                self.cut(id, code, false, events);
                self.reject(now, id, code)
            }
        }
    }

    /// Spends a frame that does nothing.
    pub(super) fn trifle(&mut self, now: Time) -> Result<(), ConnectionError> {
        if self.trifles.spend(now, &TRIFLES) {
            return Ok(());
        }
        Err(ConnectionError::http2(ErrorCode::ENHANCE_YOUR_CALM, "too many frames that do nothing"))
    }
}

/// PROTOCOL_ERROR for the whole connection.
pub(super) fn violation(text: &'static str) -> ConnectionError {
    ConnectionError::http2(ErrorCode::PROTOCOL_ERROR, text)
}

/// Most payload of a frame other than DATA and HEADERS. GOAWAY's debug data is the only one that could be large.
pub(super) const MAX_CONTROL_PAYLOAD: usize = 64 << 10;
