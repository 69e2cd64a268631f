//! What the rest of the process says to a worker.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use hbone::Secrets;
use mio::{Poll, Waker};

use super::frozen::{FrozenConnection, Given, Kept, MoveError};
use super::listeners::ListenerCopy;
use super::moving::Moved;
use super::placing::Fresh;
use super::{Listening, MAILBOX, Movable, PreparedConnection, Taken};
use crate::pod::Pod;

/// Called by the worker, on its thread, with what was asked for: must not block.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// A message to a worker.
pub enum Message {
    /// Accept from this listener, for this pod.
    Listen(Listening, TcpListener, Arc<Pod>),
    /// End everything of this pod, which was retired; then call this.
    RemovePod(Arc<Pod>, Reply<()>),
    /// A connection that was accepted elsewhere and belongs here.
    Fresh(Box<Fresh>),
    /// A connection moves here from another worker.
    Moved(Box<Moved>),
    /// Freeze connections and give them away, to another process for example: those first that have been idle for longest.
    /// An empty answer: nothing (more) can be given now.
    GiveConnections {
        /// How many at most.
        most: usize,
        /// How many sockets all of them may have. A connection that has more by itself is left out.
        descriptors: usize,
        /// Only one tunnel, the one with the fewest streams.
        canary: bool,
        /// Those whose first socket has one of these cookies stay: nobody else can run them.
        but: Arc<BTreeSet<u64>>,
        /// Gets them.
        reply: Reply<Vec<Given>>,
    },
    /// Run this connection, which nobody else has from now on.
    TakeConnection {
        /// What was prepared.
        prepared: Box<PreparedConnection>,
        /// The keys of a tunnel.
        secrets: Option<Secrets>,
        /// Hears when its first turn is over, or why it can't run. Exactly once.
        taken: Reply<Result<Taken, MoveError>>,
        /// If somebody wants to know: hears, exactly once and maybe much later, whether a tunnel's peer has answered. What is
        /// no tunnel has nothing to prove.
        proved: Option<Reply<Result<(), String>>>,
    },
    /// No tunnel comes from another process any more: who waits for one gets one dialled.
    NothingComes,
    /// Run this connection again: it was frozen in this process, and nobody else has got it.
    TakeBack(Box<FrozenConnection>, Kept),
    /// Say what could be given away now, and what not.
    CountConnections(Reply<Movable>),
    /// Give copies of the listening sockets.
    CopyListeners(Reply<io::Result<Vec<ListenerCopy>>>),
    /// Let go of the listening sockets, and accept nothing more from them; then call this. Copies of them live elsewhere, or
    /// what the kernel has queued is lost. They may come again by [`Message::Listen`].
    LetGoOfListeners {
        /// Those of the process's own pod, too.
        home: bool,
        /// Called when it is done.
        done: Reply<()>,
    },
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
