//! What is counted of the DNS proxy.

use std::fmt::{self, Write};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use xds::Workload;

use super::labels::OrUnknown;
use super::metrics::registered;

/// The families; clones are the same.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    requests: Family<DnsLabels, Counter>,
    upstream_requests: Family<DnsLabels, Counter>,
    upstream_failures: Family<DnsLabels, Counter>,
    upstream_seconds: Family<DnsLabels, Histogram, fn() -> Histogram>,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsTransport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What was asked, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DnsLabels {
    request_query_type: QueryType,
    request_protocol: DnsTransport,
    source_canonical_service: OrUnknown,
    source_canonical_revision: OrUnknown,
}

impl DnsLabels {
    /// The labels of one question; `source` is None for a pod that the mesh doesn't know yet.
    pub fn new(query_type: RecordType, transport: DnsTransport, source: Option<&Workload>) -> Self {
        Self {
            // A client must not be able to make thousands of series.
            request_query_type: QueryType(match query_type {
                RecordType::Unknown(_) => None,
                known => Some(known),
            }),
            request_protocol: transport,
            source_canonical_service: OrUnknown::from(&source.map(|source| source.canonical_name.clone())),
            source_canonical_revision: OrUnknown::from(
                &source.map(|source| source.canonical_revision.clone()),
            ),
        }
    }
}

impl DnsMetrics {
    /// `istio` is the registry of stock's families.
    pub(super) fn new(istio: &mut Registry) -> Self {
        let histogram = || Histogram::new([0.0005, 0.001, 0.01, 0.1, 1.0, 5.0]);
        let upstream_seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        let help = "Seconds until a nameserver's answer to a forwarded DNS request, or until it was given up";
        istio.register("dns_upstream_request_duration_seconds", help, upstream_seconds.clone());
        Self {
            requests: registered(istio, "dns_requests", "Total number of DNS requests"),
            upstream_requests: registered(
                istio,
                "dns_upstream_requests",
                "Total number of DNS requests that were forwarded to a nameserver",
            ),
            upstream_failures: registered(
                istio,
                "dns_upstream_failures",
                "Total number of forwarded DNS requests that no nameserver answered",
            ),
            upstream_seconds,
        }
    }

    /// Counts a question.
    pub fn requested(&self, labels: &DnsLabels) {
        self.requests.get_or_create(labels).inc();
    }

    /// Counts a question that is forwarded.
    pub fn forwarded(&self, labels: &DnsLabels) {
        self.upstream_requests.get_or_create(labels).inc();
    }

    /// Counts how a forwarded question ended.
    pub fn forwarding_ended(&self, labels: &DnsLabels, answered: bool, took: Duration) {
        if !answered {
            self.upstream_failures.get_or_create(labels).inc();
        }
        self.upstream_seconds.get_or_create(labels).observe(took.as_secs_f64());
    }
}

/// None is a type without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct QueryType(Option<RecordType>);

impl EncodeLabelValue for QueryType {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self.0 {
            Some(known) => encoder.write_str(&known.to_string().to_ascii_lowercase()),
            None => encoder.write_str("unknown"),
        }
    }
}

impl EncodeLabelValue for DnsTransport {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

#[cfg(test)]
mod tests {
    use xds::WorkloadSpec;

    use super::super::Telemetry;
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_stock() {
        let telemetry = Telemetry::new("", || 0);
        let metrics = telemetry.dns();
        let spec = WorkloadSpec {
            uid: "web".into(),
            namespace: "shop".into(),
            canonical_name: "web".into(),
            canonical_revision: "v1".into(),
            ..WorkloadSpec::default()
        };
        let workload = Workload::new(spec).unwrap();
        let labels = DnsLabels::new(RecordType::AAAA, DnsTransport::Udp, Some(&workload));
        metrics.requested(&labels);
        metrics.forwarded(&labels);
        metrics.forwarding_ended(&labels, false, Duration::from_millis(2));
        for unnamed in [65_280, 65_281] {
            metrics.requested(&DnsLabels::new(RecordType::Unknown(unnamed), DnsTransport::Tcp, None));
        }
        let text = telemetry.exposition();
        let known = r#"request_query_type="aaaa",request_protocol="udp",source_canonical_service="web",source_canonical_revision="v1""#;
        let unknown = r#"request_query_type="unknown",request_protocol="tcp",source_canonical_service="unknown",source_canonical_revision="unknown""#;
        for line in [
            format!("istio_dns_requests_total{{{known}}} 1"),
            format!("istio_dns_requests_total{{{unknown}}} 2"),
            format!("istio_dns_upstream_requests_total{{{known}}} 1"),
            format!("istio_dns_upstream_failures_total{{{known}}} 1"),
            format!(r#"istio_dns_upstream_request_duration_seconds_bucket{{le="0.001",{known}}} 0"#),
            format!(r#"istio_dns_upstream_request_duration_seconds_bucket{{le="0.01",{known}}} 1"#),
            format!(r#"istio_dns_upstream_request_duration_seconds_bucket{{le="5.0",{known}}} 1"#),
            format!("istio_dns_upstream_request_duration_seconds_count{{{known}}} 1"),
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line} is missing in\n{text}");
        }
    }
}
