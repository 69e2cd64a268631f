//! What the log tells of the process's way to its end.

use std::time::Duration;

use drain::machine::Left;
use drain::{Entry, Kind};
use tracing::{info, warn};

use crate::shared::Shared;
use crate::telemetry::{ConnectionFacts, Party};

/// Connections that are named when they are cut; of more there is only the number.
const NAMED: usize = 100;

/// What has become of the connections since the process was told to end.
pub(super) struct Ending {
    begun_ms: u64,
    /// User connections that had ended before.
    ended_before: u64,
    cut: Option<Cut>,
}

struct Cut {
    connections: usize,
    /// User connections that had ended by then.
    ended_before: u64,
}

impl Ending {
    pub(super) fn begin(shared: &Shared) -> Self {
        Self { begun_ms: shared.clock.now(), ended_before: shared.telemetry.connections_ended(), cut: None }
    }

    /// The drain goes on.
    pub(super) fn say_progress(left: Left, accepts_for_ms: Option<u64>, time_left_ms: u64) {
        let Left { connections, kinds, oldest_ms } = left;
        let of = |kind| kinds.of(kind);
        let (tunnels, streams) = (of(Kind::Tunnel), of(Kind::Stream));
        let (plain, setup) = (of(Kind::Plain), of(Kind::Setup));
        let [oldest, time_left] = [oldest_ms, time_left_ms].map(Duration::from_millis);
        match accepts_for_ms.map(Duration::from_millis) {
            Some(accepts_for) => info!(
                connections,
                tunnels,
                streams,
                plain,
                setup,
                ?oldest,
                ?accepts_for,
                ?time_left,
                "waiting for a successor"
            ),
            None => {
                info!(connections, tunnels, streams, plain, setup, ?oldest, ?time_left, "draining");
            }
        }
    }

    /// All that is left will be cut.
    pub(super) fn cut(&mut self, shared: &Shared) {
        let left = shared.registry.snapshot();
        self.cut = Some(Cut { connections: left.len(), ended_before: shared.telemetry.connections_ended() });
        warn!(connections = left.len(), "the drain deadline has come: the rest is cut");
        let now = shared.clock.now();
        for (number, entry) in left.iter().enumerate() {
            shared.telemetry.drain_cut(entry.kind());
            if number < NAMED {
                name(entry, now);
            }
        }
        if let Some(more @ 1..) = left.len().checked_sub(NAMED) {
            warn!(connections = more, "more were cut");
        }
    }

    /// The last line; `moved` connections were handed over.
    pub(super) fn sum_up(&self, shared: &Shared, moved: usize) {
        let took = Duration::from_millis(shared.clock.now().saturating_sub(self.begun_ms));
        let (until, cut, left) = match &self.cut {
            Some(Cut { connections, ended_before }) => (*ended_before, *connections, 0),
            None => (shared.telemetry.connections_ended(), 0, shared.registry.len()),
        };
        let ended = until.saturating_sub(self.ended_before);
        info!(ended, moved, cut, left, ?took, "drained: the process ends");
    }
}

fn name(entry: &Entry<ConnectionFacts>, now: u64) {
    let facts = entry.facts();
    let identity = |party: &Party| party.identity.as_ref().map(ToString::to_string);
    warn!(
        kind = entry.kind().as_str(),
        direction = facts.direction.as_str(),
        src.addr = facts.source.map(tracing::field::display),
        src.identity = identity(&facts.source_party),
        dst.addr = facts.destination.map(tracing::field::display),
        dst.identity = identity(&facts.destination_party),
        bytes_sent = entry.sent(),
        bytes_recv = entry.received(),
        age = ?Duration::from_millis(now.saturating_sub(entry.opened_ms())),
        "cut"
    );
}
