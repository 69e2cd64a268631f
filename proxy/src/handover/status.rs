//! What operators are told of hand-overs: `GET /handover`, metrics, the summary in the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::telemetry::HandoverMetrics;
use crate::worker::FrozenKind;

/// How many sessions are remembered.
const SESSIONS: usize = 10;

/// The place of this process among those that hand over to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It accepts.
    #[default]
    Owner,
    /// It has just begun, and waits until it may take over.
    Candidate,
    /// It has handed over, and would take the role back.
    Standby,
}

/// What is known; clones are the same.
#[derive(Clone)]
pub struct Status {
    state: Arc<Mutex<State>>,
    metrics: HandoverMetrics,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    role: Standing,
    available: bool,
    /// Why hand-over is not available.
    cause: Option<String>,
    /// What this process is called.
    pod: String,
    peer: Option<PeerName>,
    sessions: VecDeque<Summary>,
}

/// The process at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerName {
    /// Its pod, `namespace/name`.
    pub pod: String,
    /// As it sees itself: its pod may have its own numbering.
    pub pid: u32,
    /// Its version.
    pub build: String,
}

/// One session, as it went for one side.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Who the other side was.
    pub peer: PeerName,
    /// What went from here to there.
    pub given: Tally,
    /// What came.
    pub taken: Tally,
    /// What was still here when nothing more could be given.
    pub left: Option<Left>,
    /// How long each phase took, ms.
    pub phases: BTreeMap<&'static str, u64>,
    /// How it ended, once it has.
    pub ended: Option<String>,
}

/// Connections that the other side can't be given for now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// All of them.
    pub connections: usize,
    /// For so many descriptors there is room at the other side.
    pub room: usize,
}

/// Connections that changed their owner, or did not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// By kind; `stream` counts what the tunnels carry.
    pub moved: BTreeMap<&'static str, usize>,
    /// By reason.
    pub refused: BTreeMap<String, usize>,
    /// Bytes of state.
    pub bytes: usize,
    /// From the freezing of each until it ran at the other side.
    pub pause: Pauses,
}

/// How long connections stood still, the longest first kept exactly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(Vec<u32>);

impl Pauses {
    /// One more.
    pub fn add(&mut self, pause: Duration) {
        self.0.push(u32::try_from(pause.as_micros()).unwrap_or(u32::MAX));
    }

    /// In ms; `share` from 0 to 1.
    fn quantile(sorted: &[u32], share: f64) -> f64 {
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share).round() as usize).map_or(0.0, |micros| f64::from(*micros) / 1_000.0)
    }

    /// p50, p99 and the longest, ms.
    pub fn summary(&self) -> [f64; 3] {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        [0.5, 0.99, 1.0].map(|share| Self::quantile(&sorted, share))
    }
}

impl Serialize for Pauses {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [p50, p99, max] = self.summary();
        serde_json::json!({ "count": self.0.len(), "p50Ms": p50, "p99Ms": p99, "maxMs": max })
            .serialize(serializer)
    }
}

impl Tally {
    /// A connection has changed its owner.
    pub fn moved(&mut self, kind: FrozenKind, streams: usize, bytes: usize) {
        *self.moved.entry(kind.name()).or_default() += 1;
        if streams > 0 {
            *self.moved.entry("stream").or_default() += streams;
        }
        self.bytes += bytes;
    }

    /// A connection could not be taken.
    pub fn refused(&mut self, reason: &str) {
        *self.refused.entry(reason.to_owned()).or_default() += 1;
    }

    /// Connections of any kind that moved.
    pub fn connections(&self) -> usize {
        self.moved.iter().filter(|(kind, _)| **kind != "tunnel").map(|(_, count)| count).sum()
    }
}

impl Status {
    /// Of a process that is called `pod`.
    pub fn new(pod: String, metrics: HandoverMetrics) -> Self {
        let state = State { pod, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), metrics }
    }

    /// Where this process stands now.
    pub fn standing(&self, role: Standing) {
        self.lock().role = role;
        self.metrics.role(role);
    }

    /// Whether a successor could take over; if not, why.
    pub fn available(&self, cause: Option<&str>) {
        let mut state = self.lock();
        state.available = cause.is_none();
        state.cause = cause.map(str::to_owned);
        drop(state);
        self.metrics.available(cause);
    }

    /// Why a successor could not take over, if it couldn't.
    pub fn cause(&self) -> Option<String> {
        self.lock().cause.clone()
    }

    /// Where this process stands.
    pub fn role(&self) -> Standing {
        self.lock().role
    }

    /// The metrics of hand-overs.
    pub fn metrics(&self) -> &HandoverMetrics {
        &self.metrics
    }

    /// A session begins.
    pub fn begins(&self, peer: PeerName) {
        let mut state = self.lock();
        state.peer = Some(peer.clone());
        state.sessions.push_back(Summary { peer, ..Summary::default() });
        if state.sessions.len() > SESSIONS {
            state.sessions.pop_front();
        }
    }

    /// Changes what is told of the session that goes on.
    pub fn update(&self, change: impl FnOnce(&mut Summary)) {
        if let Some(summary) = self.lock().sessions.back_mut() {
            change(summary);
        }
    }

    /// It has ended; returns what is told of it.
    pub fn ends(&self, how: &str) -> Summary {
        let mut state = self.lock();
        state.peer = None;
        let Some(summary) = state.sessions.back_mut() else { return Summary::default() };
        summary.ended = Some(how.to_owned());
        summary.clone()
    }

    /// How many connections were given in the sessions that are remembered.
    pub fn given(&self) -> usize {
        self.lock().sessions.iter().map(|session| session.given.connections()).sum()
    }

    /// For `GET /handover`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(&*self.lock()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
