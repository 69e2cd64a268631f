//! Metrics of what the proxy and its control plane say to each other.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use xds::client::{Reports, Termination};

use super::metrics::registered;

/// The families; clones are the same.
#[derive(Clone, Debug)]
pub struct ControlPlaneMetrics {
    connected: Gauge,
    terminations: Family<ReasonLabel, Counter>,
    messages: Family<UrlLabel, Counter>,
    message_bytes: Family<UrlLabel, Counter>,
    refused: Family<UrlLabel, Counter>,
    certificates: Family<ResultLabel, Counter>,
    other_roots: Counter,
}

/// How a request for a certificate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateResult {
    /// With a certificate that is in use now.
    Signed,
    /// Without an answer.
    Unreachable,
    /// The CA said no.
    Refused,
    /// With an answer that is not what was asked for.
    Unusable,
}

impl ControlPlaneMetrics {
    /// `istio` is the registry of stock's families.
    pub(super) fn new(istio: &mut Registry) -> Self {
        Self {
            connected: Gauge::default(),
            terminations: registered(
                istio,
                "xds_connection_terminations",
                "The total number of completed connections to xds server",
            ),
            messages: registered(istio, "xds_message", "Total number of messages received"),
            message_bytes: registered(istio, "xds_message_bytes", "Total number of bytes received"),
            refused: Family::default(),
            certificates: Family::default(),
            other_roots: Counter::default(),
        }
    }

    /// Registers the families that stock doesn't have.
    pub(super) fn register_ours(&self, ours: &mut Registry) {
        let help = "Whether the stream of mesh state is open (1) or not (0)";
        ours.register("xds_connected", help, self.connected.clone());
        let help = "Resources of the control plane that could not be used as they were";
        ours.register("xds_resources_refused", help, self.refused.clone());
        let help = "Requests for certificates by their result";
        ours.register("certificate_requests", help, self.certificates.clone());
        let help = "Renewed certificates that came with none of the roots of the former ones";
        ours.register("certificate_roots_replaced", help, self.other_roots.clone());
    }

    /// Counts a certificate that came with other roots than its predecessor.
    pub fn roots_replaced(&self) {
        self.other_roots.inc();
    }

    /// Counts a request for a certificate.
    pub fn certificate(&self, result: CertificateResult) {
        self.certificates.get_or_create(&ResultLabel { result }).inc();
    }
}

impl Reports for ControlPlaneMetrics {
    fn connected(&self, up: bool) {
        self.connected.set(up.into());
    }

    fn terminated(&self, reason: Termination) {
        self.terminations.get_or_create(&ReasonLabel { reason: Reason(reason) }).inc();
    }

    fn received(&self, type_url: &str, bytes: usize) {
        let label = UrlLabel { url: type_url.to_owned() };
        self.messages.get_or_create(&label).inc();
        self.message_bytes.get_or_create(&label).inc_by(bytes as u64);
    }

    fn refused(&self, type_url: &str, resources: usize) {
        self.refused.get_or_create(&UrlLabel { url: type_url.to_owned() }).inc_by(resources as u64);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UrlLabel {
    url: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: CertificateResult,
}

/// In stock's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reason(Termination);

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self.0 {
            Termination::ConnectionError => "ConnectionError",
            Termination::Error => "Error",
            Termination::Reconnect => "Reconnect",
            Termination::Complete => "Complete",
        })
    }
}

impl EncodeLabelValue for CertificateResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Signed => "signed",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
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
        let metrics = telemetry.control_plane();
        metrics.connected(true);
        metrics.terminated(Termination::ConnectionError);
        metrics.received(xds::proto::ADDRESS, 77);
        metrics.refused(xds::proto::AUTHORIZATION, 2);
        metrics.certificate(CertificateResult::Unusable);
        metrics.roots_replaced();
        let text = telemetry.exposition();
        for line in [
            r#"istio_xds_connection_terminations_total{reason="ConnectionError"} 1"#,
            r#"istio_xds_message_total{url="type.googleapis.com/istio.workload.Address"} 1"#,
            r#"istio_xds_message_bytes_total{url="type.googleapis.com/istio.workload.Address"} 77"#,
            "ztunnel_xds_connected 1",
            r#"ztunnel_xds_resources_refused_total{url="type.googleapis.com/istio.security.Authorization"} 2"#,
            r#"ztunnel_certificate_requests_total{result="unusable"} 1"#,
            "ztunnel_certificate_roots_replaced_total 1",
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line} is missing in\n{text}");
        }
    }
}
