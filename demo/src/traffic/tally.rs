//! What one application counted: connections, bytes, answers and how long they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::ConversationError;

/// Counters that all connections of one application share.
#[derive(Debug)]
pub struct Tally {
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    checked: AtomicU64,
    answers: AtomicU64,
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
    failures: Vec<String>,
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
            details: Mutex::new(Details { latencies, failures: Vec::new() }),
        }
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        // The ends are read before the beginning: a connection may then seem open for a moment longer, never less.
        let (closed, failed) = (self.closed.load(Ordering::Acquire), self.failed.load(Ordering::Acquire));
        Counts {
            opened: self.opened.load(Ordering::Acquire),
            closed,
            failed,
            sent: self.sent.load(Ordering::Relaxed),
            checked: self.checked.load(Ordering::Relaxed),
            answers: self.answers.load(Ordering::Relaxed),
            failures: self.details().failures.clone(),
        }
    }

    /// The measured times, in microseconds. The recent ones start anew with each call.
    pub fn latencies(&self) -> Latencies {
        let mut details = self.details();
        let latencies = details.latencies.clone();
        details.latencies.recent.reset();
        latencies
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
                let wrong = matches!(error, ConversationError::Wrong(_));
                self.remember(error.to_string(), wrong);
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
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let latencies = &mut self.details().latencies;
        match kind {
            Measured::Answer => {
                latencies.answer.saturating_record(micros);
                latencies.recent.saturating_record(micros);
            }
            Measured::Fresh => latencies.fresh.saturating_record(micros),
        }
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

fn histogram() -> Histogram<u64> {
    const MINUTE: u64 = 60_000_000;
    Histogram::new_with_max(MINUTE, 2).expect("two digits and a maximum above 2 are valid bounds")
}
