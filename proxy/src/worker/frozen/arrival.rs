//! How whoever gave a connection away hears what has become of it.

use std::time::Duration;

use super::MoveError;
use crate::clock::monotonic_ns;
use crate::worker::mailbox::Reply;

/// What became of a connection that was taken. Either way it is this process's now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It runs.
    Running {
        /// From the moment when it was frozen to the end of its first turn here, in which everything was moved that could be.
        pause: Duration,
    },
    /// It ended before its first turn was over, and said why in the access log: policy may have changed, for example.
    Ended,
}

/// Those who wait for news of a connection that was taken. Each hears exactly once; if the connection ends before there is
/// anything to tell, that.
pub(in crate::worker) struct Arrival {
    frozen_at: u64,
    taken: Option<Reply<Result<Taken, MoveError>>>,
    proved: Option<Reply<Result<(), String>>>,
}

impl Arrival {
    pub(in crate::worker) fn new(
        frozen_at: u64,
        taken: Reply<Result<Taken, MoveError>>,
        proved: Option<Reply<Result<(), String>>>,
    ) -> Self {
        Self { frozen_at, taken: Some(taken), proved }
    }

    /// Somebody wants to know whether the peer still answers.
    pub(in crate::worker) fn wants_proof(&self) -> bool {
        self.proved.is_some()
    }

    /// It can't run here.
    pub(in crate::worker) fn refused(mut self, error: MoveError) {
        if let Some(proved) = self.proved.take() {
            proved(Err(error.to_string()));
        }
        if let Some(taken) = self.taken.take() {
            taken(Err(error));
        }
    }

    /// The first turn is over.
    pub(in crate::worker) fn ran(&mut self) {
        if let Some(taken) = self.taken.take() {
            let pause = Duration::from_nanos(monotonic_ns().saturating_sub(self.frozen_at));
            taken(Ok(Taken::Running { pause }));
        }
    }

    /// The first turn is over, and nobody has to answer: that is all there is to tell.
    pub(in crate::worker) fn runs(mut self) {
        self.ran();
        self.answered();
    }

    /// The peer has answered.
    pub(in crate::worker) fn answered(&mut self) {
        if let Some(proved) = self.proved.take() {
            proved(Ok(()));
        }
    }

    /// Nobody waits any more.
    pub(in crate::worker) fn is_over(&self) -> bool {
        self.taken.is_none() && self.proved.is_none()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken(Ok(Taken::Ended));
        }
        if let Some(proved) = self.proved.take() {
            proved(Err("the connection has ended".to_owned()));
        }
    }
}
