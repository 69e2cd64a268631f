//! What waits to be sent to the other side, in order.
//!
//! A commit in the queue is not sent: it can still be taken out ([`Outgoing::withdraw`]). Once the kernel has taken it, whole, it is
//! the other side's ([`Flushed::sent`] says so).

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use drain::handover::channel::{Channel, SendError};
use drain::handover::message::{Message, Piece, pieces};
use drain::handover::session::Offer;

use super::parts::Part;
use super::pause;

/// See the module.
#[derive(Default)]
pub struct Outgoing(VecDeque<Entry>);

struct Entry {
    message: Message,
    descriptors: Descriptors,
    commits: Option<Commits>,
}

/// What travels with a message. The kernel duplicates; ours stay ours.
pub enum Descriptors {
    /// Nothing.
    None,
    /// These.
    Some(Vec<OwnedFd>),
    /// Some of a connection's.
    Sockets(Arc<Vec<OwnedFd>>, Range<usize>),
    /// Those of a part of the role.
    Part(Arc<Part>, Range<usize>),
}

/// What a message makes the other side's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    /// The role.
    Role,
    /// A connection.
    Connection(Offer),
}

/// How far the queue came.
#[derive(Debug, Default)]
pub struct Flushed {
    /// What was committed.
    pub sent: Vec<Commits>,
    /// The other side is gone, or can't be spoken to: nothing more will be sent.
    pub failed: Option<SendError>,
}

impl Outgoing {
    /// Puts a message at the end.
    pub fn push(&mut self, message: Message, descriptors: Descriptors) {
        self.0.push_back(Entry { message, descriptors, commits: None });
    }

    /// The same for one that commits something.
    pub fn push_commit(&mut self, message: Message, descriptors: Descriptors, commits: Commits) {
        self.0.push_back(Entry { message, descriptors, commits: Some(commits) });
    }

    /// Takes a commit out again; false if it is not here any more, because it was sent.
    pub fn withdraw(&mut self, commits: Commits) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| entry.commits != Some(commits));
        self.0.len() < before
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends what the socket takes now.
    pub fn flush(&mut self, channel: &Channel) -> Flushed {
        let mut flushed = Flushed::default();
        while let Some(entry) = self.0.front() {
            match channel.send(&entry.message, &entry.descriptors.borrow()) {
                Ok(()) => {
                    pause::at_message(&entry.message);
                    flushed.sent.extend(self.0.pop_front().and_then(|entry| entry.commits));
                }
                Err(SendError::NotReady | SendError::TooManyInFlight) => break,
                Err(error) => {
                    flushed.failed = Some(error);
                    self.0.clear();
                }
            }
        }
        flushed
    }
}

/// Cuts bytes and descriptors into pieces that fit into messages; which descriptors go with which piece.
pub fn cut(bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Vec<(Piece, Range<usize>)> {
    let mut next = 0;
    let pieces = pieces(bytes, descriptors).map(|(piece, with)| {
        let range = next..next + with.len();
        next = range.end;
        (piece, range)
    });
    pieces.collect()
}

impl Descriptors {
    fn borrow(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::None => Vec::new(),
            Self::Some(owned) => owned.iter().map(AsFd::as_fd).collect(),
            Self::Sockets(sockets, range) => sockets[range.clone()].iter().map(AsFd::as_fd).collect(),
            Self::Part(part, range) => part.descriptors().drain(range.clone()).collect(),
        }
    }
}
