//! What applications saw, moment by moment.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::traffic::Tally;

/// One moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moment {
    /// Its end, from the begin of the timeline.
    pub seconds: f64,
    /// Payload bytes that reached the clients, by time.
    pub bytes_per_second: f64,
    /// The longest time that any of their connections had waited for bytes, or for room for them.
    pub longest_wait_ms: f64,
    /// Connections that failed in it.
    pub lost: u64,
}

/// Looks on, on a thread of its own, until it is asked for what it has seen.
#[derive(Debug)]
pub struct Timeline {
    begun: Instant,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Vec<Moment>>,
}

impl Timeline {
    /// Begins to look at what the owners of `tallies` do.
    ///
    /// # Errors
    /// There is no thread.
    pub fn begin(tallies: Vec<Arc<Tally>>) -> std::io::Result<Self> {
        let begun = Instant::now();
        let (stop, stopped) = mpsc::channel();
        let look_on = move || {
            let mut moments = Vec::new();
            let mut last = (begun, sum(&tallies));
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = (Instant::now(), sum(&tallies));
                moments.push(moment(begun, last, now, longest_wait(&tallies)));
                last = now;
            }
            moments
        };
        let thread = thread::Builder::new().name("timeline".to_owned()).spawn(look_on)?;
        Ok(Self { begun, stop, thread })
    }

    /// Seconds from the begin until now.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// What it has seen.
    pub fn end(self) -> Vec<Moment> {
        drop(self.stop);
        // A panic there has been reported by the thread itself.
        self.thread.join().unwrap_or_default()
    }
}

/// Bytes that arrived, and connections that failed.
type Sum = (u64, u64);

fn sum(tallies: &[Arc<Tally>]) -> Sum {
    tallies
        .iter()
        .map(|tally| tally.counts())
        .fold((0, 0), |(bytes, failed), counts| (bytes + counts.checked, failed + counts.failed))
}

fn longest_wait(tallies: &[Arc<Tally>]) -> Duration {
    let longest = tallies.iter().map(|tally| tally.stalls().max()).max();
    Duration::from_micros(longest.unwrap_or_default())
}

fn moment(begun: Instant, before: (Instant, Sum), now: (Instant, Sum), wait: Duration) -> Moment {
    let ((before, (bytes_before, failed_before)), (now, (bytes, failed))) = (before, now);
    let passed = now.duration_since(before).as_secs_f64().max(f64::MIN_POSITIVE);
    Moment {
        seconds: now.duration_since(begun).as_secs_f64(),
        bytes_per_second: (bytes - bytes_before) as f64 / passed,
        longest_wait_ms: wait.as_secs_f64() * 1000.0,
        lost: failed - failed_before,
    }
}

const INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_difference() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let seen = moment(begun, (at(100), (1_000, 2)), (at(300), (5_000, 3)), Duration::from_millis(7));
        let expected = Moment { seconds: 0.3, bytes_per_second: 20_000.0, longest_wait_ms: 7.0, lost: 1 };
        assert_eq!(seen, expected);
    }

    #[test]
    fn it_looks_until_it_is_asked() {
        let timeline = Timeline::begin(vec![Arc::new(Tally::new())]).expect("a thread");
        while timeline.seconds() < 3.0 * INTERVAL.as_secs_f64() {
            thread::yield_now();
        }
        let moments = timeline.end();
        assert!(!moments.is_empty() && moments.is_sorted_by(|a, b| a.seconds < b.seconds), "{moments:?}");
    }
}
