//! A connection's input: bytes, their end, and time.

use super::{Connection, Ending, Inbox};
use crate::error::ConnectionError;
use crate::event::Event;
use crate::record::Opened;
use crate::time::Time;

impl Connection {
    /// Takes the `fresh` bytes that were put into [`Inbox::space`], opens them in place, and tells what happened.
    /// To be called once with 0 right after the handshake, for what came behind it.
    ///
    /// # Errors
    /// The connection is over; an [`Event::Reset`] for each open stream says so as well.
    pub fn receive(
        &mut self,
        now: Time,
        inbox: &mut Inbox,
        fresh: usize,
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        if self.ending != Ending::Open {
            return Ok(());
        }
        let carried = self.carry.len();
        inbox.reserve(carried + fresh);
        inbox.bytes[..carried].copy_from_slice(&self.carry);
        self.carry.clear();
        let opened = self.open_records(now, &mut inbox.bytes[..carried + fresh], events);
        if self.carry.is_empty() {
            // Idle connections own no buffer.
            self.carry = Vec::new();
        }
        match opened {
            Ok(()) => {
                self.session.settle(events);
                Ok(())
            }
            Err(error) => Err(self.fail(error, events)),
        }
    }

    /// The peer's end of the TCP connection came (FIN).
    ///
    /// # Errors
    /// [`ConnectionError::Truncated`] if streams were open and the peer hadn't said close_notify: an [`Event::Reset`]
    /// tells each.
    pub fn receive_end(&mut self, events: &mut Vec<Event>) -> Result<(), ConnectionError> {
        if self.peer_ended || self.ending != Ending::Open {
            return Ok(());
        }
        self.peer_ended = true;
        let cut = self.session.receive_end(events);
        self.session.settle(events);
        if cut > 0 { Err(self.fail(ConnectionError::Truncated, events)) } else { Ok(()) }
    }

    /// Does what is due by `now`; see [`timeout`](Self::timeout). Calling it early does no harm.
    ///
    /// # Errors
    /// The peer didn't answer a PING: the connection and all its streams are over.
    pub fn handle_timeout(&mut self, now: Time) -> Result<(), ConnectionError> {
        if self.timeout().is_none() {
            return Ok(());
        }
        self.session.handle_timeout(now).map_err(|error| self.fail(error, &mut Vec::new()))
    }

    fn open_records(
        &mut self,
        now: Time,
        bytes: &mut [u8],
        events: &mut Vec<Event>,
    ) -> Result<(), ConnectionError> {
        let mut at = 0;
        while self.ending == Ending::Open && !self.peer_ended {
            match self.records.open(&mut bytes[at..])? {
                Opened::Incomplete => {
                    self.carry.extend_from_slice(&bytes[at..]);
                    return Ok(());
                }
                Opened::Data { consumed, range } => {
                    let (start, end) = (at + range.start, at + range.end);
                    self.session.receive(now, &bytes[start..end], start, events)?;
                    at += consumed;
                }
                Opened::Handled { consumed } => at += consumed,
                // What follows is to be ignored (RFC 8446 section 6.1).
                Opened::CloseNotify { .. } => {
                    self.peer_ended = true;
                    self.session.receive_end(events);
                }
            }
        }
        Ok(())
    }
}
