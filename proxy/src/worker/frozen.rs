//! A connection without an owner: what is carried to another worker, or to another process.
//!
//! ```text
//!   a live connection ──freeze──► FrozenConnection ──┬─ record, sockets ─► PreparedConnection ─┐
//!        ▲      │                                    │                     (no keys, no I/O)    ├─► a live connection
//!        │      └─► Kept: its counters stay, until   └─ secrets ────────────────────────────────┘
//!        │          the new owner runs it
//!        └── taken back: by the same path, here
//! ```
//!
//! The record ([`record`]) holds everything but the traffic secrets. Moves inside one process go through the same bytes, so
//! that every such move exercises what a move between two processes needs.
//!
//! Before the secrets are there the connection is its old owner's: whoever prepares one changes nothing about its sockets,
//! and only closes his copies if he refuses.

pub(super) mod arrival;
pub(super) mod facts;
pub(super) mod prepared;
pub(super) mod record;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use drain::Tracked;
use hbone::{Secrets, ThawError};

use crate::telemetry::{ConnectionFacts, Direction, Failure, Observation, Open, refused_early};

/// A connection without an owner. Its sockets are in no event loop.
pub struct FrozenConnection {
    /// What it is.
    pub kind: FrozenKind,
    /// Streams of a tunnel; 0 for others.
    pub streams: usize,
    /// Everything but secrets and sockets, in the format of `frozen/record.rs`.
    pub record: Vec<u8>,
    /// The traffic secrets of both directions, for a tunnel. Whoever sends them away must wipe these: two owners of one key
    /// would repeat nonces.
    pub secrets: Option<Secrets>,
    /// In the order of the record.
    pub sockets: Vec<OwnedFd>,
    /// When it was frozen: nanoseconds on the machine's monotonic clock ([`crate::clock::monotonic_ns`]).
    pub frozen_at: u64,
}

/// What a frozen connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrozenKind {
    /// An HBONE tunnel with its streams.
    Tunnel,
    /// Two plain TCP sockets, relayed.
    Plain,
    /// A connection that isn't relayed yet.
    Setup,
}

impl FrozenKind {
    /// For metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Plain => "plain",
            Self::Setup => "setup",
        }
    }
}

/// A connection that was given away, and what stays behind of it.
pub type Given = (FrozenConnection, Kept);

/// What stays behind of a connection that was frozen: its place in the registry and its counters, so that it counts as
/// ours until somebody else has it. Dropped, it says in the access log that its connections have ended.
#[derive(Default)]
pub struct Kept {
    pub(super) observations: Vec<Observation>,
    pub(super) _tracked: Option<Tracked<ConnectionFacts>>,
    pub(super) _open: Option<Open>,
    /// Whose connection it was, if it isn't known yet who talks to whom.
    pub(super) early: Option<Early>,
}

/// A connection of which only the addresses are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    pub(super) source: SocketAddr,
    pub(super) destination: Option<SocketAddr>,
    pub(super) direction: Direction,
}

impl Kept {
    /// The connection has ended on its way: that is said in the access log.
    pub(super) fn ended(self, now: u64, failure: &Failure) {
        for observation in self.observations {
            observation.close(now, Err(failure));
        }
        if let Some(Early { source, destination, direction }) = self.early {
            refused_early(source, destination, direction, &failure.reason);
        }
    }

    /// The connection runs elsewhere: nothing is logged, nothing counted as closed.
    pub fn released(self) {
        for observation in self.observations {
            observation.release();
        }
    }
}

/// Why a frozen connection can't run here.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// It was changed on its way, or cut short.
    #[error("the record is damaged")]
    Damaged,
    /// A build that is newer than this one wrote it.
    #[error("version {0} of the record is not supported")]
    Version(u32),
    /// It needs a feature that this build doesn't know.
    #[error("the record needs the unknown feature {0:?}")]
    Feature(String),
    /// The HBONE connection's own state.
    #[error("the connection's state: {0}")]
    Connection(#[from] ThawError),
    /// Whose it was is not served here.
    #[error("its pod is gone")]
    PodGone,
    /// What surrounds it.
    #[error("the record: {0}")]
    Record(&'static str),
    /// Another number of sockets came than the record names.
    #[error("{got} sockets came with a record of {expected}")]
    Sockets {
        /// What the record says.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// This socket, counted from 0, is not the one that was frozen.
    #[error("socket {0} is another one than the record's")]
    WrongSocket(usize),
    /// A tunnel without its keys, or keys without a tunnel.
    #[error("secrets are missing, or came with what has none")]
    Secrets,
    /// The kernel refused a socket.
    #[error("a socket can't be used: {0}")]
    Socket(#[from] std::io::Error),
}
