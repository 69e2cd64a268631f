//! How a relayed connection ends, for its sockets and for the access log.

use std::io;

use crate::telemetry::Failure;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) enum End<'a> {
    /// Both directions were finished by their senders.
    Whole,
    /// An application or its host reset it. That is its right and no error of ours: the other side is reset too, the
    /// access log calls it complete, as stock does.
    Reset,
    /// We, or something between the applications, cut it.
    Failed(&'a Failure),
}

impl<'a> End<'a> {
    pub(super) fn outcome(self) -> Result<(), &'a Failure> {
        match self {
            Self::Whole | Self::Reset => Ok(()),
            Self::Failed(failure) => Err(failure),
        }
    }
}

/// Whether a socket's error means that its peer has gone, rather than that something is wrong here.
pub(super) fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionReset
            | Kind::BrokenPipe
            | Kind::NotConnected
            | Kind::UnexpectedEof
            | Kind::ConnectionAborted
    )
}
