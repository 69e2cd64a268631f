//! One stream of a tunnel and the local socket that it is joined to.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;

use hbone::{ConnectRequest, Connection, StreamId};

use super::core::Core;
use super::end::is_reset;
use super::leg::Leg;
use crate::telemetry::Observation;

/// The streams of a tunnel, in the order of their numbers.
pub(super) type Streams = BTreeMap<StreamId, Stream>;

/// A stream and its local socket.
pub(super) struct Stream {
    pub(super) leg: Leg,
    pub(super) phase: Phase,
    pub(super) observation: Observation,
    /// It stands in the tunnel's queue of streams with something to send.
    pub(super) queued: bool,
}

/// How far a stream has come.
///
/// ```text
///  client: AwaitReply ──200──┐
///                            ├──► Open
///  server: Connecting ──up───┘
/// ```
pub(super) enum Phase {
    /// Client role: CONNECT is sent. What it takes to send it once more, should the tunnel go without processing it.
    AwaitReply(Box<Requested>),
    /// Server role: the local application is being connected.
    Connecting {
        /// When to give up, ms.
        deadline: u64,
        /// The peer may finish before its target is there.
        remote: Remote,
    },
    /// Bytes flow.
    Open(Halves),
}

/// A request that may have to be sent again.
#[derive(Debug)]
pub struct Requested {
    pub(super) request: ConnectRequest,
    pub(super) tries: u8,
    /// When to give up, ms.
    pub(super) deadline: u64,
    /// The application's address and where it wanted to go.
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// The two directions of an open stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Halves {
    /// The application has finished (FIN) and the peer has been told (END_STREAM).
    pub(super) local_done: bool,
    /// What the peer has finished.
    pub(super) remote: Remote,
}

/// The direction from the tunnel to the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Remote {
    /// Bytes may come.
    #[default]
    Open,
    /// END_STREAM came; the application hasn't taken everything yet.
    Finishing,
    /// RST_STREAM came; the application hasn't taken everything yet, and will get a RST then.
    Resetting,
    /// The application has everything, and FIN.
    Done,
}

/// What became of a delivery to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It has been taken or kept.
    Fine,
    /// The application's socket is gone.
    Gone,
}

impl Stream {
    pub(super) fn deadline(&self) -> Option<u64> {
        match &self.phase {
            Phase::AwaitReply(requested) => Some(requested.deadline),
            Phase::Connecting { deadline, .. } => Some(*deadline),
            Phase::Open(_) => None,
        }
    }

    /// Both directions are done.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.phase, Phase::Open(Halves { local_done: true, remote: Remote::Done }))
    }

    /// The application may be read: the stream is open and has not finished.
    pub(super) fn wants_to_send(&self) -> bool {
        self.leg.readable && matches!(self.phase, Phase::Open(Halves { local_done: false, .. }))
    }

    /// Gives payload to the application; what it doesn't take now is kept by the connection, inside the window that
    /// the peer was granted.
    pub(super) fn deliver(
        &mut self,
        id: StreamId,
        connection: &mut Connection,
        mut slices: &[IoSlice<'_>],
    ) -> (usize, Delivered) {
        let total = slices.iter().map(|slice| slice.len()).sum();
        let open = matches!(self.phase, Phase::Open(_));
        let mut taken = 0;
        if open && self.leg.writable && connection.pending(id).is_empty() {
            match self.leg.write_vectored(slices) {
                Ok(n) => taken = n,
                Err(_) => return (total, Delivered::Gone),
            }
            connection.consumed(id, taken);
        }
        let mut skip = taken;
        while let Some((first, rest)) = slices.split_first() {
            if skip < first.len() {
                connection.stash(id, &first[skip..]);
            }
            skip = skip.saturating_sub(first.len());
            slices = rest;
        }
        (total, Delivered::Fine)
    }

    /// Gives the application what was kept for it, and FIN when the peer has finished.
    pub(super) fn deliver_pending(&mut self, id: StreamId, connection: &mut Connection) -> Delivered {
        let Phase::Open(halves) = &mut self.phase else { return Delivered::Fine };
        while self.leg.writable && !connection.pending(id).is_empty() {
            match self.leg.write(connection.pending(id)) {
                Ok(0) => break,
                Ok(n) => connection.consume_pending(id, n),
                Err(_) => return Delivered::Gone,
            }
        }
        match halves.remote {
            Remote::Finishing if connection.pending(id).is_empty() => {
                self.leg.shutdown_write();
                halves.remote = Remote::Done;
            }
            Remote::Resetting if connection.pending(id).is_empty() => return Delivered::Gone,
            _ => {}
        }
        Delivered::Fine
    }

    /// The socket's error, if it has one, as a reason for the access log; `None` for an ordinary reset.
    pub(super) fn socket_error(&self) -> Option<String> {
        self.leg.error().filter(|error| !is_reset(error)).map(|error| error.to_string())
    }

    /// Closes the socket for good.
    pub(super) fn close_socket(leg: Leg, abort: bool, core: &mut Core) {
        if abort {
            leg.abort();
        }
        core.close(leg);
    }
}
