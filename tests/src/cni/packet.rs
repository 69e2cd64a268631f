//! Packets over a connected socket (`SOCK_SEQPACKET`), with file descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The largest packet that istio-cni and the proxies read, in bytes.
pub(super) const LARGEST: usize = 1024;

/// Descriptors that a test sends or takes with one packet at most.
const DESCRIPTORS: usize = 4;

/// Why there is no packet.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The other side is gone.
    #[error("the connection has ended")]
    Ended,
    /// More bytes than [`LARGEST`], or descriptors for which there is no room.
    #[error("truncated message")]
    Truncated,
    /// The bytes are no message.
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Nothing came in time.
    #[error("timed out waiting for an answer")]
    Late,
    /// The system call failed.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Sends one packet; [`io::ErrorKind::WouldBlock`] if the socket does not block and is full.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "at most {DESCRIPTORS} descriptors go with a packet");
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one packet without descriptors, as istio-cni does: it has no room for any.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Vec<u8>, PacketError> {
    receive_into(socket, &mut RecvAncillaryBuffer::default())
}

/// Receives one packet with its descriptors.
pub(super) fn receive_all(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<OwnedFd>), PacketError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let bytes = receive_into(socket, &mut control)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((bytes, descriptors))
}

fn receive_into(
    socket: BorrowedFd<'_>,
    control: &mut RecvAncillaryBuffer<'_>,
) -> Result<Vec<u8>, PacketError> {
    let mut bytes = vec![0; LARGEST];
    let received = loop {
        match recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            // A connection that its other side leaves with something unread is reset.
            Err(Errno::CONNRESET) => return Err(PacketError::Ended),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    };
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(PacketError::Truncated);
    }
    if received.bytes == 0 {
        return Err(PacketError::Ended);
    }
    bytes.truncate(received.bytes);
    Ok(bytes)
}
