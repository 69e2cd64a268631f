//! A connection's output: control frames, payload, and what the socket took.

use std::io::IoSliceMut;

use super::outbox::Layout;
use super::{Connection, Ending, Outbox};
use crate::error::ConnectionError;
use crate::event::StreamId;
use crate::frame::{HEAD_LEN, Head};
use crate::record::{HEADER, MAX_PAYLOAD, RecordError, Records};

impl Connection {
    /// Seals queued control frames, key updates that are owed, and the end. Does nothing while there are unsent bytes.
    ///
    /// # Errors
    /// Nothing can be sealed any more: the connection is over.
    pub fn flush(&mut self, outbox: &mut Outbox) -> Result<(), ConnectionError> {
        if !self.unsent().is_empty() || self.ending == Ending::Over {
            return Ok(());
        }
        outbox.layout = None;
        let before = outbox.sealed;
        let flushed = self.flush_control(outbox);
        self.in_outbox += outbox.sealed - before;
        flushed.map_err(|error| self.fail(error, &mut Vec::new()))
    }

    /// Lays record slots for at most `limit` bytes of payload behind what the outbox holds and pushes them, for a
    /// vectored read. Returns their total room: at most [`send_room`](Self::send_room), at most what fits, and at most one
    /// DATA frame if the peer takes large ones. Queued control frames go first.
    pub fn slots<'o>(
        &mut self,
        stream: StreamId,
        outbox: &'o mut Outbox,
        limit: usize,
        slots: &mut Vec<IoSliceMut<'o>>,
    ) -> usize {
        let Some(layout) = self.lay_out(stream, outbox, limit) else { return 0 };
        outbox.layout = Some(layout);
        outbox.slices(&layout, slots);
        layout.room
    }

    /// Seals the first `filled` bytes of the slots that were laid out last; with 0 they are given up.
    ///
    /// # Errors
    /// Nothing can be sealed any more: the connection is over.
    pub fn seal(
        &mut self,
        stream: StreamId,
        outbox: &mut Outbox,
        filled: usize,
    ) -> Result<(), ConnectionError> {
        let Some(layout) = outbox.layout.take().filter(|layout| layout.stream == stream) else {
            return Ok(());
        };
        let filled = filled.min(layout.room).min(self.send_room(stream));
        if filled == 0 {
            return Ok(());
        }
        let before = outbox.sealed;
        let sealed = self.seal_records(&layout, outbox, filled);
        self.in_outbox += outbox.sealed - before;
        self.session.sent(stream, filled);
        sealed.map_err(|error| self.fail(error, &mut Vec::new()))
    }

    /// Sends as much of `payload` as goes, copying it, and returns how much that was.
    ///
    /// # Errors
    /// Nothing can be sealed any more: the connection is over.
    pub fn send(
        &mut self,
        stream: StreamId,
        payload: &[u8],
        outbox: &mut Outbox,
    ) -> Result<usize, ConnectionError> {
        let mut slots = Vec::new();
        let room = self.slots(stream, outbox, payload.len(), &mut slots);
        let mut rest = &payload[..room];
        for slot in &mut slots {
            let (now, later) = rest.split_at(slot.len());
            slot.copy_from_slice(now);
            rest = later;
        }
        self.seal(stream, outbox, room)?;
        Ok(room)
    }

    /// The socket took the first `n` bytes of [`Outbox::sealed`]; the rest is kept as unsent. Clears the outbox.
    pub fn written(&mut self, outbox: &mut Outbox, n: usize) {
        let rest = outbox.sealed().get(n..).unwrap_or_default();
        self.unsent.push(rest);
        outbox.sealed = 0;
        outbox.layout = None;
        self.in_outbox = 0;
    }

    /// The socket took the first `n` bytes of [`unsent`](Self::unsent).
    pub fn advance(&mut self, n: usize) {
        self.unsent.advance(n);
    }

    fn flush_control(&mut self, outbox: &mut Outbox) -> Result<(), ConnectionError> {
        if self.records.owes() {
            self.seal_aside(outbox, Records::seal_owed)?;
        }
        let control = self.session.control();
        for frames in control.chunks(MAX_PAYLOAD) {
            let record = outbox.reserve(frames.len());
            record[HEADER..HEADER + frames.len()].copy_from_slice(frames);
            outbox.sealed += self.records.seal(record, frames.len())?;
        }
        // A burst of control frames isn't worth keeping memory for.
        if control.capacity() > MAX_PAYLOAD {
            *control = Vec::new();
        }
        control.clear();
        if let Ending::Owed { alert } = self.ending {
            self.ending = Ending::Over;
            self.seal_aside(outbox, |records, out| records.seal_alert(alert, out))?;
        }
        Ok(())
    }

    /// Seals what the record layer appends by itself. Rare, so a copy is fine.
    fn seal_aside(
        &mut self,
        outbox: &mut Outbox,
        seal: impl FnOnce(&mut Records, &mut Vec<u8>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectionError> {
        let mut out = Vec::new();
        seal(&mut self.records, &mut out)?;
        outbox.reserve(out.len())[..out.len()].copy_from_slice(&out);
        outbox.sealed += out.len();
        Ok(())
    }

    fn lay_out(&mut self, stream: StreamId, outbox: &mut Outbox, limit: usize) -> Option<Layout> {
        outbox.layout = None;
        // Payload must not overtake its own HEADERS, nor a key update.
        if self.wants_flush() {
            self.flush(outbox).ok()?;
        }
        let wanted = limit.min(self.send_room(stream));
        let space = outbox.bytes.len() - outbox.sealed;
        let layout = Layout::new(stream, wanted, self.session.max_data(), space);
        (layout.room > 0).then_some(layout)
    }

    fn seal_records(
        &mut self,
        layout: &Layout,
        outbox: &mut Outbox,
        filled: usize,
    ) -> Result<(), ConnectionError> {
        let id = layout.stream.get();
        let mut left = filled;
        for index in 0..layout.records() {
            let (before, room) = layout.record(index);
            let payload = room.min(left);
            if payload == 0 {
                break;
            }
            left -= payload;
            let record = &mut outbox.bytes[outbox.sealed..];
            if before > 0 {
                let length = if layout.one_frame { filled } else { payload };
                let head = Head::data(id, length as u32, false).to_bytes();
                record[HEADER..HEADER + HEAD_LEN].copy_from_slice(&head);
            }
            outbox.sealed += self.records.seal(record, before + payload)?;
        }
        Ok(())
    }
}
