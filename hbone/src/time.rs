//! Time as a number that the caller supplies.

/// Milliseconds on a clock of the caller's choosing; only differences matter.
///
/// The clock never goes back. Its zero need not be shared by two processes: a snapshot carries elapsed
/// time and is rebased on the reader's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// This instant and `ms` milliseconds.
    #[must_use]
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
