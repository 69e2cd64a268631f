//! Where received bytes are put and opened.

use std::ops::Range;

use super::Connection;

/// A worker's receive scratch, shared by all its connections one after another. A connection keeps only what is left
/// over from a turn.
pub struct Inbox {
    pub(super) bytes: Vec<u8>,
}

impl Inbox {
    /// Scratch of `n` bytes: the most that one turn of a connection reads. At least 64 KiB.
    #[must_use]
    pub fn with_capacity(n: usize) -> Self {
        Self { bytes: vec![0; n.max(LEAST)] }
    }

    /// Where bytes from the connection's socket go: behind the room for what it carries. Never empty.
    pub fn space(&mut self, connection: &Connection) -> &mut [u8] {
        let carried = connection.carry.len();
        self.reserve(carried + LEAST / 2);
        &mut self.bytes[carried..]
    }

    /// Payload that an [`Event::Data`](crate::Event::Data) of the last receive points to; empty if it points beyond.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Only what comes right behind a handshake can be larger than a record.
    pub(super) fn reserve(&mut self, n: usize) {
        if self.bytes.len() < n {
            self.bytes.resize(n, 0);
        }
    }
}

/// A few records, however small the caller wishes the scratch to be.
const LEAST: usize = 64 << 10;
