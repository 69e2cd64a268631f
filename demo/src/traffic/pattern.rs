//! The bytes that travel: deterministic, different at every position, cheap to make and to compare.
//!
//! One table of pseudo-random bytes repeats with a prime period, so that a block that is lost, doubled or moved by
//! any amount up to the period no longer fits. Each direction of each connection starts somewhere else in
//! the table, so that bytes of another connection do not fit either. Making bytes is a slice of the table and checking
//! them is a `memcmp`: both run at memory speed, far faster than any proxy.

use std::fmt;
use std::sync::LazyLock;

/// Most bytes that [`Cursor::next`] hands out at once.
pub const WINDOW: usize = 128 * 1024;

/// Which way bytes go on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    Upload,
    /// From the server to the client.
    Download,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upload => "client to server",
            Self::Download => "server to client",
        })
    }
}

/// The first byte that is not what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "wrong byte on connection {connection:#x}, {direction}, at offset {offset}: \
     expected {expected:#04x}, found {found:#04x}"
)]
pub struct Wrong {
    /// The number that the client gave the connection.
    pub connection: u64,
    /// Which way the byte travelled.
    pub direction: Direction,
    /// How many right bytes came before it in this direction.
    pub offset: u64,
    /// The byte that was sent at this offset.
    pub expected: u8,
    /// The byte that arrived.
    pub found: u8,
}

/// A place in the endless sequence that one direction of one connection carries. Sender and receiver each hold one;
/// they agree as long as they have made and checked the same number of bytes.
#[derive(Debug, Clone)]
pub struct Cursor {
    connection: u64,
    direction: Direction,
    offset: u64,
    at: usize,
}

impl Cursor {
    /// The start of the sequence of `direction` on `connection`.
    pub fn new(connection: u64, direction: Direction) -> Self {
        let seed = connection.wrapping_mul(2).wrapping_add(u64::from(direction == Direction::Download));
        let at = (scatter(seed) % PERIOD as u64) as usize;
        Self { connection, direction, offset: 0, at }
    }

    /// Bytes passed so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes to send: at most `limit`, at most [`WINDOW`], and none only for a `limit` of 0.
    pub fn next(&mut self, limit: usize) -> &'static [u8] {
        let bytes = &TABLE[self.at..][..limit.min(WINDOW)];
        self.advance(bytes.len());
        bytes
    }

    /// Compares what arrived with what was sent.
    ///
    /// # Errors
    /// The first byte that differs. The cursor then stands at that byte.
    pub fn check(&mut self, mut arrived: &[u8]) -> Result<(), Wrong> {
        while !arrived.is_empty() {
            let (now, later) = arrived.split_at(arrived.len().min(WINDOW));
            let expected = &TABLE[self.at..][..now.len()];
            if now != expected {
                return Err(self.first_difference(now, expected));
            }
            self.advance(now.len());
            arrived = later;
        }
        Ok(())
    }

    fn advance(&mut self, count: usize) {
        self.offset += count as u64;
        self.at = (self.at + count) % PERIOD;
    }

    fn first_difference(&mut self, found: &[u8], expected: &[u8]) -> Wrong {
        let right = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        self.advance(right);
        Wrong {
            connection: self.connection,
            direction: self.direction,
            offset: self.offset,
            expected: expected[right],
            found: found[right],
        }
    }
}

/// Spreads neighbouring numbers over the whole range (the SplitMix64 finaliser).
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The largest prime below 2^18: the table stays in a processor's second cache, and no power of two divides it.
const PERIOD: usize = 262_139;

/// One period and, behind it, its first bytes again, so that a window never has to wrap.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut table = vec![0; PERIOD];
    fastrand::Rng::with_seed(PERIOD as u64).fill(&mut table);
    table.extend_from_within(..WINDOW);
    table
});

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(connection: u64, direction: Direction, length: usize) -> Vec<u8> {
        let mut cursor = Cursor::new(connection, direction);
        let mut bytes = Vec::new();
        while bytes.len() < length {
            bytes.extend_from_slice(cursor.next(length - bytes.len()));
        }
        bytes
    }

    fn check(bytes: &[u8], step: usize) -> Result<u64, Wrong> {
        let mut cursor = Cursor::new(7, Direction::Upload);
        for piece in bytes.chunks(step) {
            cursor.check(piece)?;
        }
        Ok(cursor.offset())
    }

    #[test]
    fn the_period_is_prime() {
        assert!((2..=(PERIOD as f64).sqrt() as usize).all(|divisor| !PERIOD.is_multiple_of(divisor)));
    }

    #[test]
    fn what_was_sent_is_right_however_it_is_cut() {
        let sent = sequence(7, Direction::Upload, 3 * PERIOD + 11);
        for step in [1, 13, 4096, WINDOW, WINDOW + 1, 5 * WINDOW] {
            assert_eq!(check(&sent, step), Ok(sent.len() as u64), "in steps of {step}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_at_its_offset() {
        for place in [0, 1, WINDOW - 1, WINDOW, PERIOD, 2 * PERIOD + 5] {
            let mut bytes = sequence(7, Direction::Upload, 3 * PERIOD);
            bytes[place] ^= 0x10;
            let wrong = check(&bytes, 1000).expect_err("a flipped bit");
            assert_eq!((wrong.connection, wrong.offset), (7, place as u64));
            assert_eq!(wrong.expected ^ wrong.found, 0x10);
        }
    }

    #[test]
    fn lost_and_doubled_bytes_are_found_near_the_place() {
        let sent = sequence(7, Direction::Upload, 3 * PERIOD);
        for length in [1, 2, 1024, 16_384, 65_536, WINDOW, PERIOD - 1, PERIOD + 1] {
            let place = 10_000;
            let lost = [&sent[..place], &sent[place + length..]].concat();
            let doubled = [&sent[..place + length], &sent[place..]].concat();
            let wrong = check(&lost, 4096).expect_err("lost bytes");
            assert!((10_000..10_016).contains(&wrong.offset), "{length} lost: {wrong}");
            let wrong = check(&doubled, 4096).expect_err("doubled bytes");
            let found = place as u64 + length as u64;
            assert!((found..found + 16).contains(&wrong.offset), "{length} doubled: {wrong}");
        }
    }

    #[test]
    fn another_connection_and_the_other_direction_do_not_fit() {
        assert!(check(&sequence(8, Direction::Upload, 64), 64).is_err());
        assert!(check(&sequence(7, Direction::Download, 64), 64).is_err());
    }
}
