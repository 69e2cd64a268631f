//! Which end of a connection we are.

use crate::error::ThawError;
use crate::snapshot::{Reader, Writer};

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We opened it, and open its streams.
    Client,
    /// We accepted it.
    Server,
}

impl Role {
    pub(crate) fn freeze(self, state: &mut Writer) {
        state.bool(self == Self::Server);
    }

    pub(crate) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        Ok(if state.bool()? { Self::Server } else { Self::Client })
    }
}
