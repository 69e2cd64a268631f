//! How long answers took.

use std::collections::BTreeMap;
use std::time::Duration;

/// One round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Whose.
    pub connection: usize,
    /// From the request until the answer was there.
    pub took: Duration,
}

/// The round trips of some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waits {
    /// All, rising.
    all: Vec<Duration>,
    /// The longest of each connection, rising.
    longest: Vec<Duration>,
}

impl Waits {
    /// In any order.
    pub fn new(waits: Vec<Wait>) -> Self {
        let mut longest: BTreeMap<usize, Duration> = BTreeMap::new();
        for wait in &waits {
            let longest = longest.entry(wait.connection).or_default();
            *longest = wait.took.max(*longest);
        }
        let mut all: Vec<Duration> = waits.into_iter().map(|wait| wait.took).collect();
        let mut longest: Vec<Duration> = longest.into_values().collect();
        all.sort_unstable();
        longest.sort_unstable();
        Self { all, longest }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// `share` (0 to 1) of the round trips took no longer, ms; 0 without any.
    pub fn round_trip(&self, share: f64) -> f64 {
        quantile(&self.all, share)
    }

    /// `share` (0 to 1) of the connections never waited for longer, ms; 0 without any.
    pub fn longest(&self, share: f64) -> f64 {
        quantile(&self.longest, share)
    }
}

fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_is_of_each_connection() {
        let wait = |connection, ms| Wait { connection, took: Duration::from_millis(ms) };
        let waits = Waits::new(vec![wait(7, 9), wait(3, 1), wait(7, 2), wait(3, 4), wait(5, 2)]);
        assert_eq!(waits.count(), 5);
        let of = |share| (waits.round_trip(share), waits.longest(share));
        assert_eq!([0.0, 0.5, 1.0].map(of), [(1.0, 2.0), (2.0, 4.0), (9.0, 9.0)]);
        assert_eq!(Waits::default().round_trip(0.5), 0.0);
    }
}
