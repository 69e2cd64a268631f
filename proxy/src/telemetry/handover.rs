//! What is counted of hand-overs (extensions).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::metrics::registered;
use crate::handover::status::Standing;

/// The families; clones are the same.
#[derive(Clone, Debug)]
pub struct HandoverMetrics {
    available: Family<CauseLabel, Gauge>,
    role: Family<RoleLabel, Gauge>,
    connections: Family<ConnectionLabels, Counter>,
    pause: Histogram,
    state_bytes: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

/// One connection's lot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabels {
    /// `given` or `taken`.
    pub direction: &'static str,
    /// `tunnel`, `plain` or `setup`.
    pub kind: &'static str,
    /// `moved`, `refused` or `lost`.
    pub result: &'static str,
}

impl HandoverMetrics {
    pub(super) fn new(ours: &mut Registry) -> Self {
        let pause = Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let help = "Seconds from the freezing of a connection at its old owner until it ran here";
        ours.register("handover_pause_seconds", help, pause.clone());
        Self {
            available: registered(
                ours,
                "handover_available",
                "Whether a successor could take over from here",
            ),
            role: registered(ours, "handover_role", "1 for the place of this process in a hand-over"),
            connections: registered(
                ours,
                "handover_connections",
                "Connections that changed their owner, or did not",
            ),
            pause,
            state_bytes: registered(
                ours,
                "handover_state_bytes",
                "Bytes of connections' state given or taken",
            ),
        }
    }

    /// Whether hand-over is available; if not, why.
    pub fn available(&self, cause: Option<&str>) {
        self.available.clear();
        let label = CauseLabel { cause: cause.unwrap_or_default().to_owned() };
        self.available.get_or_create(&label).set(cause.is_none().into());
    }

    /// The place of this process.
    pub fn role(&self, standing: Standing) {
        for (role, of) in
            [("owner", Standing::Owner), ("candidate", Standing::Candidate), ("standby", Standing::Standby)]
        {
            self.role.get_or_create(&RoleLabel { role }).set((of == standing).into());
        }
    }

    /// A connection was given, taken, or neither.
    pub fn connection(&self, labels: &ConnectionLabels, state_bytes: usize) {
        self.connections.get_or_create(labels).inc();
        self.state_bytes.inc_by(state_bytes as u64);
    }

    /// A connection that was taken runs.
    pub fn pause(&self, pause: Duration) {
        self.pause.observe(pause.as_secs_f64());
    }
}
