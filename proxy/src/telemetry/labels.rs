//! The labels of Istio's standard TCP metrics.

use std::fmt::{self, Write};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder};

use super::facts::{ConnectionFacts, Direction, Party};

/// Why a connection ended badly, in the words of Envoy's response flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResponseFlags {
    /// It didn't, or for a reason without a word.
    #[default]
    None,
    /// Policy denied it.
    Deny,
    /// The destination could not be reached.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// The HTTP/2 handshake failed.
    H2HandshakeFailure,
    /// A NetworkPolicy seems to block the HBONE port.
    NetworkPolicy,
    /// There is no certificate for the workload.
    IdentityError,
    /// The peer's certificate is revoked.
    CertRevoked,
}

impl ResponseFlags {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }
}

impl EncodeLabelValue for ResponseFlags {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

/// Which side of a connection counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReporterLabel {
    reporter: Reporter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reporter {
    Source,
    Destination,
}

impl From<Direction> for ReporterLabel {
    fn from(direction: Direction) -> Self {
        let reporter = match direction {
            Direction::Outbound => Reporter::Source,
            Direction::Inbound => Reporter::Destination,
        };
        Self { reporter }
    }
}

impl EncodeLabelValue for Reporter {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// The labels of one connection; the fields are the names, in stock's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TrafficLabels {
    reporter: Reporter,

    source_workload: OrUnknown,
    source_canonical_service: OrUnknown,
    source_canonical_revision: OrUnknown,
    source_workload_namespace: OrUnknown,
    source_principal: OrUnknown,
    source_app: OrUnknown,
    source_version: OrUnknown,
    source_cluster: OrUnknown,

    destination_service: OrUnknown,
    destination_service_namespace: OrUnknown,
    destination_service_name: OrUnknown,

    destination_workload: OrUnknown,
    destination_canonical_service: OrUnknown,
    destination_canonical_revision: OrUnknown,
    destination_workload_namespace: OrUnknown,
    destination_principal: OrUnknown,
    destination_app: OrUnknown,
    destination_version: OrUnknown,
    destination_cluster: OrUnknown,

    request_protocol: &'static str,
    response_flags: ResponseFlags,
    connection_security_policy: &'static str,

    #[prometheus(flatten)]
    locality: Locality,
}

impl TrafficLabels {
    pub(super) fn new(facts: &ConnectionFacts, response_flags: ResponseFlags) -> Self {
        let (source, destination) = (&facts.source_party, &facts.destination_party);
        let service = facts.service.as_ref();
        Self {
            reporter: ReporterLabel::from(facts.direction).reporter,

            source_workload: OrUnknown::from(&source.workload),
            source_canonical_service: OrUnknown::from(&source.canonical_service),
            source_canonical_revision: OrUnknown::from(&source.canonical_revision),
            source_workload_namespace: OrUnknown::from(&source.namespace),
            // Only what TLS has proved: an address can be borrowed.
            source_principal: OrUnknown::principal(source, facts.mutual_tls),
            source_app: OrUnknown::from(&source.app),
            source_version: OrUnknown::from(&source.version),
            source_cluster: OrUnknown::from(&source.cluster),

            destination_service: OrUnknown(service.map(|service| service.hostname.clone())),
            destination_service_namespace: OrUnknown(service.map(|service| service.namespace.clone())),
            destination_service_name: OrUnknown(service.map(|service| service.name.clone())),

            destination_workload: OrUnknown::from(&destination.workload),
            destination_canonical_service: OrUnknown::from(&destination.canonical_service),
            destination_canonical_revision: OrUnknown::from(&destination.canonical_revision),
            destination_workload_namespace: OrUnknown::from(&destination.namespace),
            destination_principal: OrUnknown::principal(destination, true),
            destination_app: OrUnknown::from(&destination.app),
            destination_version: OrUnknown::from(&destination.version),
            destination_cluster: OrUnknown::from(&destination.cluster),

            request_protocol: "tcp",
            response_flags,
            connection_security_policy: if facts.mutual_tls { "mutual_tls" } else { "unknown" },

            locality: Locality::new(source, destination),
        }
    }
}

/// A value that reads `unknown` when there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OrUnknown(Option<Arc<str>>);

impl OrUnknown {
    fn principal(party: &Party, proved: bool) -> Self {
        let identity = party.identity.as_ref().filter(|_| proved);
        Self(identity.map(|identity| identity.to_string().into()))
    }
}

impl From<&Option<Arc<str>>> for OrUnknown {
    fn from(value: &Option<Arc<str>>) -> Self {
        Self(value.clone().filter(|value| !value.is_empty()))
    }
}

impl EncodeLabelValue for OrUnknown {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.0.as_deref().unwrap_or("unknown"))
    }
}

/// Four labels that are absent unless a party is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Locality(Option<LocalityLabels>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LocalityLabels {
    source_region: OrUnknown,
    source_zone: OrUnknown,
    destination_region: OrUnknown,
    destination_zone: OrUnknown,
}

impl Locality {
    fn new(source: &Party, destination: &Party) -> Self {
        let known = source.is_known() || destination.is_known();
        Self(known.then(|| LocalityLabels {
            source_region: OrUnknown::from(&source.region),
            source_zone: OrUnknown::from(&source.zone),
            destination_region: OrUnknown::from(&destination.region),
            destination_zone: OrUnknown::from(&destination.zone),
        }))
    }
}

impl EncodeLabelSet for Locality {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |labels| labels.encode(encoder))
    }
}
