//! What may be shown of the certificates: everything but the keys.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use xds::Identity;

use super::certificate::Credentials;
use super::handle::Lookup;

/// One identity's certificate, for a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// Whose it is.
    pub identity: Identity,
    /// Whether there is one.
    pub state: CertificateState,
    /// The leaf, then the intermediates. Empty unless available.
    pub chain: Vec<CertificateEntry>,
    /// The roots that came with it. Empty unless available.
    pub roots: Vec<CertificateEntry>,
}

/// Whether an identity has a certificate. `Display` gives the words of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateState {
    /// The first is being fetched.
    Initializing,
    /// There is one.
    Available,
    /// There is none, and why.
    Unavailable(Arc<str>),
}

impl fmt::Display for CertificateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initializing => f.write_str("Initializing"),
            Self::Available => f.write_str("Available"),
            Self::Unavailable(reason) => write!(f, "Unavailable: {reason}"),
        }
    }
}

/// One certificate of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEntry {
    /// In PEM.
    pub pem: String,
    /// Decimal.
    pub serial_number: String,
    /// Not valid before.
    pub valid_from: SystemTime,
    /// Not valid after.
    pub expiration_time: SystemTime,
}

impl CertificateSummary {
    pub(super) fn new(identity: &Identity, lookup: &Lookup) -> Self {
        let (state, credentials) = match lookup {
            Lookup::Ready(credentials) => (CertificateState::Available, Some(credentials)),
            Lookup::Pending => (CertificateState::Initializing, None),
            Lookup::Unavailable(reason) => (CertificateState::Unavailable(reason.clone()), None),
        };
        let entries = |of: fn(&Credentials) -> &[CertificateDer<'static>]| {
            let certificates = credentials.map_or(&[][..], |credentials| of(credentials));
            certificates.iter().filter_map(CertificateEntry::new).collect()
        };
        Self {
            identity: identity.clone(),
            state,
            chain: entries(|credentials| &credentials.certified.cert),
            roots: entries(|credentials| &credentials.root_certificates),
        }
    }
}

impl CertificateEntry {
    fn new(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let validity = parsed.validity();
        Some(Self {
            pem: pem::encode_config(
                &pem::Pem::new("CERTIFICATE", certificate.as_ref()),
                pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
            ),
            serial_number: parsed.serial.to_string(),
            valid_from: time(validity.not_before.timestamp()),
            expiration_time: time(validity.not_after.timestamp()),
        })
    }
}

/// A certificate's date; one before 1970 is shown as 1970.
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{Leaf, TestCa, WEB};

    #[test]
    fn an_available_certificate_is_shown_whole() {
        let ca = TestCa::new("root");
        let credentials = ca.credentials(&Leaf::new(&[WEB]).serial(&[1, 0, 0, 0, 0, 0, 0, 0, 0]));
        let lookup = Lookup::Ready(Arc::new(credentials));
        let summary = CertificateSummary::new(&WEB.parse().unwrap(), &lookup);
        assert_eq!(summary.state, CertificateState::Available);
        assert_eq!((summary.chain.len(), summary.roots.len()), (1, 1));
        assert_eq!(summary.chain[0].serial_number, "18446744073709551616");
        assert_eq!(summary.roots[0].pem.replace('\r', ""), ca.root_pem().replace('\r', ""));
        let life = summary.chain[0].expiration_time.duration_since(summary.chain[0].valid_from).unwrap();
        assert_eq!(life, Duration::from_secs(24 * 3_600));
    }

    #[test]
    fn what_there_is_not_has_a_reason() {
        let identity = WEB.parse().unwrap();
        let pending = CertificateSummary::new(&identity, &Lookup::Pending);
        assert_eq!(pending.state.to_string(), "Initializing");
        let lookup = Lookup::Unavailable("the CA refused: no".into());
        let summary = CertificateSummary::new(&identity, &lookup);
        assert_eq!(summary.state.to_string(), "Unavailable: the CA refused: no");
        assert!(summary.chain.is_empty() && summary.roots.is_empty());
    }
}
