//! TLS as stock sets it: 1.3 only, ALPN `h2`, no SNI, no resumption, both sides with certificates.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, CipherSuiteCommon, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme, SupportedCipherSuite, Tls13CipherSuite,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::certificates::Credentials;

/// A client that expects a server with the URI `expected`. Without `certificate` it shows none.
pub fn client_config(credentials: Credentials, expected: &str, certificate: bool) -> Arc<ClientConfig> {
    let provider = provider(credentials.renew_key_after);
    let verifier =
        Verifier { roots: credentials.roots, expected: expected.to_owned(), provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider knows TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = if certificate {
        builder.with_client_auth_cert(credentials.chain, credentials.key).expect("key and certificate fit")
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// A server that demands a certificate of its clients.
pub fn server_config(credentials: Credentials) -> Arc<ServerConfig> {
    let provider = provider(credentials.renew_key_after);
    let verifier = WebPkiClientVerifier::builder_with_provider(credentials.roots, provider.clone())
        .build()
        .expect("there is a root");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider knows TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain, credentials.key)
        .expect("key and certificate fit");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Key updates have no switch in `rustls`: it makes one when a key has reached its cipher's limit. So that is lowered.
fn provider(renew_key_after: Option<u64>) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if let (Some(limit), SupportedCipherSuite::Tls13(suite)) =
        (renew_key_after, aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384)
    {
        let CipherSuiteCommon { suite: name, hash_provider, .. } = suite.common;
        let common = CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit: limit };
        // rustls wants suites that live for ever; a test makes two or three.
        let suite = Box::leak(Box::new(Tls13CipherSuite { common, ..*suite }));
        provider.cipher_suites = vec![SupportedCipherSuite::Tls13(suite)];
    }
    Arc::new(provider)
}

/// TCP from `from` to `to`, then TLS.
///
/// # Errors
/// Either of them.
pub async fn connect_tls(
    from: IpAddr,
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::IpAddress(to.ip().into()), tcp).await
}

/// Chain to the roots, and the one URI that is expected.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    expected: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let mut names = names.iter().flat_map(|names| &names.value.general_names);
        if names.any(|name| matches!(name, GeneralName::URI(uri) if *uri == self.expected)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
