//! What an istio-cni has seen.

use std::time::Duration;

/// What an istio-cni has seen since it was first started.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Connections that it took.
    pub accepted: u64,
    /// Connections that said hello.
    pub hellos: u64,
    /// Connections that answered a whole snapshot.
    pub snapshots: u64,
    /// Answers, in the order in which they were taken.
    pub answers: Vec<Answer>,
    /// Messages that had no answer in time.
    pub late: u64,
    /// Answers that were taken for those to another message, since an earlier one had come too late.
    pub mispaired: u64,
    /// What was wrong with connections that were closed for it, and with answers.
    pub protocol_errors: Vec<String>,
}

/// What was taken for the answer to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The connection, counted from 1 in the order of their accept.
    pub connection: u64,
    /// The message: `add uid`, `keep uid`, `delete uid` or `snapshot sent`.
    pub to: String,
    /// From the message to the answer.
    pub latency: Duration,
    /// What the proxy said had gone wrong; empty if nothing had.
    pub error: String,
}

impl Statistics {
    /// The answers that said that something had gone wrong.
    pub fn refusals(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| !answer.error.is_empty())
    }

    /// The answers of a connection: to which messages they were.
    pub fn answered(&self, connection: u64) -> Vec<&str> {
        let answers = self.answers.iter().filter(|answer| answer.connection == connection);
        answers.map(|answer| &*answer.to).collect()
    }
}
