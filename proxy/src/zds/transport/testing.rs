//! The other side: an istio-cni that says what it is told to.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, bind, listen, sendmsg, socket_with, socketpair,
};
use tokio::net::UnixListener;

use super::{Connection, Packet, ReceiveError};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Listens as istio-cni does.
pub(in crate::zds) struct Listener(UnixListener);

impl Listener {
    pub(in crate::zds) fn bind(path: &Path) -> Self {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&socket, 10).unwrap();
        Self(UnixListener::from_std(socket.into()).unwrap())
    }

    pub(in crate::zds) async fn accept(&self) -> Peer {
        let (stream, _) = self.0.accept().await.unwrap();
        Peer(Connection(stream))
    }
}

/// Its end of a connection.
pub(in crate::zds) struct Peer(Connection);

impl Peer {
    /// Both ends of one.
    pub(in crate::zds) fn pair() -> (Self, Connection) {
        let pair: (OwnedFd, OwnedFd) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None).unwrap();
        (Self(Connection::new(pair.0).unwrap()), Connection::new(pair.1).unwrap())
    }

    pub(in crate::zds) async fn receive(&self) -> Result<Packet, ReceiveError> {
        self.0.receive().await
    }

    /// Sends a packet with any number of descriptors.
    pub(in crate::zds) fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let sent = sendmsg(self.0.0.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        assert_eq!(sent, bytes.len());
        Ok(())
    }
}
