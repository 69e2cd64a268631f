//! What one application counted: connections, bytes, answers and how long they took.

use std::collections::HashMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::ConversationError;
use super::conversation::Failure;

/// Counters that all connections of one application share.
#[derive(Debug)]
pub struct Tally {
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    checked: AtomicU64,
    answers: AtomicU64,
    /// How often [`Tally::stalls`] was asked.
    window: AtomicU64,
    details: Mutex<Details>,
}

/// The counters at one moment.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Connections that were begun.
    pub opened: u64,
    /// Connections that ended as both sides wanted, every byte right.
    pub closed: u64,
    /// Connections that ended otherwise.
    pub failed: u64,
    /// The same, by what happened to them.
    pub ends: Ends,
    /// Payload bytes given to the network.
    pub sent: u64,
    /// Payload bytes that arrived and were compared, all of them right.
    pub checked: u64,
    /// Requests that were answered.
    pub answers: u64,
    /// The first few failures, in words; wrong bytes before all others.
    pub failures: Vec<String>,
}

impl Counts {
    /// Connections that have not ended.
    pub fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed + self.failed)
    }
}

/// Connections that ended otherwise than both sides wanted, by what happened to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ends {
    /// They could not be opened.
    pub refused: u64,
    /// They broke, mostly by a reset.
    pub reset: u64,
    /// The other side ended before everything had arrived.
    pub early: u64,
    /// Nothing moved for as long as anybody waits.
    pub silent: u64,
    /// A byte was wrong, lost or doubled.
    pub wrong: u64,
}

impl Ends {
    fn add(&mut self, failure: Failure) {
        *match failure {
            Failure::Refused => &mut self.refused,
            Failure::Reset => &mut self.reset,
            Failure::Early => &mut self.early,
            Failure::Silent => &mut self.silent,
            Failure::Wrong => &mut self.wrong,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { refused, reset, early, silent, wrong } = self;
        refused + reset + early + silent + wrong
    }
}

impl AddAssign for Ends {
    fn add_assign(&mut self, other: Self) {
        self.refused += other.refused;
        self.reset += other.reset;
        self.early += other.early;
        self.silent += other.silent;
        self.wrong += other.wrong;
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refused, reset, early, silent, wrong } = self;
        let named = [
            (reset, "reset"),
            (early, "ended too early"),
            (silent, "stood still"),
            (wrong, "with wrong bytes"),
            (refused, "refused"),
        ];
        // What is mostly asked about is said even if there is none.
        let said = named.iter().filter(|(count, what)| **count > 0 || *what == "reset");
        let said: Vec<_> = said.map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&said.join(", "))
    }
}

/// How long something took; see [`Tally::latencies`].
#[derive(Debug, Clone)]
pub struct Latencies {
    /// Request to answer on an open connection.
    pub answer: Histogram<u64>,
    /// Opening a connection, one request and its answer.
    pub fresh: Histogram<u64>,
    /// As `answer`, since this was asked last.
    pub recent: Histogram<u64>,
}

#[derive(Debug)]
struct Details {
    latencies: Latencies,
    ends: Ends,
    /// The longest wait of each connection in this window.
    stalls: HashMap<u64, Duration>,
    failures: Vec<String>,
}

/// The longest wait of one direction of a connection, so that only a longer one is told to all.
#[derive(Debug, Default)]
pub(super) struct LongestWait {
    window: u64,
    longest: Duration,
}

/// What a measured time belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// Request to answer on an open connection.
    Answer,
    /// Opening a connection, one request and its answer.
    Fresh,
}

impl Tally {
    /// Everything at nought.
    pub fn new() -> Self {
        let latencies = Latencies { answer: histogram(), fresh: histogram(), recent: histogram() };
        Self {
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            window: AtomicU64::new(0),
            details: Mutex::new(Details {
                latencies,
                ends: Ends::default(),
                stalls: HashMap::new(),
                failures: Vec::new(),
            }),
        }
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        // The ends are read before the beginning: a connection may then seem open for a moment longer, never less.
        let (closed, failed) = (self.closed.load(Ordering::Acquire), self.failed.load(Ordering::Acquire));
        let (opened, details) = (self.opened.load(Ordering::Acquire), self.details());
        Counts {
            opened,
            closed,
            failed,
            ends: details.ends,
            sent: self.sent.load(Ordering::Relaxed),
            checked: self.checked.load(Ordering::Relaxed),
            answers: self.answers.load(Ordering::Relaxed),
            failures: details.failures.clone(),
        }
    }

    /// The measured times, in microseconds. The recent ones start anew with each call.
    pub fn latencies(&self) -> Latencies {
        let mut details = self.details();
        let latencies = details.latencies.clone();
        details.latencies.recent.reset();
        latencies
    }

    /// The longest time, in microseconds, that each connection stood still: waited for bytes, or for room for them. Of those
    /// that waited for anything; since this was asked last.
    pub fn stalls(&self) -> Histogram<u64> {
        let mut details = self.details();
        self.window.fetch_add(1, Ordering::Relaxed);
        let mut stalls = histogram();
        for (_, stall) in details.stalls.drain() {
            stalls.saturating_record(micros(stall));
        }
        stalls
    }

    /// Counts one connection from its begin to its end.
    pub async fn connection(&self, conversation: impl Future<Output = Result<(), ConversationError>>) {
        self.opened.fetch_add(1, Ordering::Release);
        match conversation.await {
            Ok(()) => {
                self.closed.fetch_add(1, Ordering::Release);
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Release);
                let failure = error.failure();
                self.details().ends.add(failure);
                self.remember(error.to_string(), failure == Failure::Wrong);
            }
        }
    }

    /// Remembers a failure in words; only the first few are kept.
    pub fn note(&self, failure: String) {
        self.remember(failure, false);
    }

    /// A wrong byte comes first: connections that broke are often its consequence.
    fn remember(&self, failure: String, wrong: bool) {
        let failures = &mut self.details().failures;
        failures.insert(if wrong { 0 } else { failures.len() }, failure);
        failures.truncate(FAILURES_KEPT);
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn checked(&self, bytes: usize) {
        self.checked.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, kind: Option<(Measured, Duration)>) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        let Some((kind, took)) = kind else { return };
        let micros = micros(took);
        let latencies = &mut self.details().latencies;
        match kind {
            Measured::Answer => {
                latencies.answer.saturating_record(micros);
                latencies.recent.saturating_record(micros);
            }
            Measured::Fresh => latencies.fresh.saturating_record(micros),
        }
    }

    /// A connection waited for so long.
    pub(super) fn waited(&self, connection: u64, took: Duration, known: &mut LongestWait) {
        let window = self.window.load(Ordering::Relaxed);
        if known.window == window && took <= known.longest {
            return;
        }
        *known = LongestWait { window, longest: took };
        let stalls = &mut self.details().stalls;
        let stall = stalls.entry(connection).or_default();
        *stall = took.max(*stall);
    }

    fn details(&self) -> MutexGuard<'_, Details> {
        // Counting goes on after a panic elsewhere: the figures then say that a connection never ended.
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

const FAILURES_KEPT: usize = 5;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn histogram() -> Histogram<u64> {
    const MINUTE: u64 = 60_000_000;
    Histogram::new_with_max(MINUTE, 2).expect("two digits and a maximum above 2 are valid bounds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_one_longest_wait_in_each_window() {
        let tally = Tally::new();
        let (mut up, mut down) = (LongestWait::default(), LongestWait::default());
        tally.waited(1, Duration::from_micros(5), &mut up);
        tally.waited(1, Duration::from_micros(9), &mut down);
        tally.waited(1, Duration::from_micros(7), &mut up);
        tally.waited(2, Duration::from_micros(3), &mut LongestWait::default());
        let stalls = tally.stalls();
        assert_eq!((stalls.len(), stalls.min(), stalls.max()), (2, 3, 9));
        assert_eq!(tally.stalls().len(), 0);
        tally.waited(1, Duration::from_micros(4), &mut down);
        assert_eq!(tally.stalls().max(), 4, "what was longer before is forgotten");
    }
}
