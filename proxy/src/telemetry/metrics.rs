//! Every metric family, under stock's names where stock has it.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::control_plane::ControlPlaneMetrics;
use super::dns::DnsMetrics;
use super::facts::Direction;
use super::handover::HandoverMetrics;
use super::inheritance::Inheritance;
use super::labels::{ReporterLabel, TrafficLabels};
use super::process::ProcessCollector;
use super::workload_manager::WorkloadManagerMetrics;

/// The metrics of the process, and its clock. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

struct Inner {
    registry: Registry,
    traffic: Traffic,
    control_plane: ControlPlaneMetrics,
    workload_manager: WorkloadManagerMetrics,
    handover: HandoverMetrics,
    dns: DnsMetrics,
    sockets: Family<ReporterLabel, Gauge>,
    tunnels: Family<RoleLabel, Gauge>,
    tunnels_failed: Family<RoleLabel, Counter>,
    moves: Family<MoveLabel, Counter>,
    move_pause: Histogram,
    worker_panics: Counter,
    accept_paused: Counter,
    rechecks: Counter,
    drain_cut: Family<KindLabel, Counter>,
    inheritance: Mutex<Inheritance>,
    /// Of all labels, for the log.
    ended: AtomicU64,
    now: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// The families that count user connections.
pub(super) struct Traffic {
    pub(super) opened: Family<TrafficLabels, Counter>,
    pub(super) closed: Family<TrafficLabels, Counter>,
    pub(super) failed: Family<TrafficLabels, Counter>,
    /// Towards the destination (the request), whichever side reports.
    pub(super) received: Family<TrafficLabels, Counter>,
    /// Towards the source (the response).
    pub(super) sent: Family<TrafficLabels, Counter>,
}

/// Which end of a tunnel we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelRole {
    /// We dialled.
    Client,
    /// We accepted.
    Server,
}

/// How a tunnel's move to another worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveResult {
    /// It runs there.
    Moved,
    /// It could not be thawed: its connections are lost, each says so in the access log.
    Lost,
}

impl Telemetry {
    /// `istio_version` is the tag that `istio_build` shows; `now` tells milliseconds on the process's monotonic clock.
    pub fn new(istio_version: &str, now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));

        let istio = registry.sub_registry_with_prefix("istio");
        let build: Family<BuildLabels, Gauge> = Family::default();
        build.get_or_create(&BuildLabels { component: "ztunnel", tag: istio_version.to_owned() }).set(1);
        istio.register("build", "Istio component build info", build);
        let traffic = Traffic::new(istio);
        let sockets = registered(istio, "tcp_sockets_open", "TCP sockets that are open now");
        let control_plane = ControlPlaneMetrics::new(istio);
        let dns = DnsMetrics::new(istio);
        let workload_manager =
            WorkloadManagerMetrics::new(registry.sub_registry_with_prefix("workload_manager"));

        let ours = registry.sub_registry_with_prefix("ztunnel");
        control_plane.register_ours(ours);
        workload_manager.register_ours(ours);
        let handover = HandoverMetrics::new(ours);
        let tunnels = registered(ours, "tunnels_open", "HBONE tunnels that are open now");
        let tunnels_failed = registered(ours, "tunnels_failed", "HBONE tunnels that did not come up");
        let moves = registered(ours, "tunnel_moves", "Moves of tunnels between workers");
        let move_pause = Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let help = "Seconds from freezing a tunnel until it ran again";
        ours.register("tunnel_move_pause_seconds", help, move_pause.clone());
        let worker_panics = registered(ours, "worker_panics", "Panics that ended one tunnel or connection");
        let accept_paused =
            registered(ours, "accept_paused", "Times that accepting stopped for want of descriptors");
        let rechecks = registered(
            ours,
            "rechecks",
            "Live connections that were judged again after a change of the mesh",
        );
        let drain_cut = registered(
            ours,
            "drain_cut_connections",
            "Connections that were cut when the deadline of a drain had come",
        );

        let now = Box::new(now);
        Self(Arc::new(Inner {
            registry,
            traffic,
            control_plane,
            workload_manager,
            handover,
            dns,
            sockets,
            tunnels,
            tunnels_failed,
            moves,
            move_pause,
            worker_panics,
            accept_paused,
            rechecks,
            drain_cut,
            inheritance: Mutex::default(),
            ended: AtomicU64::new(0),
            now,
        }))
    }

    /// All metrics in the OpenMetrics text format, which ends with `# EOF`.
    pub fn exposition(&self) -> String {
        self.inheritance(|inheritance, counted| inheritance.applied(counted))
    }

    /// What was counted here is the successor's from now on; what to tell it, for its [`Self::take_counters`].
    pub fn leave_counters(&self) -> String {
        self.inheritance(Inheritance::leave)
    }

    /// The successor is gone: what was left to it last is shown here again.
    pub fn take_counters_back(&self) {
        self.inheritance(|inheritance, _| inheritance.take_back());
    }

    /// Goes on from what a predecessor has counted. What can't be read is skipped.
    pub fn take_counters(&self, left: &str) {
        self.inheritance(|inheritance, _| inheritance.take(left));
    }

    fn inheritance<R>(&self, f: impl FnOnce(&mut Inheritance, &str) -> R) -> R {
        let mut inheritance = self.0.inheritance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = String::new();
        text::encode(&mut counted, &self.0.registry).expect("writing to a string doesn't fail");
        f(&mut inheritance, &counted)
    }

    /// Milliseconds on the process's monotonic clock.
    pub fn now_ms(&self) -> u64 {
        (self.0.now)()
    }

    /// Counts a TCP socket of a user connection or tunnel for as long as the guard lives.
    pub fn socket_opened(&self, direction: Direction) -> Open {
        Open::new(self.0.sockets.get_or_create_owned(&direction.into()))
    }

    /// Counts a tunnel for as long as the guard lives.
    pub fn tunnel_opened(&self, role: TunnelRole) -> Open {
        Open::new(self.0.tunnels.get_or_create_owned(&RoleLabel { role }))
    }

    /// Counts a tunnel that did not come up.
    pub fn tunnel_failed(&self, role: TunnelRole) {
        self.0.tunnels_failed.get_or_create(&RoleLabel { role }).inc();
    }

    /// Counts a move between workers. `pause` is the time from freezing until it ran again, here or there.
    pub fn tunnel_moved(&self, result: MoveResult, pause: Duration) {
        self.0.moves.get_or_create(&MoveLabel { result }).inc();
        self.0.move_pause.observe(pause.as_secs_f64());
    }

    /// Counts a panic that was caught.
    pub fn worker_panicked(&self) {
        self.0.worker_panics.inc();
    }

    /// Counts a pause of accepting.
    pub fn accept_paused(&self) {
        self.0.accept_paused.inc();
    }

    /// Counts a live connection that is judged again.
    pub fn rechecked(&self) {
        self.0.rechecks.inc();
    }

    /// How many user connections have ended here so far. Those that were handed over have not.
    pub fn connections_ended(&self) -> u64 {
        self.0.ended.load(Ordering::Relaxed)
    }

    pub(super) fn connection_ended(&self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that is cut at the deadline of a drain.
    pub fn drain_cut(&self, kind: drain::Kind) {
        self.0.drain_cut.get_or_create(&KindLabel { kind: kind.as_str() }).inc();
    }

    /// What is counted of the control plane.
    pub fn control_plane(&self) -> &ControlPlaneMetrics {
        &self.0.control_plane
    }

    /// What is counted of hand-overs.
    pub fn handover(&self) -> &HandoverMetrics {
        &self.0.handover
    }

    /// What is counted of pods and of istio-cni.
    pub fn workload_manager(&self) -> &WorkloadManagerMetrics {
        &self.0.workload_manager
    }

    /// What is counted of the DNS proxy.
    pub fn dns(&self) -> &DnsMetrics {
        &self.0.dns
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telemetry")
    }
}

/// Something that is open and counted; dropping it counts it out.
#[derive(Debug)]
pub struct Open(Gauge);

impl Open {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Traffic {
    fn new(registry: &mut Registry) -> Self {
        Self {
            opened: registered(
                registry,
                "tcp_connections_opened",
                "The total number of TCP connections opened",
            ),
            closed: registered(
                registry,
                "tcp_connections_closed",
                "The total number of TCP connections closed",
            ),
            failed: registered(
                registry,
                "tcp_connections_failed",
                "The total number of TCP connections that failed",
            ),
            received: registered(registry, "tcp_received_bytes", "The total number of bytes of TCP requests"),
            sent: registered(registry, "tcp_sent_bytes", "The total number of bytes of TCP responses"),
        }
    }
}

/// A new metric, registered. Counters get `_total` when they are exposed.
pub(super) fn registered<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Default + Clone,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    component: &'static str,
    tag: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: TunnelRole,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MoveLabel {
    result: MoveResult,
}

impl EncodeLabelValue for TunnelRole {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

impl EncodeLabelValue for MoveResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Moved => "moved",
            Self::Lost => "lost",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_stock() {
        let telemetry = Telemetry::new("1.31.0", || 0);
        let socket = telemetry.socket_opened(Direction::Outbound);
        let text = telemetry.exposition();
        for line in [
            "# TYPE istio_build gauge",
            r#"istio_build{component="ztunnel",tag="1.31.0"} 1"#,
            r#"istio_tcp_sockets_open{reporter="source"} 1"#,
            "# TYPE process_open_fds gauge",
            "# TYPE process_max_fds gauge",
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(socket);
        assert!(telemetry.exposition().contains(r#"istio_tcp_sockets_open{reporter="source"} 0"#));
    }

    #[test]
    fn our_own_metrics_count() {
        let telemetry = Telemetry::new("", || 0);
        telemetry.tunnel_moved(MoveResult::Moved, Duration::from_micros(75));
        telemetry.tunnel_moved(MoveResult::Lost, Duration::from_secs(9));
        telemetry.worker_panicked();
        telemetry.accept_paused();
        telemetry.rechecked();
        telemetry.drain_cut(drain::Kind::Plain);
        telemetry.tunnel_failed(TunnelRole::Client);
        let tunnel = telemetry.tunnel_opened(TunnelRole::Server);
        let text = telemetry.exposition();
        for line in [
            r#"ztunnel_tunnel_moves_total{result="moved"} 1"#,
            r#"ztunnel_tunnel_moves_total{result="lost"} 1"#,
            r#"ztunnel_tunnel_move_pause_seconds_bucket{le="0.0001"} 1"#,
            "ztunnel_tunnel_move_pause_seconds_count 2",
            "ztunnel_worker_panics_total 1",
            "ztunnel_accept_paused_total 1",
            "ztunnel_rechecks_total 1",
            r#"ztunnel_drain_cut_connections_total{kind="plain"} 1"#,
            r#"ztunnel_tunnels_open{role="server"} 1"#,
            r#"ztunnel_tunnels_failed_total{role="client"} 1"#,
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line} is missing in\n{text}");
        }
        drop(tunnel);
    }

    #[test]
    fn open_descriptors_follow_the_process() {
        let value = |text: &str| -> i64 {
            let line = text.lines().find(|line| line.starts_with("process_open_fds ")).unwrap();
            line.split_once(' ').unwrap().1.parse().unwrap()
        };
        let telemetry = Telemetry::new("", || 0);
        // Other tests open and close descriptors at the same time: hold more than they can.
        let before = value(&telemetry.exposition());
        let held: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let after = value(&telemetry.exposition());
        assert!(after - before > 100, "{before} → {after}");
        drop(held);
    }
}
