//! Waiting for a condition, with a limit.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Long enough for anything on a busy machine; a test that needs all of it has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
/// It does not within [`PATIENCE`].
pub async fn until(what: impl Display, condition: impl FnMut() -> bool) {
    until_within(PATIENCE, what, condition).await;
}

/// Waits until `condition` holds.
///
/// # Panics
/// It does not within `limit`.
pub async fn until_within(limit: Duration, what: impl Display, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "after {} s still not true: {what}", limit.as_secs());
        sleep(POLL).await;
    }
}

/// As [`until`], for threads.
///
/// # Panics
/// It does not within [`PATIENCE`].
pub fn until_blocking(what: impl Display, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "after {} s still not true: {what}", PATIENCE.as_secs());
        std::thread::sleep(POLL);
    }
}

/// Waits until `value` gives the same twice, `pause` apart: whatever it measures has come to rest.
///
/// # Panics
/// It changes for longer than [`PATIENCE`].
pub async fn until_steady<T: PartialEq>(
    what: impl Display,
    pause: Duration,
    mut value: impl FnMut() -> T,
) -> T {
    let begun = Instant::now();
    let mut before = value();
    loop {
        sleep(pause).await;
        let now = value();
        if now == before {
            return now;
        }
        assert!(begun.elapsed() < PATIENCE, "after {} s still changing: {what}", PATIENCE.as_secs());
        before = now;
    }
}
