//! One stream: its state, its windows, and the payload that its reader hasn't taken.

mod flow;
mod pending;
mod set;
mod state;

pub(crate) use flow::{ReceiveWindow, SendWindow};
pub(crate) use pending::Pending;
pub(crate) use set::Streams;
pub(crate) use state::{HeadersAre, State};

use crate::event::StreamId;

/// A stream that isn't idle and hasn't been forgotten.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) state: State,
    pub(crate) receive: ReceiveWindow,
    pub(crate) send: SendWindow,
    pub(crate) pending: Pending,
}

impl Stream {
    /// Nothing more will happen on it: both directions are done and all payload was consumed.
    pub(crate) fn is_over(&self) -> bool {
        self.state.is_closed() && self.receive.held() == 0
    }

    /// Bytes that were granted to its reader and not taken back yet, pending ones apart.
    pub(crate) fn unanswered(&self) -> usize {
        (self.receive.held() as usize).saturating_sub(self.pending.bytes().len())
    }
}
