//! Header blocks: gathered, decoded, and read as request, response or trailers.

use super::input::violation;
use super::limits::RESETS;
use super::{Session, Standing};
use crate::connect::{Answer, HeaderList, Malformed};
use crate::error::{ConnectionError, ErrorCode};
use crate::event::{Event, StreamId};
use crate::frame::{Continuation, Headers, Reset};
use crate::role::Role;
use crate::stream::HeadersAre;
use crate::time::Time;

/// A header block that isn't complete yet.
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) fragment: Vec<u8>,
    /// CONTINUATION frames so far.
    pub(super) continuations: u32,
}

impl Session {
    pub(super) fn receive_headers(
        &mut self,
        now: Time,
        headers: Headers<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let Headers { stream, end_stream, end_headers, fragment } = headers;
        if end_headers {
            return self.receive_block(now, stream, end_stream, fragment, events);
        }
        self.block = Some(Block { stream, end_stream, fragment: fragment.to_vec(), continuations: 0 });
        Ok(())
    }

    pub(super) fn receive_continuation(
        &mut self,
        now: Time,
        continuation: Continuation<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let Some(mut block) = self.block.take() else {
            return Err(violation("CONTINUATION without a header block"));
        };
        block.fragment.extend_from_slice(continuation.fragment);
        block.continuations += 1;
        if continuation.end_headers {
            return self.receive_block(now, block.stream, block.end_stream, &block.fragment, events);
        }
        if block.continuations == MAX_CONTINUATIONS {
            return Err(ConnectionError::http2(ErrorCode::ENHANCE_YOUR_CALM, "too many CONTINUATION frames"));
        }
        self.block = Some(block);
        Ok(())
    }

    /// Decodes a complete block, whatever becomes of it: the table must stay in step with the peer's.
    fn receive_block(
        &mut self,
        now: Time,
        id: u32,
        end_stream: bool,
        block: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let mut list = HeaderList::default();
        let limit = self.config.max_header_list_size as usize;
        let list = match self.decoder.decode(block, limit, |name, value| list.push(name, value)) {
            Ok(()) => Ok(list),
            Err(error) => match error.connection_error() {
                Some(code) => {
                    return Err(ConnectionError::http2(code, "a header block that can't be decoded"));
                }
                None => Err(Malformed("a header list that is too large")),
            },
        };
        match self.standing(id) {
            Standing::Ignored => Ok(()),
            Standing::Live(stream) => self.receive_more(now, stream, end_stream, list, events),
            Standing::Idle if self.role == Role::Server && id % 2 == 1 => {
                self.receive_request(now, id, end_stream, list, events)
            }
            Standing::Idle => Err(violation("HEADERS on a stream that isn't the peer's to open")),
            Standing::Closed(stream)
                if self.recent.has_ended(stream) || self.streams.get(stream).is_some() =>
            {
                Err(ConnectionError::http2(ErrorCode::STREAM_CLOSED, "HEADERS on a closed stream"))
            }
            Standing::Closed(_) if self.role == Role::Server => {
                Err(violation("a new stream with an id below that of another"))
            }
            Standing::Closed(stream) => self.reject(now, stream, ErrorCode::STREAM_CLOSED),
        }
    }

    /// A client opens a stream (RFC 9113 section 5.1.1).
    fn receive_request(
        &mut self,
        now: Time,
        id: u32,
        end_stream: bool,
        list: Result<HeaderList, Malformed>,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let Some(stream) = StreamId::new(id) else { return Ok(()) };
        self.last_id = id;
        if self.streams.active() >= self.config.max_concurrent_streams as usize {
            return self.reject(now, stream, ErrorCode::REFUSED_STREAM);
        }
        match list.and_then(HeaderList::into_request) {
            Ok(request) => {
                self.open(stream);
                events.push(Event::Request { stream, request });
                if end_stream {
                    self.end_peer(stream, events);
                }
                Ok(())
            }
            Err(_) => self.reject(now, stream, ErrorCode::PROTOCOL_ERROR),
        }
    }

    /// A response, or trailers.
    fn receive_more(
        &mut self,
        now: Time,
        id: StreamId,
        end_stream: bool,
        list: Result<HeaderList, Malformed>,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        let accepted = match stream.state.expects() {
            HeadersAre::Response => match list.and_then(HeaderList::into_answer) {
                Ok(Answer::Interim) if !end_stream => return self.trifle(now),
                Ok(Answer::Interim) => Err(Malformed("END_STREAM on a 1xx")),
                Ok(Answer::Final(response)) => {
                    stream.state.receive_response();
                    events.push(Event::Response { stream: id, response });
                    Ok(())
                }
                Err(malformed) => Err(malformed),
            },
            HeadersAre::Trailers if !end_stream => Err(Malformed("trailers without END_STREAM")),
            HeadersAre::Trailers => list.and_then(HeaderList::into_trailers),
            HeadersAre::Late => {
                let text = "HEADERS behind END_STREAM";
                return self.stream_error(now, id.get(), ErrorCode::STREAM_CLOSED, text, events);
            }
        };
        match accepted {
            Ok(()) if end_stream => self.end_peer(id, events),
            Ok(()) => {}
            Err(Malformed(text)) => {
                return self.stream_error(now, id.get(), ErrorCode::PROTOCOL_ERROR, text, events);
            }
        }
        Ok(())
    }

    /// Sends RST_STREAM for a stream of which nothing is left, at the peer's cost.
    pub(super) fn reject(&mut self, now: Time, id: StreamId, code: ErrorCode) -> Result<(), ConnectionError> {
        self.charge_reset(now)?;
        self.recent.push_reset(id);
        self.output.reply(|out| Reset { stream: id.get(), code }.encode(out))
    }

    /// Spends a stream that ended badly by the peer's doing.
    pub(super) fn charge_reset(&mut self, now: Time) -> Result<(), ConnectionError> {
        if self.resets.spend(now, &RESETS) {
            return Ok(());
        }
        Err(ConnectionError::http2(ErrorCode::ENHANCE_YOUR_CALM, "too many streams reset"))
    }
}

/// Blocks are bounded in bytes too; this bounds the empty ones.
pub(super) const MAX_CONTINUATIONS: u32 = 64;
