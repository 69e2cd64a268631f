//! Going away (RFC 9113 section 6.8), ours and the peer's.

use crate::error::ThawError;
use crate::frame::MAX_WINDOW;
use crate::snapshot::{Reader, Writer};
use crate::time::Time;

/// How far our own going away is.
///
/// ```text
///   Running ──shutdown: GOAWAY(2^31-1), PING──> Announced ──answer, or too late: GOAWAY(last)──> Final
///      └────────────────────────────close, or an error: GOAWAY(last)────────────────────────────^
/// ```
///
/// The first GOAWAY makes the peer stop opening streams; its answer to the PING proves that none is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    Running,
    /// The PING's answer is awaited until then.
    Announced {
        deadline: Time,
    },
    /// Streams of the peer above `last` are ignored.
    Final {
        last: u32,
    },
}

impl Shutdown {
    /// When to give up waiting for the answer.
    pub(super) fn timeout(self) -> Option<Time> {
        match self {
            Self::Announced { deadline } => Some(deadline),
            Self::Running | Self::Final { .. } => None,
        }
    }

    /// The peer's stream came too late to be processed.
    pub(super) fn ignores(self, id: u32) -> bool {
        matches!(self, Self::Final { last } if id > last)
    }

    pub(super) fn freeze(self, state: &mut Writer, now: Time) {
        match self {
            Self::Running => state.u8(0),
            Self::Announced { deadline } => {
                state.u8(1);
                state.left(now, deadline);
            }
            Self::Final { last } => {
                state.u8(2);
                state.u32(last);
            }
        }
    }

    pub(super) fn thaw(state: &mut Reader<'_>) -> Result<Self, ThawError> {
        match state.u8()? {
            0 => Ok(Self::Running),
            1 => Ok(Self::Announced { deadline: state.left()? }),
            2 => match state.u32()? {
                last @ 0..=MAX_WINDOW => Ok(Self::Final { last }),
                _ => Err(ThawError::Invalid("last stream")),
            },
            _ => Err(ThawError::Invalid("shutdown")),
        }
    }

    pub(super) fn rebase(&mut self, now: Time) {
        if let Self::Announced { deadline } = self {
            *deadline = now.after(deadline.0);
        }
    }
}
