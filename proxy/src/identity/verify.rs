//! What each side of a tunnel checks of the other's certificate.
//!
//! | who checks | chain, validity | purpose | name |
//! |---|---|---|---|
//! | client | to the roots that came with our own certificate | serverAuth | any URI name is one of those expected |
//! | server | the same; a certificate is mandatory | clientAuth | any SPIFFE URI name is in our trust domain |
//!
//! DNS names play no part. Paths are built and signatures checked by rustls; only the names are judged here.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use xds::Identity;

use super::names::uri_names;

/// A certificate that is genuine, but of somebody else. Found inside rustls's [`CertificateError::Other`].
#[derive(thiserror::Error, Clone, PartialEq, Eq)]
pub enum PeerNameError {
    /// The server isn't who we dialled.
    #[error("the server presented {}, expected one of {}", list(.presented), list(.expected))]
    UnexpectedServer {
        /// URI names that would have been right.
        expected: Vec<String>,
        /// URI names of the server's certificate.
        presented: Vec<String>,
    },
    /// The client isn't of our trust domain.
    #[error("the client presented {}, expected an identity of trust domain {expected:?}", list(.presented))]
    ForeignClient {
        /// Our trust domain.
        expected: String,
        /// URI names of the client's certificate.
        presented: Vec<String>,
    },
}

// rustls prints the cause of `CertificateError::Other` by its Debug form, and that text goes to the access log.
impl fmt::Debug for PeerNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The client's check of a server.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: Arc<RootCertStore>,
    expected: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// `expected`: URI names, one of which the server must have. An empty list fits nobody.
    pub(super) fn new(roots: Arc<RootCertStore>, expected: Vec<String>, provider: &CryptoProvider) -> Self {
        Self { roots, expected, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let presented = uri_names(leaf).ok_or(CertificateError::BadEncoding)?;
        if presented.iter().any(|name| self.expected.contains(name)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused(PeerNameError::UnexpectedServer { expected: self.expected.clone(), presented }))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The server's check of a client.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ClientVerifier {
    /// Fails if there are no roots.
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        trust_domain: &str,
        provider: &CryptoProvider,
    ) -> Result<Self, VerifierBuilderError> {
        // No hints (RFC 8446 section 4.2.4): a mesh client has one certificate, and while a root is being replaced
        // a client that obeys the hints would send none.
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(provider.clone()))
            .clear_root_hint_subjects()
            .build()?;
        Ok(Self { chain, trust_domain: trust_domain.to_owned() })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let presented = uri_names(leaf).ok_or(CertificateError::BadEncoding)?;
        let identities = presented.iter().filter_map(|name| name.parse::<Identity>().ok());
        if identities.into_iter().any(|identity| **identity.trust_domain() == *self.trust_domain) {
            Ok(verified)
        } else {
            Err(refused(PeerNameError::ForeignClient { expected: self.trust_domain.clone(), presented }))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn refused(error: PeerNameError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no URI name".to_owned() } else { names.join(", ") }
}
