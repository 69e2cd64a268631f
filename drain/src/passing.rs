//! Records with file descriptors, passed between processes over a Unix stream socket.
//!
//! A record is any number of bytes with any number of descriptors, up to [`MAX_BYTES`] and [`MAX_DESCRIPTORS`]. On the
//! wire:
//!
//! ```text
//!   head          count of bytes, count of descriptors: 32 bits each, little endian
//!   bytes         in pieces of at most 64 KiB
//!   descriptors   one zero byte for every 64 of them (and for the rest), which carries them (SCM_RIGHTS, unix(7))
//! ```
//!
//! So each descriptor arrives with everything known about it, and is in flight for as short a time as can be.
//! The sender closes nothing: its own copies stay open whatever happens. The receiver marks all of them close-on-exec,
//! and closes what it got if the record fails.
//!
//! An error (other than [`PassingError::RecordTooLarge`] and [`PassingError::TooManyDescriptors`] on the sender's side,
//! which precede the first byte) leaves the two ends in the middle of a record: the connection is of no more use.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

pub use incoming::{Incoming, receive};
pub use outgoing::{Outgoing, send};

mod incoming;
mod outgoing;

/// The most bytes that a record may have: 64 MiB.
pub const MAX_BYTES: usize = 64 << 20;

/// The most descriptors that a record may have.
pub const MAX_DESCRIPTORS: usize = 4096;

/// What was received: bytes, and descriptors in the order in which they were given.
#[derive(Debug, Default)]
pub struct Record {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The receiver's own copies of the descriptors, all close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a record could not be passed.
#[derive(Debug, thiserror::Error)]
pub enum PassingError {
    /// More than [`MAX_BYTES`]: refused before it is sent, or announced by the other side.
    #[error("a record of {bytes} bytes is too large, {MAX_BYTES} are allowed")]
    RecordTooLarge {
        /// How many bytes the record has.
        bytes: usize,
    },
    /// More than [`MAX_DESCRIPTORS`]: refused before it is sent, or announced by the other side.
    #[error("a record with {count} descriptors has too many, {MAX_DESCRIPTORS} are allowed")]
    TooManyDescriptors {
        /// How many descriptors the record has.
        count: usize,
    },
    /// The other side closed the connection: for a receiver, between two records.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side closed the connection, or died, in the middle of a record.
    #[error("the record broke off: {bytes} bytes and {descriptors} descriptors are missing")]
    BrokenOff {
        /// Bytes of the record that never came (counting the head's, if it is not whole).
        bytes: usize,
        /// Descriptors of the record that never came.
        descriptors: usize,
    },
    /// This process has no room for so many descriptors (`RLIMIT_NOFILE`): the kernel closed those that did not fit.
    #[error("no room for {expected} descriptors in this process, only {got} fitted")]
    NoRoom {
        /// How many the message carried.
        expected: usize,
        /// How many of them fitted.
        got: usize,
    },
    /// The other side breaks the format: a message carries another number of descriptors than it should.
    #[error("a message carried {got} descriptors instead of {expected}")]
    WrongCount {
        /// How many the message should have carried.
        expected: usize,
        /// How many it did carry; at least so many, where it should have been none.
        got: usize,
    },
    /// The kernel refuses to keep so many descriptors in flight until the receiver has taken some (ETOOMANYREFS;
    /// processes with CAP_SYS_ADMIN or CAP_SYS_RESOURCE are exempt). Nothing is lost: an [`Outgoing`] may go on later.
    #[error("too many descriptors are in flight")]
    TooManyInFlight,
    /// The socket does not block, or has a timeout, and it was not ready: only from [`send`] and [`receive`].
    #[error("the socket was not ready in time")]
    NotReady,
    /// The system call failed in another way.
    #[error("the socket failed: {0}")]
    Socket(#[from] Errno),
}

/// The effective user id of the process at the other end of a connected Unix socket, at the time when it connected
/// (`SO_PEERCRED`, unix(7)).
///
/// # Errors
///
/// What the system call says, for instance that this is no Unix socket.
pub fn peer_uid(socket: impl AsFd) -> Result<u32, PassingError> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    bytes: usize,
    descriptors: usize,
}

impl Head {
    const LEN: usize = 8;

    /// Checks the limits, for the sender and the receiver alike.
    fn new(bytes: usize, descriptors: usize) -> Result<Self, PassingError> {
        if bytes > MAX_BYTES {
            return Err(PassingError::RecordTooLarge { bytes });
        }
        if descriptors > MAX_DESCRIPTORS {
            return Err(PassingError::TooManyDescriptors { count: descriptors });
        }
        Ok(Self { bytes, descriptors })
    }

    fn encode(self) -> [u8; Self::LEN] {
        // Both are below the limits, far below 2^32.
        let [bytes, descriptors] = [self.bytes, self.descriptors].map(|count| (count as u32).to_le_bytes());
        let mut head = [0; Self::LEN];
        head[..4].copy_from_slice(&bytes);
        head[4..].copy_from_slice(&descriptors);
        head
    }

    fn decode(head: [u8; Self::LEN]) -> Result<Self, PassingError> {
        let [a, b, c, d, e, f, g, h] = head;
        let [bytes, descriptors] =
            [[a, b, c, d], [e, f, g, h]].map(|count| u32::from_le_bytes(count) as usize);
        Self::new(bytes, descriptors)
    }
}

/// Bytes in one message; also how much room the receiver makes ahead of what has come.
const PIECE: usize = 64 << 10;

/// Descriptors in one message. The kernel's limit is 253 (unix(7)); the distance costs nothing.
const BATCH: usize = 64;

/// Retries what a signal interrupted; `None` if the socket is not ready.
fn ready<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<Option<T>, PassingError> {
    loop {
        match call() {
            Ok(value) => return Ok(Some(value)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::TOOMANYREFS) => return Err(PassingError::TooManyInFlight),
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(PassingError::Closed),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
