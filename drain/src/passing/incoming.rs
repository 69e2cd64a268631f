//! The receiver's side.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use super::{BATCH, Head, PIECE, PassingError, Record, ready};

/// Receives one record over a blocking socket.
///
/// # Errors
///
/// [`PassingError::Closed`] if there are no more records; after any other error, too, the connection is of no more use.
pub fn receive(socket: impl AsFd) -> Result<Record, PassingError> {
    Incoming::new().read(socket)?.ok_or(PassingError::NotReady)
}

/// A record on its way in, for sockets that do not block.
///
/// It never reads beyond the end of its record. Dropping it closes the descriptors that it holds.
#[derive(Debug, Default)]
pub struct Incoming {
    state: State,
}

impl Incoming {
    /// At the beginning of a record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what there is: the record once it is whole, `None` while the socket has no more. After a record it is
    /// ready for the next one.
    ///
    /// # Errors
    ///
    /// [`PassingError`]; the descriptors received so far are closed, and the connection is of no more use.
    pub fn read(&mut self, socket: impl AsFd) -> Result<Option<Record>, PassingError> {
        let result = self.advance(socket.as_fd());
        if !matches!(result, Ok(None)) {
            self.state = State::default();
        }
        result
    }

    fn advance(&mut self, socket: BorrowedFd<'_>) -> Result<Option<Record>, PassingError> {
        loop {
            match &mut self.state {
                State::Head { head, have } => {
                    let Some(part) = message(socket, &mut head[*have..], 0)? else { return Ok(None) };
                    *have += part.bytes;
                    match (part.bytes, *have) {
                        (0, 0) => return Err(PassingError::Closed),
                        (0, have) => {
                            let bytes = Head::LEN - have;
                            return Err(PassingError::BrokenOff { bytes, descriptors: 0 });
                        }
                        (_, Head::LEN) => {
                            let head = Head::decode(*head)?;
                            self.state = State::Body { head, have: 0, record: Record::default() };
                        }
                        _ => {}
                    }
                }
                State::Body { head, have, record } => {
                    let bytes = head.bytes - *have;
                    let descriptors = head.descriptors - record.descriptors.len();
                    let part = if bytes > 0 {
                        // Room for one piece at a time: memory follows what really came, not what was announced.
                        record.bytes.resize(*have + bytes.min(PIECE), 0);
                        message(socket, &mut record.bytes[*have..], 0)?
                    } else if descriptors > 0 {
                        message(socket, &mut [0], descriptors.min(BATCH))?
                    } else {
                        return Ok(Some(std::mem::take(record)));
                    };
                    match part {
                        None => return Ok(None),
                        Some(Part { bytes: 0, .. }) => {
                            return Err(PassingError::BrokenOff { bytes, descriptors });
                        }
                        Some(part) if bytes > 0 => *have += part.bytes,
                        Some(part) => record.descriptors.extend(part.descriptors),
                    }
                }
            }
        }
    }
}

/// ```text
///   Head ──8 bytes──▶ Body ──all bytes, then all descriptors──▶ the record; then Head again
/// ```
#[derive(Debug)]
enum State {
    Head {
        head: [u8; Head::LEN],
        have: usize,
    },
    /// `have` counts bytes that have come; beyond them `record.bytes` holds zeroes, as room for the next piece.
    Body {
        head: Head,
        have: usize,
        record: Record,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Head { head: [0; Head::LEN], have: 0 }
    }
}

/// What one system call yields; 0 bytes mean that the other side is gone.
struct Part {
    bytes: usize,
    descriptors: Vec<OwnedFd>,
}

/// Receives one message or a part of it, with exactly `expected` descriptors; `None` if the socket is not ready.
fn message(socket: BorrowedFd<'_>, buffer: &mut [u8], expected: usize) -> Result<Option<Part>, PassingError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = ready(|| {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => Ok((received.bytes, received.flags.contains(ReturnFlags::CTRUNC))),
            // It died without having read all that we sent. What it sent before has been read by now.
            Err(Errno::CONNRESET) => Ok((0, false)),
            Err(error) => Err(error),
        }
    })?;
    let Some((bytes, truncated)) = received else { return Ok(None) };

    // Owned from here on: any return closes them.
    let mut descriptors = Vec::new();
    for control_message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = control_message {
            descriptors.extend(rights);
        }
    }
    match descriptors.len() {
        got if truncated && got <= expected => Err(PassingError::NoRoom { expected, got }),
        got if truncated || (got != expected && bytes > 0) => Err(PassingError::WrongCount { expected, got }),
        _ => Ok(Some(Part { bytes, descriptors })),
    }
}
