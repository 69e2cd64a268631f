//! `/config_dump`, in the shapes that `istioctl ztunnel-config` reads.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use x509_parser::time::ASN1Time;
use xds::Snapshot;

use super::Admin;
use super::version::Version;
use super::workload_state::{self, WorkloadStates};
use crate::identity::{CertificateEntry, CertificateSummary};

/// The whole dump.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump<'a> {
    /// `workloads`, `services`, `policies`, `stagedServices`.
    #[serde(flatten)]
    state: State,
    static_config: &'a serde_json::Value,
    version: Version<'a>,
    config: &'a serde_json::Value,
    certificates: Vec<Certificates>,
    workload_state: WorkloadStates,
}

impl<'a> ConfigDump<'a> {
    pub(super) fn new(admin: &'a Admin) -> Self {
        let snapshot = arc_swap::Guard::into_inner(admin.store.load());
        Self {
            workload_state: workload_state::of(admin, &snapshot),
            state: State(snapshot),
            static_config: &admin.static_config,
            version: Version::new(&admin.istio_version),
            config: &admin.config,
            certificates: (admin.certificates)().into_iter().map(Certificates::from).collect(),
        }
    }
}

struct State(Arc<Snapshot>);

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.dump().serialize(serializer)
    }
}

/// The certificates of one identity.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificates {
    identity: String,
    state: String,
    cert_chain: Vec<Certificate>,
    root_certs: Vec<Certificate>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    /// Base64 of the PEM text, as istioctl wants it.
    pem: String,
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

impl From<CertificateSummary> for Certificates {
    fn from(summary: CertificateSummary) -> Self {
        let dumped = |entries: Vec<CertificateEntry>| entries.into_iter().map(Certificate::from).collect();
        Self {
            identity: summary.identity.to_string(),
            state: summary.state.to_string(),
            cert_chain: dumped(summary.chain),
            root_certs: dumped(summary.roots),
        }
    }
}

impl From<CertificateEntry> for Certificate {
    fn from(entry: CertificateEntry) -> Self {
        Self {
            pem: STANDARD.encode(entry.pem),
            serial_number: entry.serial_number,
            valid_from: rfc3339(entry.valid_from),
            expiration_time: rfc3339(entry.expiration_time),
        }
    }
}

/// `2026-08-20T10:00:00Z`; empty for a time that no calendar has.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok());
    let Some(time) = seconds.and_then(|seconds| ASN1Time::from_timestamp(seconds).ok()) else {
        return String::new();
    };
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_rfc3339() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_709_210_096), "2024-02-29T12:34:56Z");
        assert_eq!(at(u64::from(u32::MAX)), "2106-02-07T06:28:15Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "");
    }
}
