//! Where bytes to send are laid out and sealed.

use std::io::IoSliceMut;

use crate::event::StreamId;
use crate::frame::HEAD_LEN;
use crate::record::{HEADER, MAX_PAYLOAD, TRAILER};

/// A worker's send scratch: the sealed bytes of one connection's turn.
pub struct Outbox {
    pub(super) bytes: Vec<u8>,
    /// How many of them are sealed.
    pub(super) sealed: usize,
    /// What [`Connection::slots`](crate::Connection::slots) laid out behind them.
    pub(super) layout: Option<Layout>,
}

impl Outbox {
    /// Scratch of `n` bytes: about what one turn of a connection may send. At least 64 KiB.
    #[must_use]
    pub fn with_capacity(n: usize) -> Self {
        Self { bytes: vec![0; n.max(LEAST)], sealed: 0, layout: None }
    }

    /// What is to be written now.
    #[must_use]
    pub fn sealed(&self) -> &[u8] {
        &self.bytes[..self.sealed]
    }

    /// Nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sealed == 0
    }

    /// Room for one more record with `len` bytes of payload, growing if need be: control frames must fit.
    pub(super) fn reserve(&mut self, len: usize) -> &mut [u8] {
        let end = self.sealed + HEADER + len + TRAILER;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.sealed..end]
    }

    /// Bytes of `layout`'s payload, one slice a record.
    pub(super) fn slices<'o>(&'o mut self, layout: &Layout, slots: &mut Vec<IoSliceMut<'o>>) {
        let mut rest = &mut self.bytes[self.sealed..];
        for index in 0..layout.records() {
            let (before, room) = layout.record(index);
            let (_, at_payload) = rest.split_at_mut(HEADER + before);
            let (payload, behind) = at_payload.split_at_mut(room);
            slots.push(IoSliceMut::new(payload));
            rest = behind.get_mut(TRAILER..).unwrap_or_default();
        }
    }
}

/// How payload of one stream lies in records.
///
/// ```text
///   one frame over all:  ┌─────┬──────┬──────────┬────┐┌─────┬─────────────────┬────┐┌─────┬── … only if the peer takes
///                        │ TLS │ DATA │ payload  │ TLS││ TLS │     payload     │ TLS││ TLS │      frames as large as that
///                        └─────┴──────┴──────────┴────┘└─────┴─────────────────┴────┘└─────┴── …
///   a frame in each:     ┌─────┬──────┬──────────┬────┐┌─────┬──────┬──────────┬────┐┌─────┬── …
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) stream: StreamId,
    /// Payload bytes that it has room for.
    pub(super) room: usize,
    /// Payload bytes of one DATA frame at most.
    max_data: usize,
    /// One DATA frame carries all.
    pub(super) one_frame: bool,
}

impl Layout {
    /// As much of `wanted` payload bytes as fits into `space` bytes.
    pub(super) fn new(stream: StreamId, wanted: usize, max_data: usize, space: usize) -> Self {
        let one_frame = max_data >= ONE_FRAME_FROM;
        let mut layout = Self { stream, room: wanted, max_data, one_frame };
        if one_frame {
            layout.room = wanted.min(max_data);
        }
        layout.room = layout.room.min(layout.fitting(space));
        layout
    }

    /// How many records it has.
    pub(super) fn records(&self) -> usize {
        match self.room {
            0 => 0,
            room if self.one_frame => (room + HEAD_LEN).div_ceil(MAX_PAYLOAD),
            room => room.div_ceil(self.first()),
        }
    }

    /// What comes before the payload in a record, and how much payload there is room for.
    pub(super) fn record(&self, index: usize) -> (usize, usize) {
        let first = self.first();
        let (before, start, most) = match (self.one_frame, index) {
            (_, 0) => (HEAD_LEN, 0, first),
            (true, _) => (0, first + (index - 1) * MAX_PAYLOAD, MAX_PAYLOAD),
            (false, _) => (HEAD_LEN, index * first, first),
        };
        (before, self.room.saturating_sub(start).min(most))
    }

    /// Payload of a record that holds a frame head too.
    fn first(&self) -> usize {
        (MAX_PAYLOAD - HEAD_LEN).min(self.max_data)
    }

    /// Payload that `space` bytes have room for.
    fn fitting(&self, space: usize) -> usize {
        let around = HEADER + TRAILER;
        let first = self.first();
        if space <= around + HEAD_LEN {
            return 0;
        }
        if self.one_frame {
            let (full, rest) = (space / (MAX_PAYLOAD + around), space % (MAX_PAYLOAD + around));
            return (full * MAX_PAYLOAD + rest.saturating_sub(around)).saturating_sub(HEAD_LEN);
        }
        let each = first + HEAD_LEN + around;
        space / each * first + (space % each).saturating_sub(around + HEAD_LEN)
    }
}

/// From this SETTINGS_MAX_FRAME_SIZE of the peer on, one DATA frame goes over many records: a receiver pays for frames.
const ONE_FRAME_FROM: usize = 64 << 10;

/// A few records, however small the caller wishes the scratch to be.
const LEAST: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_add_up_to_the_room_and_fit_the_space() {
        let stream = StreamId::new(1).unwrap();
        for max_data in [16_384, 16_385, 65_535, 65_536, 1 << 20] {
            for wanted in [0, 1, 16_374, 16_375, 16_376, 32_750, 100_000, 3 << 20] {
                for space in [0, 31, 32, 16_406, 16_407, 16_450, 70_000, 512 << 10] {
                    let layout = Layout::new(stream, wanted, max_data, space);
                    let records: Vec<_> = (0..layout.records()).map(|index| layout.record(index)).collect();
                    let room: usize = records.iter().map(|(_, room)| room).sum();
                    let bytes: usize =
                        records.iter().map(|(before, room)| HEADER + before + room + TRAILER).sum();
                    let case = format!("{wanted} of {max_data} in {space}: {layout:?}");
                    assert_eq!(room, layout.room, "{case}");
                    assert!(room <= wanted && bytes <= space, "{case}");
                    assert!(
                        records.iter().all(|&(before, room)| room > 0 && before + room <= MAX_PAYLOAD),
                        "{case}"
                    );
                    let roomier = space >= wanted + (wanted / 16_000 + 1) * 40;
                    assert!(!roomier || room == wanted || room == max_data, "wasteful: {case}");
                }
            }
        }
    }
}
