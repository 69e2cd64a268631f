//! TLS configurations whose connections can be moved.
//!
//! A connection can only be moved if its traffic secrets are known, if nothing but TLS 1.3 records with a suite of our
//! own record layer is spoken, and if nothing outside the connection (a ticket, a session cache) belongs to it.
//! [`TlsClient`] and [`TlsServer`] build no other configuration.

mod key_log;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, InconsistentKeys, ServerConfig};

pub(crate) use key_log::{TrafficSecrets, capture};

/// The one application protocol spoken inside: HTTP/2 (RFC 9113, section 3.2).
pub(crate) const ALPN: &[u8] = b"h2";

/// The cryptography that tunnels use: aws-lc-rs with AES-256-GCM before AES-128-GCM, and X25519, P-256, P-384 and
/// X25519MLKEM768 in this order. Peers of the stock node proxy offer and expect the same.
///
/// The groups are listed here, not taken from the library's defaults: a feature that some other crate turns on would
/// reorder those.
#[must_use]
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
            aws_lc_rs::kx_group::X25519MLKEM768,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// How to open tunnels: TLS 1.3 only, ALPN `h2`, our certificate always offered, no SNI, no resumption.
///
/// Cheap to clone; meant to be built once for each certificate and set of expected peers.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// A configuration that presents `certificate` and accepts the servers that `verifier` accepts. The server's name
    /// is not part of it: `verifier` sees the name 0.0.0.0 and must judge by the identities in the certificate.
    ///
    /// # Errors
    /// The certificate's chain is empty or its key belongs to another certificate.
    pub fn new(verifier: Arc<dyn ServerCertVerifier>, certificate: Arc<CertifiedKey>) -> Result<Self, Error> {
        check(&certificate)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        config.key_log = Arc::new(key_log::Capture);
        config.enable_secret_extraction = true;
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn connect(&self) -> Result<UnbufferedClientConnection, Error> {
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        UnbufferedClientConnection::new(self.0.clone(), nobody)
    }
}

/// How to accept tunnels: TLS 1.3 only, ALPN `h2`, a client certificate demanded, no tickets, no early data.
///
/// Cheap to clone; meant to be built once for each certificate.
#[derive(Clone)]
pub struct TlsServer(Arc<ServerConfig>);

impl TlsServer {
    /// A configuration that presents `certificate` and accepts the clients that `verifier` accepts.
    ///
    /// # Errors
    /// The certificate's chain is empty, its key belongs to another certificate, or `verifier` would accept a
    /// client without a certificate.
    pub fn new(verifier: Arc<dyn ClientCertVerifier>, certificate: Arc<CertifiedKey>) -> Result<Self, Error> {
        check(&certificate)?;
        if !verifier.client_auth_mandatory() {
            return Err(Error::General("the verifier accepts clients without a certificate".into()));
        }
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        config.key_log = Arc::new(key_log::Capture);
        config.enable_secret_extraction = true;
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn accept(&self) -> Result<UnbufferedServerConnection, Error> {
        UnbufferedServerConnection::new(self.0.clone())
    }
}

/// Refuses a certificate that no handshake could succeed with.
fn check(certificate: &CertifiedKey) -> Result<(), Error> {
    if certificate.cert.is_empty() {
        return Err(Error::NoCertificatesPresented);
    }
    match certificate.keys_match() {
        // A key that cannot tell its public half cannot be compared.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(error) => Err(error),
    }
}
