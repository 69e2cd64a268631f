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

/// Nanoseconds on the machine's monotonic clock: the same one in every process, so that a pause that begins in one and ends
/// in another can be told.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
