//! What the operator is told: each outage once for each of its reasons. Reasons may take turns, as those of two replicas
//! do.

use std::collections::BTreeSet;
use std::fmt;

use super::Ending;
use crate::client::Termination;

/// Something to log or to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Everything that is subscribed to is there. After an outage: how long it took.
    Connected { outage_ms: Option<u64> },
    /// An attempt or a stream has ended.
    Terminated(Termination),
    /// An outage begins, or has a reason that was not told yet.
    Failing { reason: String },
    /// One that was told, or that is too many.
    StillFailing { reason: String, retry_in_ms: u64 },
    /// Resources of a response that cannot be used.
    Refused { type_url: String, resources: usize, reasons: String },
    /// The server sent what nobody asked for.
    UnknownType { type_url: String },
}

/// What went wrong since everything was there.
#[derive(Default)]
pub(super) struct Outage {
    current: Option<Current>,
}

struct Current {
    since: u64,
    told: BTreeSet<String>,
}

impl Outage {
    pub(super) fn failed(&mut self, ending: &Ending, retry_in_ms: u64, now: u64) -> [Report; 2] {
        let reason = ending.to_string();
        let terminated = Report::Terminated(ending.termination());
        let current = self.current.get_or_insert_with(|| Current { since: now, told: BTreeSet::new() });
        if current.told.len() < MOST_TOLD && current.told.insert(reason.clone()) {
            [terminated, Report::Failing { reason }]
        } else {
            [terminated, Report::StillFailing { reason, retry_in_ms }]
        }
    }

    pub(super) fn is_over(&mut self, now: u64) -> Report {
        Report::Connected { outage_ms: self.current.take().map(|outage| now - outage.since) }
    }
}

impl Ending {
    fn termination(&self) -> Termination {
        match self {
            Self::NotConnected(_) => Termination::ConnectionError,
            Self::Broken { usual: true, .. } => Termination::Reconnect,
            Self::Broken { usual: false, .. } => Termination::Error,
            Self::Complete => Termination::Complete,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected(reason) | Self::Broken { reason, .. } => f.write_str(reason),
            Self::Complete => f.write_str("the server ended the stream"),
        }
    }
}

/// Of one outage. Who makes up a new reason for each attempt is not told about for ever.
const MOST_TOLD: usize = 16;
