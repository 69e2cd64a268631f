//! The socket of a session, as something that can be waited for.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use drain::handover::channel::{Channel, ReceiveError, Received, SendError};
use drain::handover::message::Message;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Waits until a socket is ready. It holds a copy of the descriptor, of a type that the runtime knows: what kind of socket it is makes
/// no difference to the kernel's event queue. Reading and writing are done elsewhere.
#[derive(Debug)]
pub struct Waiter(UnixStream);

impl Waiter {
    /// For this socket, which doesn't block.
    ///
    /// # Errors
    /// If descriptors have run out, or outside of a runtime.
    pub fn new(socket: impl AsFd) -> io::Result<Self> {
        let copy = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(UnixStream::from_std(copy.into())?))
    }

    /// Returns when it may be read.
    pub async fn readable(&self) {
        // An error is found by whoever reads.
        let _ = self.0.readable().await;
    }

    /// Reads by `read`; None if there is nothing now, so that [`Waiter::readable`] waits for more.
    pub fn read<T>(&self, read: impl FnOnce() -> Option<T>) -> Option<T> {
        let read = || read().ok_or_else(|| ErrorKind::WouldBlock.into());
        self.0.try_io(Interest::READABLE, read).ok()
    }
}

/// A channel that can be waited for.
#[derive(Debug)]
pub struct Line {
    channel: Channel,
    waiter: Waiter,
}

impl Line {
    /// Around a channel.
    ///
    /// # Errors
    /// As [`Waiter::new`].
    pub fn new(channel: Channel) -> io::Result<Self> {
        let waiter = Waiter::new(&channel)?;
        Ok(Self { channel, waiter })
    }

    /// The channel, for sending.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends a message that carries nothing.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, message: &Message) -> Result<(), SendError> {
        self.channel.send(message, &[])
    }

    /// What has come, if there is something.
    pub fn try_receive(&self) -> Option<Result<Received, ReceiveError>> {
        self.waiter.read(|| self.receive_now())
    }

    /// The same, whether or not the runtime has heard of it yet: for what is left when the other side is known to be gone.
    pub fn receive_now(&self) -> Option<Result<Received, ReceiveError>> {
        match self.channel.receive() {
            Err(ReceiveError::NotReady) => None,
            received => Some(received),
        }
    }

    /// Returns when there may be something.
    pub async fn readable(&self) {
        self.waiter.readable().await;
    }

    /// Returns when messages that were not taken may be sent again.
    pub async fn writable(&self) {
        // An error is found by whoever writes.
        let _ = self.waiter.0.ready(Interest::WRITABLE).await;
        let _ = self.waiter.0.try_io(Interest::WRITABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
    }
}
