//! A session's place in a snapshot. Fields and their order are part of the format: see `SNAPSHOT.md`.

use super::Session;
use super::headers::{Block, MAX_CONTINUATIONS};
use super::input::Input;
use super::keepalive::Keepalive;
use super::limits::{Budget, Recent, stream_id};
use super::output::{Output, PREFACE};
use super::shutdown::Shutdown;
use crate::error::ThawError;
use crate::frame::{Body, Data, HEAD_LEN, Head, MAX_WINDOW};
use crate::hpack::{Decoder, Sizes};
use crate::role::Role;
use crate::settings::{PeerSettings, SessionConfig};
use crate::snapshot::{Reader, Writer};
use crate::stream::{Pending, ReceiveWindow, SendWindow, State, Stream, Streams};
use crate::time::Time;

impl Session {
    pub(crate) fn freeze(&self, state: &mut Writer, now: Time) {
        self.role.freeze(state);
        self.config.freeze(state);
        self.peer.freeze(state);
        for flag in [self.greeted, self.acknowledged, self.ended, self.full, self.told_closed] {
            state.bool(flag);
        }
        self.input.freeze(state);
        Block::freeze(self.block.as_ref(), state);
        freeze_decoder(&self.decoder, state);
        state.bytes(&self.output.control);
        state.count(self.output.replies);
        state.u32(self.last_id);
        self.receive.freeze(state);
        self.send.freeze(state);
        self.keepalive.freeze(state, now);
        self.shutdown.freeze(state, now);
        state.bool(self.peer_shutdown.is_some());
        state.u32(self.peer_shutdown.unwrap_or(0));
        self.resets.freeze(state, now);
        self.trifles.freeze(state, now);
        self.recent.freeze(state);
        state.count(self.streams.iter().len());
        for stream in self.streams.iter() {
            freeze_stream(stream, state);
        }
    }

    /// Reads a session whose clock stands at 0, and checks that a living one can have been like this.
    pub(crate) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        let role = Role::thaw(state)?;
        let config = SessionConfig::thaw(state)?;
        let peer = PeerSettings::thaw(state)?;
        let (greeted, acknowledged, ended, full, told_closed) =
            (state.bool()?, state.bool()?, state.bool()?, state.bool()?, state.bool()?);
        let input = Input::thaw(state)?;
        let block = Block::thaw(state)?;
        let decoder = thaw_decoder(state)?;
        let output = Output { control: state.bytes()?.to_vec(), replies: state.count()?, windows: false };
        let last_id = state.u32()?;
        if last_id > MAX_WINDOW || (last_id > 0 && last_id % 2 == 0) {
            return Err(ThawError::Invalid("last stream"));
        }
        let (floor, ceiling) = (config.initial_connection_window(), config.connection_window);
        let receive = ReceiveWindow::thaw(state, floor, ceiling)?;
        let send = SendWindow::thaw(state)?;
        let keepalive = Keepalive::thaw(state)?;
        let shutdown = Shutdown::thaw(state)?;
        let leaving = state.bool()?;
        let peer_shutdown = Some(state.u32()?).filter(|_| leaving);
        let resets = Budget::thaw(state)?;
        let trifles = Budget::thaw(state)?;
        let recent = Recent::thaw(state)?;
        let mut streams = Streams::default();
        let (mut below, mut held) = (0, 0);
        for _ in 0..state.count()? {
            let stream = thaw_stream(state, role, &config)?;
            let id = stream.id.get();
            if id <= below || id > last_id || id % 2 == 0 {
                return Err(ThawError::Invalid("order of streams"));
            }
            below = id;
            held += u64::from(stream.receive.held());
            streams.push(stream);
        }
        if held > receive.held().into() {
            return Err(ThawError::Invalid("held payload"));
        }
        let mut session = Self {
            role,
            config,
            peer,
            greeted,
            acknowledged,
            input,
            block,
            decoder,
            output,
            streams,
            last_id,
            receive,
            send,
            keepalive,
            probing: false,
            shutdown,
            peer_shutdown,
            ended,
            resets,
            trifles,
            recent,
            full,
            told_closed,
        };
        session.notice_windows();
        Ok(session)
    }

    /// Sets the clock of a thawed session.
    pub(crate) fn rebase(&mut self, now: Time) {
        self.keepalive.rebase(now);
        self.shutdown.rebase(now);
        self.resets.rebase(now);
        self.trifles.rebase(now);
    }
}

impl Input {
    fn freeze(&self, state: &mut Writer) {
        match self {
            Self::Preface { seen } => {
                state.u8(0);
                state.count(*seen);
            }
            Self::Head { bytes, seen } => {
                state.u8(1);
                state.bytes(&bytes[..*seen]);
            }
            Self::Data(Data { stream, end_stream, body }) => {
                state.u8(2);
                state.u32(*stream);
                state.bool(*end_stream);
                match *body {
                    Body::PadLength { left } => {
                        state.bool(true);
                        state.u32(left.get());
                        state.u8(0);
                    }
                    Body::Rest { payload, padding } => {
                        state.bool(false);
                        state.u32(payload);
                        state.u8(padding);
                    }
                }
            }
            Self::Payload { head, bytes } => {
                state.u8(3);
                state.bytes(&head.to_bytes());
                state.bytes(bytes);
            }
            Self::Skip { left } => {
                state.u8(4);
                state.count(*left);
            }
        }
    }

    fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        let invalid = ThawError::Invalid("frame in progress");
        let input = match state.u8()? {
            0 => Self::Preface { seen: state.count()? },
            1 => {
                let got = state.bytes()?;
                let mut bytes = [0; HEAD_LEN];
                bytes.get_mut(..got.len()).ok_or(invalid.clone())?.copy_from_slice(got);
                Self::Head { bytes, seen: got.len() }
            }
            2 => {
                let (stream, end_stream) = (state.u32()?, state.bool()?);
                let (unknown, left, padding) = (state.bool()?, state.u32()?, state.u8()?);
                let body = match left.try_into() {
                    Ok(left) if unknown => Body::PadLength { left },
                    _ => Body::Rest { payload: left, padding },
                };
                Self::Data(Data { stream, end_stream, body })
            }
            3 => {
                let head = state.bytes()?.try_into().map_err(|_| invalid.clone())?;
                Self::Payload { head: Head::parse(head), bytes: state.bytes()?.to_vec() }
            }
            4 => Self::Skip { left: state.count()? },
            _ => return Err(invalid),
        };
        let in_progress = match &input {
            Self::Preface { seen } => *seen < PREFACE.len(),
            Self::Head { seen, .. } => *seen < HEAD_LEN,
            Self::Data(data) => !data.is_complete(),
            Self::Payload { head, bytes } => bytes.len() < head.length as usize,
            Self::Skip { left } => *left > 0,
        };
        if in_progress { Ok(input) } else { Err(invalid) }
    }
}

impl Block {
    fn freeze(block: Option<&Self>, state: &mut Writer) {
        state.bool(block.is_some());
        let Some(block) = block else { return };
        state.u32(block.stream);
        state.bool(block.end_stream);
        state.bytes(&block.fragment);
        state.u32(block.continuations);
    }

    fn thaw(state: &mut Reader<'_>) -> Result<Option<Self>, ThawError> {
        if !state.bool()? {
            return Ok(None);
        }
        let stream = state.u32()?;
        let end_stream = state.bool()?;
        let fragment = state.bytes()?.to_vec();
        let continuations = state.u32()?;
        if stream == 0 || stream > MAX_WINDOW || continuations >= MAX_CONTINUATIONS {
            return Err(ThawError::Invalid("header block in progress"));
        }
        Ok(Some(Self { stream, end_stream, fragment, continuations }))
    }
}

fn freeze_decoder(decoder: &Decoder, state: &mut Writer) {
    let sizes = decoder.sizes();
    state.count(sizes.limit);
    state.count(sizes.maximum);
    state.bool(sizes.update_owed);
    let entries = decoder.entries();
    state.count(entries.len());
    for (name, value) in entries {
        state.bytes(name);
        state.bytes(value);
    }
}

fn thaw_decoder(state: &mut Reader<'_>) -> Result<Decoder, ThawError> {
    let invalid = |_| ThawError::Invalid("header table");
    let sizes = Sizes { limit: state.count()?, maximum: state.count()?, update_owed: state.bool()? };
    let mut decoder = Decoder::restore(sizes).map_err(invalid)?;
    for _ in 0..state.count()? {
        decoder.restore_entry(state.bytes()?, state.bytes()?).map_err(invalid)?;
    }
    Ok(decoder)
}

fn freeze_stream(stream: &Stream, state: &mut Writer) {
    state.u32(stream.id.get());
    state.u8(stream.state.code());
    stream.receive.freeze(state);
    stream.send.freeze(state);
    state.bytes(stream.pending.bytes());
}

fn thaw_stream(state: &mut Reader<'_>, role: Role, config: &SessionConfig) -> Result<Stream, ThawError> {
    let id = stream_id(state)?;
    let code = state.u8()?;
    let receive = ReceiveWindow::thaw(state, config.initial_stream_window(), config.stream_window)?;
    let send = SendWindow::thaw(state)?;
    let mut pending = Pending::default();
    pending.push(state.bytes()?);
    let stream = Stream { id, state: State::from_code(code, role)?, receive, send, pending };
    if stream.is_over() || stream.pending.bytes().len() > stream.receive.held() as usize {
        return Err(ThawError::Invalid("pending payload"));
    }
    Ok(stream)
}
