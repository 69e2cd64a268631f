//! The sender's side.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{BATCH, Head, PIECE, PassingError, ready};

/// Sends one record over a blocking socket.
///
/// # Errors
///
/// [`PassingError`]; with anything but a record beyond the limits the connection is of no more use.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), PassingError> {
    if Outgoing::new(bytes, descriptors)?.write(socket)? { Ok(()) } else { Err(PassingError::NotReady) }
}

/// A record on its way out, for sockets that do not block.
#[derive(Debug)]
pub struct Outgoing<'a> {
    head: [u8; Head::LEN],
    head_sent: usize,
    bytes: &'a [u8],
    descriptors: &'a [BorrowedFd<'a>],
}

impl<'a> Outgoing<'a> {
    /// A record of which nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`PassingError::RecordTooLarge`] or [`PassingError::TooManyDescriptors`].
    pub fn new(bytes: &'a [u8], descriptors: &'a [BorrowedFd<'a>]) -> Result<Self, PassingError> {
        let head = Head::new(bytes.len(), descriptors.len())?.encode();
        Ok(Self { head, head_sent: 0, bytes, descriptors })
    }

    /// Sends what the socket takes: `true` when the record is sent to its end, `false` when the socket takes no more.
    ///
    /// # Errors
    ///
    /// [`PassingError`]; only after [`PassingError::TooManyInFlight`] it makes sense to go on.
    pub fn write(&mut self, socket: impl AsFd) -> Result<bool, PassingError> {
        let socket = socket.as_fd();
        while self.head_sent < Head::LEN || !self.bytes.is_empty() {
            let piece = &self.bytes[..self.bytes.len().min(PIECE - Head::LEN)];
            let slices = [IoSlice::new(&self.head[self.head_sent..]), IoSlice::new(piece)];
            let Some(sent) = message(socket, &slices, &[])? else { return Ok(false) };
            let of_head = sent.min(Head::LEN - self.head_sent);
            self.head_sent += of_head;
            self.bytes = &self.bytes[sent - of_head..];
        }
        while !self.descriptors.is_empty() {
            let (batch, rest) = self.descriptors.split_at(self.descriptors.len().min(BATCH));
            if message(socket, &[IoSlice::new(&[0])], batch)?.is_none() {
                return Ok(false);
            }
            self.descriptors = rest;
        }
        Ok(true)
    }
}

/// Sends one message: the count of its bytes that were taken, `None` if the socket was not ready.
fn message(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
) -> Result<Option<usize>, PassingError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(fits, "the space is made for a whole batch");
    }
    // Without NOSIGNAL a peer that is gone would kill this process by SIGPIPE.
    ready(|| sendmsg(socket, slices, &mut control, SendFlags::NOSIGNAL))
}
