//! One user connection, from open to close.

use std::net::SocketAddr;

use drain::Tracked;
use prometheus_client::metrics::counter::Counter;

use super::access_log::{self, Completion};
use super::facts::{ConnectionFacts, Direction};
use super::labels::{ResponseFlags, TrafficLabels};
use super::metrics::{Open, Telemetry};

/// Counts and logs one user connection.
///
/// ```text
///   open ────┐              ┌─── close ──── counted as closed, one line in the access log
///            ├── sent, ─────┤
///   resume ──┘   received   ├─── release ── it lives on elsewhere: neither
///                           └─── (dropped)  as close, with a reason that says so
/// ```
///
/// `sent` are bytes towards the source (responses), `received` those towards the destination (requests), whichever
/// side reports. Labels are looked up when it opens; from then on counting is atomics only.
pub struct Observation {
    telemetry: Telemetry,
    /// None once it has ended.
    live: Option<Live>,
}

struct Live {
    tracked: Tracked<ConnectionFacts>,
    sent: Counter,
    received: Counter,
    closed: Counter,
    /// Its place in the gauge of open sockets.
    _open: Open,
}

/// Why a connection ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For the metrics.
    pub flags: ResponseFlags,
    /// For the log, in words.
    pub reason: String,
}

impl Failure {
    /// A failure with these words.
    pub fn new(flags: ResponseFlags, reason: impl Into<String>) -> Self {
        Self { flags, reason: reason.into() }
    }
}

impl Observation {
    /// A connection begins here: counted as opened, and a line at DEBUG.
    pub fn open(telemetry: &Telemetry, tracked: Tracked<ConnectionFacts>) -> Self {
        let facts = tracked.facts();
        let labels = TrafficLabels::new(&facts, ResponseFlags::None);
        telemetry.traffic().opened.get_or_create(&labels).inc();
        access_log::opened(&facts);
        Self::new(telemetry, tracked, &labels)
    }

    /// A connection that began in another process arrives, having carried so many bytes there.
    pub fn resume(
        telemetry: &Telemetry,
        tracked: Tracked<ConnectionFacts>,
        sent: u64,
        received: u64,
    ) -> Self {
        tracked.add_sent(sent);
        tracked.add_received(received);
        let labels = TrafficLabels::new(&tracked.facts(), ResponseFlags::None);
        Self::new(telemetry, tracked, &labels)
    }

    fn new(telemetry: &Telemetry, tracked: Tracked<ConnectionFacts>, labels: &TrafficLabels) -> Self {
        let traffic = telemetry.traffic();
        let open = telemetry.socket_opened(tracked.facts().direction);
        let live = Live {
            tracked,
            sent: traffic.sent.get_or_create_owned(labels),
            received: traffic.received.get_or_create_owned(labels),
            closed: traffic.closed.get_or_create_owned(labels),
            _open: open,
        };
        Self { telemetry: telemetry.clone(), live: Some(live) }
    }

    /// Counts bytes towards the source.
    pub fn sent(&self, bytes: u64) {
        if let Some(live) = &self.live {
            live.tracked.add_sent(bytes);
            live.sent.inc_by(bytes);
        }
    }

    /// Counts bytes towards the destination.
    pub fn received(&self, bytes: u64) {
        if let Some(live) = &self.live {
            live.tracked.add_received(bytes);
            live.received.inc_by(bytes);
        }
    }

    /// What is known of the connection; its entry in the registry.
    pub fn tracked(&self) -> Option<&Tracked<ConnectionFacts>> {
        self.live.as_ref().map(|live| &live.tracked)
    }

    /// Another worker has it from now on.
    pub fn set_worker(&self, worker: usize) {
        if let Some(tracked) = self.tracked() {
            tracked.set_worker(worker);
        }
    }

    /// The connection ends here. `now_ms` is on the same clock as its time of opening.
    pub fn close(mut self, now_ms: u64, outcome: Result<(), &Failure>) {
        if let Some(live) = self.live.take() {
            live.close(&self.telemetry, now_ms, outcome);
        }
    }

    /// The connection lives on in another process: no line, not counted as closed. Returns bytes sent and received.
    pub fn release(mut self) -> (u64, u64) {
        self.live.take().map_or((0, 0), |live| (live.tracked.sent(), live.tracked.received()))
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        let reason = if std::thread::panicking() {
            "connection closed due to an internal error"
        } else {
            "connection closed due to connection drain"
        };
        let failure = Failure { flags: ResponseFlags::None, reason: reason.to_owned() };
        live.close(&self.telemetry, self.telemetry.now_ms(), Err(&failure));
    }
}

impl Live {
    fn close(self, telemetry: &Telemetry, now_ms: u64, outcome: Result<(), &Failure>) {
        let facts = self.tracked.facts();
        telemetry.connection_ended();
        match outcome {
            Ok(()) => {
                self.closed.inc();
            }
            Err(failure) => {
                let labels = TrafficLabels::new(&facts, failure.flags);
                telemetry.traffic().closed.get_or_create(&labels).inc();
                telemetry.traffic().failed.get_or_create(&labels).inc();
            }
        }
        let completion = Completion {
            sent: self.tracked.sent(),
            received: self.tracked.received(),
            duration_ms: now_ms.saturating_sub(self.tracked.opened_ms()),
            error: outcome.err().map(|failure| failure.reason.as_str()),
        };
        access_log::complete(&facts, &completion);
    }
}

/// A connection that ends before it is known who talks to whom: one line at WARN, no counters.
pub fn refused_early(
    source: SocketAddr,
    destination: Option<SocketAddr>,
    direction: Direction,
    reason: &str,
) {
    access_log::refused_early(source, destination, direction, reason);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use drain::{Kind, Registry};
    use xds::{Workload, WorkloadSpec};

    use super::super::facts::{Party, ServiceFacts};
    use super::super::log::testing::logged;
    use super::*;
    use crate::config::LogFormat;

    fn party(name: &str) -> Party {
        let workload = Workload::new(WorkloadSpec {
            uid: format!("Kubernetes//Pod/shop/{name}-1").into(),
            name: format!("{name}-1").into(),
            namespace: "shop".into(),
            service_account: name.into(),
            workload_name: name.into(),
            canonical_name: name.into(),
            canonical_revision: "v2".into(),
            ..WorkloadSpec::default()
        });
        Party::from(&workload.unwrap())
    }

    fn facts(direction: Direction) -> ConnectionFacts {
        ConnectionFacts {
            direction,
            source: Some("10.0.0.1:40000".parse().unwrap()),
            source_party: party("web"),
            destination: Some("10.0.0.2:15008".parse().unwrap()),
            destination_party: party("cart"),
            application: None,
            hbone_destination: Some("10.0.0.2:8080".to_owned()),
            service: Some(ServiceFacts {
                hostname: "cart.shop.svc.cluster.local".into(),
                name: "cart".into(),
                namespace: "shop".into(),
            }),
            mutual_tls: true,
        }
    }

    struct Bench {
        telemetry: Telemetry,
        registry: Arc<Registry<ConnectionFacts>>,
    }

    impl Bench {
        fn new() -> Self {
            Self { telemetry: Telemetry::new("1.31.0", || 1_500), registry: Registry::new(1) }
        }

        fn open(&self, facts: ConnectionFacts) -> Observation {
            Observation::open(&self.telemetry, self.registry.track(0, Kind::Stream, facts, 1_000))
        }

        /// The lines of one family: labels (without the family's name) and value.
        fn family(&self, name: &str) -> Vec<String> {
            let text = self.telemetry.exposition();
            let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
            lines.map(ToOwned::to_owned).collect()
        }

        /// The sum over all labels that contain `label`.
        fn count(&self, name: &str, label: &str) -> u64 {
            let lines = self.family(name).into_iter().filter(|line| line.contains(label));
            lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
        }
    }

    /// The line without its time.
    fn without_time(line: &str) -> &str {
        line.split_once('\t').unwrap().1
    }

    const COMMON: &str = "src.addr=10.0.0.1:40000 src.workload=\"web-1\" src.namespace=\"shop\" \
        src.identity=\"spiffe://cluster.local/ns/shop/sa/web\" src.cluster=\"Kubernetes\" \
        dst.addr=10.0.0.2:15008 dst.hbone_addr=10.0.0.2:8080 dst.service=\"cart.shop.svc.cluster.local\" \
        dst.workload=\"cart-1\" dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" \
        dst.cluster=\"Kubernetes\"";

    #[test]
    fn an_outbound_connection_is_one_line() {
        let lines = logged("info", LogFormat::Plain, || {
            let connection = Bench::new().open(facts(Direction::Outbound));
            connection.received(84);
            connection.sent(239);
            connection.close(1_003, Ok(()));
        });
        let expected = format!(
            "info\taccess\tconnection complete\t{COMMON} direction=\"outbound\" bytes_sent=84 bytes_recv=239 \
             duration=\"3ms\""
        );
        assert_eq!(lines.iter().map(|line| without_time(line)).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn an_inbound_connection_speaks_from_the_other_side() {
        let lines = logged("access=debug", LogFormat::Plain, || {
            let connection = Bench::new().open(facts(Direction::Inbound));
            connection.received(84);
            connection.sent(239);
            let reason = "connection refused".to_owned();
            connection.close(61_000, Err(&Failure { flags: ResponseFlags::Connect, reason }));
        });
        let opened = format!("debug\taccess\tconnection opened\t{COMMON} direction=\"inbound\"");
        let closed = format!(
            "error\taccess\tconnection complete\t{COMMON} direction=\"inbound\" bytes_sent=239 bytes_recv=84 \
             duration=\"60000ms\" error=\"connection refused\""
        );
        assert_eq!(lines.iter().map(|line| without_time(line)).collect::<Vec<_>>(), [opened, closed]);
    }

    #[test]
    fn json_has_the_same_fields() {
        let lines = logged("info", LogFormat::Json, || {
            Bench::new().open(facts(Direction::Outbound)).close(1_003, Ok(()));
        });
        let (_, after) = lines[0].split_once("\"scope\":").unwrap();
        assert_eq!(
            after,
            r#""access","src.addr":"10.0.0.1:40000","src.workload":"web-1","src.namespace":"shop","src.identity":"spiffe://cluster.local/ns/shop/sa/web","src.cluster":"Kubernetes","dst.addr":"10.0.0.2:15008","dst.hbone_addr":"10.0.0.2:8080","dst.service":"cart.shop.svc.cluster.local","dst.workload":"cart-1","dst.namespace":"shop","dst.identity":"spiffe://cluster.local/ns/shop/sa/cart","dst.cluster":"Kubernetes","direction":"outbound","bytes_sent":0,"bytes_recv":0,"duration":"3ms","message":"connection complete"}"#
        );
    }

    #[test]
    fn what_is_unknown_or_unproved_is_left_out() {
        let lines = logged("info", LogFormat::Plain, || {
            let plain = ConnectionFacts {
                source_party: Party::default(),
                hbone_destination: None,
                service: None,
                mutual_tls: false,
                ..facts(Direction::Inbound)
            };
            Bench::new().open(plain).close(1_000, Ok(()));
        });
        assert_eq!(
            without_time(&lines[0]),
            "info\taccess\tconnection complete\tsrc.addr=10.0.0.1:40000 dst.addr=10.0.0.2:15008 \
             dst.workload=\"cart-1\" dst.namespace=\"shop\" dst.cluster=\"Kubernetes\" direction=\"inbound\" \
             bytes_sent=0 bytes_recv=0 duration=\"0ms\""
        );
    }

    #[test]
    fn an_early_refusal_is_one_warning() {
        let lines = logged("info", LogFormat::Plain, || {
            let (source, destination) =
                ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:15008".parse().unwrap());
            refused_early(source, Some(destination), Direction::Inbound, "unknown workload");
        });
        assert_eq!(
            without_time(&lines[0]),
            "warn\taccess\tconnection failed\tsrc.addr=10.0.0.1:40000 dst.addr=10.0.0.2:15008 \
             direction=\"inbound\" error=\"unknown workload\""
        );
    }

    #[test]
    fn labels_are_those_of_stock() {
        let bench = Bench::new();
        bench.open(facts(Direction::Outbound)).close(1_000, Ok(()));
        assert_eq!(
            bench.family("istio_tcp_connections_opened_total"),
            [concat!(
                r#"reporter="source",source_workload="web",source_canonical_service="web","#,
                r#"source_canonical_revision="v2",source_workload_namespace="shop","#,
                r#"source_principal="spiffe://cluster.local/ns/shop/sa/web",source_app="web",source_version="v2","#,
                r#"source_cluster="Kubernetes",destination_service="cart.shop.svc.cluster.local","#,
                r#"destination_service_namespace="shop",destination_service_name="cart",destination_workload="cart","#,
                r#"destination_canonical_service="cart",destination_canonical_revision="v2","#,
                r#"destination_workload_namespace="shop","#,
                r#"destination_principal="spiffe://cluster.local/ns/shop/sa/cart",destination_app="cart","#,
                r#"destination_version="v2",destination_cluster="Kubernetes",request_protocol="tcp","#,
                r#"response_flags="-",connection_security_policy="mutual_tls",source_region="unknown","#,
                r#"source_zone="unknown",destination_region="unknown",destination_zone="unknown"} 1"#
            )]
        );
    }

    #[test]
    fn strangers_are_unknown_and_have_no_place() {
        let bench = Bench::new();
        let strangers = ConnectionFacts {
            source_party: Party::default(),
            destination_party: Party::default(),
            service: None,
            mutual_tls: false,
            ..facts(Direction::Inbound)
        };
        bench.open(strangers).close(1_000, Ok(()));
        let lines = bench.family("istio_tcp_connections_opened_total");
        assert!(lines[0].starts_with(r#"reporter="destination",source_workload="unknown","#), "{lines:?}");
        assert!(
            lines[0].ends_with(r#"response_flags="-",connection_security_policy="unknown"} 1"#),
            "{lines:?}"
        );
    }

    #[test]
    fn bytes_count_while_it_is_open() {
        let bench = Bench::new();
        let connection = bench.open(facts(Direction::Outbound));
        connection.sent(10);
        connection.received(3);
        connection.sent(5);
        assert_eq!(bench.count("istio_tcp_sent_bytes_total", ""), 15);
        assert_eq!(bench.count("istio_tcp_received_bytes_total", ""), 3);
        let entries = bench.registry.snapshot();
        assert_eq!((entries[0].sent(), entries[0].received()), (15, 3));
        assert_eq!(bench.count("istio_tcp_connections_closed_total", ""), 0);
        connection.close(2_000, Ok(()));
        assert_eq!(bench.count("istio_tcp_connections_closed_total", ""), 1);
        assert_eq!(bench.count("istio_tcp_connections_failed_total", ""), 0);
        assert!(bench.registry.is_empty());
    }

    #[test]
    fn a_failure_has_its_flags() {
        let bench = Bench::new();
        let failure = Failure { flags: ResponseFlags::Deny, reason: "denied".to_owned() };
        bench.open(facts(Direction::Inbound)).close(2_000, Err(&failure));
        assert_eq!(bench.count("istio_tcp_connections_closed_total", r#"response_flags="DENY""#), 1);
        assert_eq!(bench.count("istio_tcp_connections_failed_total", r#"response_flags="DENY""#), 1);
        assert_eq!(bench.count("istio_tcp_connections_closed_total", r#"response_flags="-""#), 0);
    }

    #[test]
    fn a_moved_connection_is_opened_once_and_closed_once() {
        let (old, new) = (Bench::new(), Bench::new());
        let lines = logged("info", LogFormat::Plain, || {
            let before = old.open(facts(Direction::Outbound));
            before.sent(7);
            before.received(2);
            let (sent, received) = before.release();
            assert_eq!((sent, received), (7, 2));

            let tracked = new.registry.track(0, Kind::Stream, facts(Direction::Outbound), 1_000);
            let after = Observation::resume(&new.telemetry, tracked, sent, received);
            after.sent(1);
            after.close(4_000, Ok(()));
        });
        assert!(old.registry.is_empty() && new.registry.is_empty());
        assert_eq!(old.count("istio_tcp_connections_opened_total", ""), 1);
        assert_eq!(new.count("istio_tcp_connections_opened_total", ""), 0);
        assert_eq!(old.count("istio_tcp_connections_closed_total", ""), 0);
        assert_eq!(new.count("istio_tcp_connections_closed_total", ""), 1);
        assert_eq!(new.count("istio_tcp_sent_bytes_total", ""), 1);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(r#"bytes_sent=2 bytes_recv=8 duration="3000ms""#), "{lines:?}");
    }

    #[test]
    fn what_is_dropped_is_told() {
        let bench = Bench::new();
        let lines = logged("info", LogFormat::Plain, || drop(bench.open(facts(Direction::Outbound))));
        let end = r#"duration="500ms" error="connection closed due to connection drain""#;
        assert!(lines[0].ends_with(end), "{lines:?}");
        assert_eq!(bench.count("istio_tcp_connections_failed_total", r#"response_flags="-""#), 1);
    }

    #[test]
    fn facts_survive_the_way_to_another_process() {
        let facts = facts(Direction::Outbound);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<ConnectionFacts>(&text).unwrap(), facts);
    }
}
