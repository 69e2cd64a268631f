//! What the rest of the process says to a worker.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use mio::{Poll, Waker};

use super::placing::Fresh;
use super::tunnel::moving::{FrozenTunnel, Kept, MoveError, Moved};
use super::{Listening, MAILBOX};
use crate::pod::Pod;

/// Called by the worker, on its thread, with what was asked for: must not block.
pub(super) type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// A message to a worker.
pub enum Message {
    /// Accept from this listener, for this pod.
    Listen(Listening, TcpListener, Arc<Pod>),
    /// End everything of this pod, which was retired; then call this.
    RemovePod(Arc<Pod>, Reply<()>),
    /// A connection that was accepted elsewhere and belongs here.
    Fresh(Box<Fresh>),
    /// A tunnel moves here.
    Moved(Box<Moved>),
    /// Freeze every tunnel that can be moved, and give them away: to another process, for example.
    GiveTunnels(Reply<Vec<(FrozenTunnel, Kept)>>),
    /// Run this tunnel, and say whether it does.
    TakeTunnel(Box<FrozenTunnel>, Reply<Result<(), MoveError>>),
    /// The certificate that the tunnel with this key waits for has come, or will not.
    Wake(usize),
    /// The mesh has changed: what that means for live connections.
    Recheck,
    /// Close the listeners, once all that the kernel had completed is accepted; then call this.
    StopAccepting(Reply<()>),
    /// Send GOAWAY to the peers that dialled us.
    TellPeers,
    /// End every connection, for this reason.
    CutAll(Arc<str>),
    /// End the thread.
    Exit,
}

/// The sending end: any number of them, for any thread.
#[derive(Clone)]
pub struct Handle {
    sender: Sender<Message>,
    waker: Arc<Waker>,
}

impl Handle {
    /// Sends a message and wakes the worker. Never blocks. A worker that has ended doesn't care any more.
    pub fn post(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

/// The receiving end, with the event queue that it wakes.
pub struct Mailbox {
    receiver: Receiver<Message>,
    poll: Option<Poll>,
}

impl Mailbox {
    /// A mailbox and a handle to it.
    ///
    /// # Errors
    /// If the kernel gives no event queue.
    pub fn new() -> io::Result<(Handle, Self)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), MAILBOX)?);
        let (sender, receiver) = mpsc::channel();
        Ok((Handle { sender, waker }, Self { receiver, poll: Some(poll) }))
    }

    /// The event queue, for the worker that owns the mailbox.
    pub(super) fn poll(&mut self) -> io::Result<Poll> {
        self.poll.take().ok_or_else(|| io::Error::other("the mailbox has a worker already"))
    }

    pub(super) fn take(&self) -> Option<Message> {
        self.receiver.try_recv().ok()
    }
}
