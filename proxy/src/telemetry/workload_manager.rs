//! Metrics of the pods that are served, and of what istio-cni says of them.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::registered;

/// The families; clones are the same.
#[derive(Clone, Debug)]
pub struct WorkloadManagerMetrics {
    active: Gauge,
    pending: Gauge,
    started: Counter,
    stopped: Counter,
    connected: Gauge,
    messages: Family<MessageLabels, Counter>,
}

/// What istio-cni said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZdsMessage {
    /// A pod is to be served.
    Add,
    /// A pod of which it knows no more than its uid still lives.
    Keep,
    /// A pod is to be served no more.
    Del,
    /// All pods are named.
    SnapshotSent,
    /// Something that breaks the protocol.
    Unreadable,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ZdsResult {
    /// It was done.
    Acked,
    /// It was not, and istio-cni knows why.
    Nacked,
    /// It took too long: instead of an answer the connection was closed.
    Late,
    /// The connection was lost before there was an answer.
    Lost,
}

impl WorkloadManagerMetrics {
    /// `workload_manager` is the registry of stock's families.
    pub(super) fn new(workload_manager: &mut Registry) -> Self {
        Self {
            active: registered(
                workload_manager,
                "active_proxy_count",
                "The total number current workloads with active proxies (unstable)",
            ),
            pending: registered(
                workload_manager,
                "pending_proxy_count",
                "The total number current workloads with pending proxies (unstable)",
            ),
            started: registered(
                workload_manager,
                "proxies_started",
                "The total number of proxies that were started (unstable)",
            ),
            stopped: registered(
                workload_manager,
                "proxies_stopped",
                "The total number of proxies that were stopped (unstable)",
            ),
            connected: Gauge::default(),
            messages: Family::default(),
        }
    }

    /// Registers the families that stock doesn't have.
    pub(super) fn register_ours(&self, ours: &mut Registry) {
        let help = "Whether there is a connection to istio-cni (1) or not (0)";
        ours.register("zds_connected", help, self.connected.clone());
        let help = "Messages of istio-cni by what became of them";
        ours.register("zds_messages", help, self.messages.clone());
    }

    /// How many pods are served, and how many should be but can't.
    pub fn pods(&self, active: usize, pending: usize) {
        self.active.set(i64::try_from(active).unwrap_or(i64::MAX));
        self.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
    }

    /// Counts a pod that is served from now on.
    pub fn started(&self) {
        self.started.inc();
    }

    /// Counts a pod that is served no more.
    pub fn stopped(&self) {
        self.stopped.inc();
    }

    /// Whether there is a connection to istio-cni.
    pub fn connected(&self, up: bool) {
        self.connected.set(up.into());
    }

    /// Counts a message.
    pub fn message(&self, message: ZdsMessage, result: ZdsResult) {
        self.messages.get_or_create(&MessageLabels { r#type: message, result }).inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    r#type: ZdsMessage,
    result: ZdsResult,
}

impl EncodeLabelValue for ZdsMessage {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Add => "add",
            Self::Keep => "keep",
            Self::Del => "del",
            Self::SnapshotSent => "snapshot_sent",
            Self::Unreadable => "unreadable",
        })
    }
}

impl EncodeLabelValue for ZdsResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Acked => "acked",
            Self::Nacked => "nacked",
            Self::Late => "late",
            Self::Lost => "lost",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Telemetry;
    use super::*;

    #[test]
    fn names_and_labels() {
        let telemetry = Telemetry::new("", || 0);
        let metrics = telemetry.workload_manager();
        metrics.pods(3, 1);
        metrics.started();
        metrics.stopped();
        metrics.connected(true);
        metrics.message(ZdsMessage::SnapshotSent, ZdsResult::Late);
        let text = telemetry.exposition();
        for line in [
            "# TYPE workload_manager_active_proxy_count gauge",
            "workload_manager_active_proxy_count 3",
            "workload_manager_pending_proxy_count 1",
            "workload_manager_proxies_started_total 1",
            "workload_manager_proxies_stopped_total 1",
            "ztunnel_zds_connected 1",
            r#"ztunnel_zds_messages_total{type="snapshot_sent",result="late"} 1"#,
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line} is missing in\n{text}");
        }
    }
}
