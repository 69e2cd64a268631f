//! A proxy that does what a test says: the other side of an istio-cni.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use prost::Message;
use socket2::{Domain, SockAddr, Socket, Type};

use super::message::{Ack, Hello, Request, Response, VERSION};
use super::packet::{self, PacketError};
use crate::wait::PATIENCE;

/// A connection to an istio-cni. Calls block, for at most [`PATIENCE`].
#[derive(Debug)]
pub struct Peer(Socket);

impl Peer {
    /// Connects, and says nothing.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Says hello.
    ///
    /// # Errors
    /// The other side is gone.
    pub fn hello(&self) -> io::Result<()> {
        self.send(&Hello { version: VERSION }.encode_to_vec())
    }

    /// Answers the oldest message; empty is good.
    ///
    /// # Errors
    /// The other side is gone.
    pub fn answer(&self, error: &str) -> io::Result<()> {
        self.send(&Response { ack: Some(Ack { error: error.to_owned() }) }.encode_to_vec())
    }

    /// Sends any bytes as a packet.
    ///
    /// # Errors
    /// The other side is gone.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        packet::send(self.0.as_fd(), bytes, &[])
    }

    /// The next message and what comes along.
    ///
    /// # Errors
    /// The connection has ended, or the packet is not as it should be.
    pub fn receive(&self) -> Result<(Request, Vec<OwnedFd>), PacketError> {
        let (bytes, descriptors) = packet::receive_all(self.0.as_fd())?;
        Ok((Request::decode(&*bytes)?, descriptors))
    }

    /// Whether nothing comes for this long.
    ///
    /// # Panics
    /// The socket has no timeouts.
    pub fn hears_nothing(&self, this_long: Duration) -> bool {
        self.0.set_read_timeout(Some(this_long)).expect("a socket option");
        let heard = packet::receive_all(self.0.as_fd());
        self.0.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        matches!(heard, Err(PacketError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Says hello, and agrees to the whole snapshot: its messages in their order, as `add uid`.
    ///
    /// # Panics
    /// There is no snapshot.
    pub fn agree_to_snapshot(&self) -> Vec<String> {
        self.hello().expect("a connection");
        let mut messages = Vec::new();
        while messages.last().is_none_or(|last| last != "snapshot sent") {
            messages.push(self.agree());
        }
        messages
    }

    /// Agrees to the next message, whatever it is; tells it, as `add uid`.
    ///
    /// # Panics
    /// There is none.
    pub fn agree(&self) -> String {
        let (request, _) = self.receive().expect("a message");
        self.answer("").expect("a connection");
        request.title()
    }
}
