//! The one monotonic clock of the process, in milliseconds.
//!
//! Everything that keeps time on the data path is given a number, so that it can be tested on virtual time and moved
//! to another process (where only differences mean something).

use std::time::Instant;

/// Milliseconds since the process started. Cheap to copy: every thread has one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts at 1 000 ms, so that "some time before now" can be said from the first moment on.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds, never going back.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1_000)
    }
}
