//! Why a handshake failed, and whose fault it was.

use rustls::{AlertDescription, CertificateError, Error as TlsError, PeerMisbehaved};
use thiserror::Error;

use crate::error::Fault;
use crate::record::RecordError;

/// A handshake that did not become a tunnel. The text suits an access log.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The peer gave up and said why: `certificate_required` or `unknown_ca`, say.
    #[error("tls handshake: peer sent alert {0:?}")]
    Alert(AlertDescription),
    /// The verifier did not accept the peer's certificate.
    #[error("tls handshake: peer's certificate refused: {0}")]
    CertificateRefused(CertificateError),
    /// The peer speaks TLS, but no version, suite, group or signature of ours.
    #[error("tls handshake: {0}")]
    Incompatible(#[source] TlsError),
    /// Something of ours failed: configuration, randomness, the clock, cryptography.
    #[error("tls handshake: failed on our side: {0}")]
    Local(#[source] TlsError),
    /// The call is not allowed in this state: the handshake has failed before or is not complete.
    #[error("tls handshake: used out of order")]
    Misuse,
    /// What the peer sent is not TLS, or breaks its rules.
    #[error("tls handshake: {0}")]
    Misbehaved(#[source] TlsError),
    /// The peer has presented no certificate.
    #[error("tls handshake: peer sent no certificate")]
    NoCertificate,
    /// The peer did not agree on the application protocol `h2`.
    #[error("tls handshake: peer does not speak h2")]
    NotH2,
    /// The record layer could not take over.
    #[error("tls handshake: failed on our side: {0}")]
    Records(#[from] RecordError),
    /// The peer has sent more than any handshake needs.
    #[error("tls handshake: peer sent too much")]
    TooLong,
    /// Keys, sequence numbers or suite that rustls ended with are not those of our record layer.
    #[error("tls handshake: failed on our side: {0} cannot be taken over")]
    TakeOver(&'static str),
}

impl HandshakeError {
    /// Whose fault it was. A certificate of ours that the peer refuses counts as the peer's: it has sent an
    /// [`Alert`](Self::Alert).
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Alert(_)
            | Self::CertificateRefused(_)
            | Self::Incompatible(_)
            | Self::Misbehaved(_)
            | Self::NoCertificate
            | Self::NotH2
            | Self::TooLong => Fault::Peer,
            Self::Local(_) | Self::Misuse | Self::Records(_) | Self::TakeOver(_) => Fault::Local,
        }
    }

    /// The alert for what is only found out when rustls has finished.
    pub(super) fn late_alert(&self) -> Option<u8> {
        match self {
            Self::NotH2 => Some(AlertDescription::NoApplicationProtocol.into()),
            Self::NoCertificate => Some(AlertDescription::CertificateRequired.into()),
            _ => None,
        }
    }
}

impl From<TlsError> for HandshakeError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::AlertReceived(alert) => Self::Alert(alert),
            TlsError::InvalidCertificate(reason) => Self::CertificateRefused(reason),
            TlsError::NoCertificatesPresented => Self::NoCertificate,
            TlsError::NoApplicationProtocol
            | TlsError::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => Self::NotH2,
            TlsError::PeerIncompatible(_) => Self::Incompatible(error),
            TlsError::DecryptError
            | TlsError::InappropriateHandshakeMessage { .. }
            | TlsError::InappropriateMessage { .. }
            | TlsError::InvalidMessage(_)
            | TlsError::PeerMisbehaved(_)
            | TlsError::PeerSentOversizedRecord => Self::Misbehaved(error),
            _ => Self::Local(error),
        }
    }
}
