//! One connection seen from either end: what is sent, what must arrive, and what goes wrong.
//!
//! Every connection opens with a head of 17 bytes from the client:
//!
//! ```text
//! +---------+------------------------+------------------------+
//! | pattern | connection number (u64)| length (u64)           |   integers are big-endian
//! +---------+------------------------+------------------------+
//! ```
//!
//! | pattern | then |
//! |---|---|
//! | `B` bulk | both sides send blocks (`length u32, offset u64`, payload) at once; the client ends with a block of length 0 and a FIN, then the server does |
//! | `R` requests | client: `request length u32, answer length u32`, payload; server: payload; again until the client's FIN |
//! | `H` half-close, client first | client: `length` bytes, CRC-32, FIN; *after that* the server the same |
//! | `h` half-close, server first | server: `length` bytes, CRC-32, FIN; *after that* the client the same |
//!
//! Payload is that of [`Cursor`], so every byte has one right value. The offset in a bulk block tells a lost block from a
//! damaged one; the CRC-32 of the half-close patterns is computed over the bytes as sent, and guards the comparison itself.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::pattern::{Cursor, Direction, WINDOW, Wrong};
use super::socks5::Socks5Error;
use super::tally::{LongestWait, Tally};

/// Silence after which a connection counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why a connection did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// A byte arrived that was not sent.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// The connection could not be opened.
    #[error("connection {connection:#x} could not be opened: {source}")]
    Connect {
        /// The number that the client gave it.
        connection: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The SOCKS5 proxy refused or did not answer as RFC 1928 says.
    #[error("connection {connection:#x} could not be opened: {source}")]
    Socks5 {
        /// The number that the client gave it.
        connection: u64,
        /// What the proxy said.
        source: Socks5Error,
    },
    /// The connection broke.
    #[error("connection {connection:#x} broke {place}: {source}")]
    Broke {
        /// The number that the client gave it.
        connection: u64,
        /// Where in the conversation.
        place: Place,
        /// What the system said.
        source: io::Error,
    },
    /// The other side ended before everything had arrived.
    #[error("connection {connection:#x} ended too early {place}")]
    Early {
        /// The number that the client gave it.
        connection: u64,
        /// Where in the conversation.
        place: Place,
    },
    /// Nothing moved for [`PATIENCE`].
    #[error("connection {connection:#x} stood still for {} s {place}", PATIENCE.as_secs())]
    Silent {
        /// The number that the client gave it.
        connection: u64,
        /// Where in the conversation.
        place: Place,
    },
    /// Something that the form of the conversation forbids.
    #[error("connection {connection:#x}, {place}: {what}")]
    Malformed {
        /// The number that the client gave it.
        connection: u64,
        /// Where in the conversation.
        place: Place,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl ConversationError {
    /// What it means for the connection.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Wrong(_) | Self::Malformed { .. } => Failure::Wrong,
            Self::Connect { .. } | Self::Socks5 { .. } => Failure::Refused,
            Self::Broke { .. } => Failure::Reset,
            Self::Early { .. } => Failure::Early,
            Self::Silent { .. } => Failure::Silent,
        }
    }
}

/// What happened to a connection that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It could not be opened.
    Refused,
    /// It broke, mostly by a reset.
    Reset,
    /// The other side ended before everything had arrived.
    Early,
    /// Nothing moved for [`PATIENCE`].
    Silent,
    /// A byte was wrong, lost or doubled.
    Wrong,
}

/// A place in a conversation, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which way the bytes went.
    pub direction: Direction,
    /// Payload bytes before this place.
    pub offset: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({}, after {} bytes)", self.direction, self.offset)
    }
}

/// What a connection is for; its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Blocks both ways at once, as fast as they go.
    Bulk,
    /// Requests and answers.
    Requests,
    /// The client sends all and ends its side, then the server does.
    HalfCloseClientFirst,
    /// The server sends all and ends its side, then the client does.
    HalfCloseServerFirst,
}

/// The first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the connection is for.
    pub pattern: Pattern,
    /// A number of the client's choice; it decides every payload byte.
    pub connection: u64,
    /// Payload bytes each way; only the half-close patterns look at it.
    pub length: u64,
}

impl Head {
    /// Bytes of an encoded head.
    pub const SIZE: usize = 17;

    /// The head as it travels.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = match self.pattern {
            Pattern::Bulk => b'B',
            Pattern::Requests => b'R',
            Pattern::HalfCloseClientFirst => b'H',
            Pattern::HalfCloseServerFirst => b'h',
        };
        bytes[1..9].copy_from_slice(&self.connection.to_be_bytes());
        bytes[9..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads a head; `None` if its first byte names no pattern.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let [first, connection @ .., _, _, _, _, _, _, _, _] = *bytes;
        let [_, _, _, _, _, _, _, _, _, length @ ..] = *bytes;
        let pattern = match first {
            b'B' => Pattern::Bulk,
            b'R' => Pattern::Requests,
            b'H' => Pattern::HalfCloseClientFirst,
            b'h' => Pattern::HalfCloseServerFirst,
            _ => return None,
        };
        Some(Self { pattern, connection: u64::from_be_bytes(connection), length: u64::from_be_bytes(length) })
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct Sender<'t, W> {
    writer: W,
    end: End<'t>,
    block: Vec<u8>,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Receiver<'t, R> {
    reader: R,
    end: End<'t>,
    buffer: Vec<u8>,
}

/// What both halves know.
#[derive(Debug)]
struct End<'t> {
    tally: &'t Tally,
    connection: u64,
    direction: Direction,
    cursor: Cursor,
    longest_wait: LongestWait,
}

impl<'t, W: AsyncWrite + Unpin> Sender<'t, W> {
    /// Sends the sequence of `direction` on `connection` to `writer`.
    pub fn new(writer: W, connection: u64, direction: Direction, tally: &'t Tally) -> Self {
        Self { writer, end: End::new(connection, direction, tally), block: Vec::new() }
    }

    /// Sends bytes that are no payload.
    pub async fn control(&mut self, bytes: &[u8]) -> Result<(), ConversationError> {
        self.end.bounded(self.writer.write_all(bytes)).await
    }

    /// Sends one bulk block of `length` payload bytes (at most [`WINDOW`]); 0 is the last one.
    pub async fn block(&mut self, length: usize) -> Result<(), ConversationError> {
        let offset = self.end.cursor.offset();
        let payload = self.end.cursor.next(length);
        let announced = u32::try_from(payload.len()).expect("a window fits into 32 bits");
        self.block.clear();
        self.block.extend_from_slice(&announced.to_be_bytes());
        self.block.extend_from_slice(&offset.to_be_bytes());
        self.block.extend_from_slice(payload);
        self.end.bounded(self.writer.write_all(&self.block)).await?;
        self.end.tally.sent(payload.len());
        Ok(())
    }

    /// Sends `head` and `length` payload bytes in one piece if they fit into one window.
    pub async fn message(&mut self, head: &[u8], length: u64) -> Result<(), ConversationError> {
        self.block.clear();
        self.block.extend_from_slice(head);
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        loop {
            let payload = self.end.cursor.next(left);
            self.block.extend_from_slice(payload);
            left -= payload.len();
            self.end.bounded(self.writer.write_all(&self.block)).await?;
            self.end.tally.sent(payload.len());
            self.block.clear();
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Sends `length` payload bytes, their CRC-32 and a FIN.
    pub async fn all_of(&mut self, length: u64) -> Result<(), ConversationError> {
        let mut digest = crc32fast::Hasher::new();
        let mut left = length;
        while left > 0 {
            let payload = self.end.cursor.next(usize::try_from(left).unwrap_or(usize::MAX));
            digest.update(payload);
            left -= payload.len() as u64;
            self.end.bounded(self.writer.write_all(payload)).await?;
            self.end.tally.sent(payload.len());
        }
        self.control(&digest.finalize().to_be_bytes()).await?;
        self.finish().await
    }

    /// Ends this direction with a FIN.
    pub async fn finish(&mut self) -> Result<(), ConversationError> {
        self.end.bounded(self.writer.shutdown()).await
    }
}

impl<'t, R: AsyncRead + Unpin> Receiver<'t, R> {
    /// Expects the sequence of `direction` on `connection` from `reader`.
    pub fn new(reader: R, connection: u64, direction: Direction, tally: &'t Tally) -> Self {
        Self { reader, end: End::new(connection, direction, tally), buffer: vec![0; BUFFER] }
    }

    /// Reads `N` bytes that are no payload, however long they take to begin; `None` if the sender ended instead.
    pub async fn control<const N: usize>(&mut self) -> Result<Option<[u8; N]>, ConversationError> {
        let mut bytes = [0; N];
        let first = self.reader.read(&mut bytes).await;
        let count = first.map_err(|source| self.end.broke(source))?;
        if count == 0 {
            return Ok(None);
        }
        self.end.bounded(self.reader.read_exact(&mut bytes[count..])).await?;
        Ok(Some(bytes))
    }

    /// As [`Receiver::control`], but within [`PATIENCE`] and with no end allowed.
    pub async fn expected<const N: usize>(&mut self) -> Result<[u8; N], ConversationError> {
        let place = self.end.place();
        let connection = self.end.connection;
        let begun = Instant::now();
        let bytes = timeout(PATIENCE, self.control())
            .await
            .map_err(|_| ConversationError::Silent { connection, place })??;
        self.end.waited(begun);
        bytes.ok_or(ConversationError::Early { connection, place })
    }

    /// Reads and checks a bulk block; `false` if it was the last one.
    pub async fn block(&mut self) -> Result<bool, ConversationError> {
        let head: [u8; 12] = self.expected().await?;
        let [l0, l1, l2, l3, offset @ ..] = head;
        let length = u64::from(u32::from_be_bytes([l0, l1, l2, l3]));
        if length > WINDOW as u64 {
            return Err(self.malformed("a block is longer than any that is sent"));
        }
        if u64::from_be_bytes(offset) != self.end.cursor.offset() {
            return Err(self.malformed("a block is not the next one: blocks were lost or doubled"));
        }
        self.payload(length).await?;
        Ok(length > 0)
    }

    /// Reads and checks `length` payload bytes.
    pub async fn payload(&mut self, length: u64) -> Result<(), ConversationError> {
        self.payload_with(length, |_| {}).await
    }

    /// Reads and checks `length` payload bytes, their CRC-32 and the FIN.
    pub async fn all_of(&mut self, length: u64) -> Result<(), ConversationError> {
        let mut digest = crc32fast::Hasher::new();
        self.payload_with(length, |bytes| digest.update(bytes)).await?;
        if u32::from_be_bytes(self.expected().await?) != digest.finalize() {
            return Err(self.malformed("the CRC-32 does not fit the bytes"));
        }
        self.ended().await
    }

    /// Expects the end of this direction now.
    pub async fn ended(&mut self) -> Result<(), ConversationError> {
        match self.end.bounded(self.reader.read(&mut self.buffer[..1])).await? {
            0 => Ok(()),
            _ => Err(self.malformed("bytes came after the end")),
        }
    }

    /// An error about what was read.
    pub fn malformed(&self, what: &'static str) -> ConversationError {
        ConversationError::Malformed { connection: self.end.connection, place: self.end.place(), what }
    }

    async fn payload_with(
        &mut self,
        length: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), ConversationError> {
        let mut left = length;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = self.end.bounded(self.reader.read(&mut self.buffer[..room])).await?;
            if count == 0 {
                return Err(self.end.early());
            }
            let arrived = &self.buffer[..count];
            self.end.cursor.check(arrived)?;
            self.end.tally.checked(count);
            each(arrived);
            left -= count as u64;
        }
        Ok(())
    }
}

/// Receive buffer: one read takes what a proxy writes in one turn.
const BUFFER: usize = 64 * 1024;

impl<'t> End<'t> {
    fn new(connection: u64, direction: Direction, tally: &'t Tally) -> Self {
        let (cursor, longest_wait) = (Cursor::new(connection, direction), LongestWait::default());
        Self { tally, connection, direction, cursor, longest_wait }
    }

    async fn bounded<T>(
        &mut self,
        step: impl Future<Output = io::Result<T>>,
    ) -> Result<T, ConversationError> {
        let begun = Instant::now();
        let done = timeout(PATIENCE, step).await;
        self.waited(begun);
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.early()),
            Ok(Err(source)) => Err(self.broke(source)),
            Err(_) => Err(ConversationError::Silent { connection: self.connection, place: self.place() }),
        }
    }

    fn waited(&mut self, since: Instant) {
        self.tally.waited(self.connection, since.elapsed(), &mut self.longest_wait);
    }

    fn place(&self) -> Place {
        Place { direction: self.direction, offset: self.cursor.offset() }
    }

    fn early(&self) -> ConversationError {
        ConversationError::Early { connection: self.connection, place: self.place() }
    }

    fn broke(&self, source: io::Error) -> ConversationError {
        ConversationError::Broke { connection: self.connection, place: self.place(), source }
    }
}
