//! Packets with at most one file descriptor each, over a Unix socket of type `SOCK_SEQPACKET` (unix(7)).
//!
//! Every descriptor that arrives is owned at once: whatever else is wrong with its packet, it is closed.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recv, recvmsg, send, socket_with,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Names are below 256 bytes each, a whole message is below 1 KiB.
const MAX_PACKET: usize = 4_096;

/// A connection to istio-cni. After an error it is of no more use.
///
/// The stream is only what waits for the socket: reading and writing are system calls of our own, which keep packets apart.
#[derive(Debug)]
pub(super) struct Connection(UnixStream);

/// What came in one packet.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptor: Option<OwnedFd>,
}

/// Why there is no packet.
#[derive(thiserror::Error, Debug)]
pub(super) enum ReceiveError {
    /// The other side is gone. (An empty packet looks the same.)
    #[error("istio-cni closed the connection")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// There was one that breaks the protocol.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// What is wrong with a packet.
#[derive(thiserror::Error, Debug, PartialEq, Eq)]
pub(super) enum PacketError {
    #[error("a packet is larger than {MAX_PACKET} bytes")]
    Truncated,
    #[error(
        "a packet came without all its descriptors: there is no room for them, or they may not be passed to us"
    )]
    DescriptorsLost,
    #[error("a packet came with {0} descriptors")]
    TooManyDescriptors(usize),
}

impl Connection {
    /// Connects to the socket at this path, without waiting.
    ///
    /// # Errors
    /// If nobody listens there, or `EAGAIN` if too many wait for being accepted.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Around a connected socket that doesn't block.
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    /// Around a connected socket that another process gives us.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Self::new(socket)
    }

    /// The socket, which nobody waits for any more. What has not been read stays in it.
    ///
    /// # Errors
    /// If the event loop can't let go of it; then it is closed.
    pub(super) fn into_socket(self) -> io::Result<OwnedFd> {
        Ok(self.0.into_std()?.into())
    }

    /// Whether something can be read at once: a packet, or the end.
    pub(super) fn is_readable(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !matches!(recv(&self.0, &mut [0_u8], flags), Err(Errno::AGAIN))
    }

    /// The next packet. When the future is dropped, none is lost.
    pub(super) async fn receive(&self) -> Result<Packet, ReceiveError> {
        let mut buffer = [0; MAX_PACKET];
        let socket = self.0.as_fd();
        let received = self.0.async_io(Interest::READABLE, || Ok(receive(socket, &mut buffer)?));
        let Received { bytes, flags, mut descriptors } = received.await?;
        match descriptors.len() {
            _ if flags.contains(ReturnFlags::CTRUNC) => Err(PacketError::DescriptorsLost.into()),
            _ if flags.contains(ReturnFlags::TRUNC) => Err(PacketError::Truncated.into()),
            _ if bytes == 0 => Err(ReceiveError::Closed),
            0 | 1 => Ok(Packet { bytes: buffer[..bytes].to_vec(), descriptor: descriptors.pop() }),
            count => Err(PacketError::TooManyDescriptors(count).into()),
        }
    }

    /// Sends a packet. It does not wait for room: who takes turns always finds some.
    ///
    /// # Errors
    /// If the other side is gone, or `EAGAIN` if it reads nothing.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // Without NOSIGNAL a peer that is gone would kill this process by SIGPIPE.
        send(&self.0, bytes, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

struct Received {
    bytes: usize,
    flags: ReturnFlags,
    descriptors: Vec<OwnedFd>,
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(Received { bytes: received.bytes, flags: received.flags, descriptors })
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
