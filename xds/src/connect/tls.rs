//! TLS towards the control plane: 1.2 or 1.3, the server verified by roots and name.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::error::ConnectError;

/// `roots` in PEM; none means the system's.
pub(super) fn connector(
    roots: Option<Vec<u8>>,
    alternative_name: Option<ServerName<'static>>,
) -> Result<TlsConnector, ConnectError> {
    let roots = match roots {
        Some(pem) => from_pem(&pem)?,
        None => from_system()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |error: &dyn std::error::Error| ConnectError::Roots(error.to_string());
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unusable(&error))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(EitherName { webpki, alternative_name }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What TLS has against the server, without what the I/O layer wraps around it.
pub(super) fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

fn from_pem(pem: &[u8]) -> Result<RootCertStore, ConnectError> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| ConnectError::Roots(format!("not PEM: {error}")))?;
    store(certificates)
}

fn from_system() -> Result<RootCertStore, ConnectError> {
    store(rustls_native_certs::load_native_certs().certs)
}

fn store(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates) {
        (0, 0) => Err(ConnectError::Roots("there is none".to_owned())),
        (0, bad) => Err(ConnectError::Roots(format!("none of {bad} can be read"))),
        _ => Ok(roots),
    }
}

/// The usual verification; a certificate that does not fit the host may fit the alternative name instead.
#[derive(Debug)]
struct EitherName {
    webpki: Arc<WebPkiServerVerifier>,
    alternative_name: Option<ServerName<'static>>,
}

impl ServerCertVerifier for EitherName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name: &ServerName<'_>| {
            self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        match (verify(server_name), &self.alternative_name) {
            (Err(error), Some(alternative)) if is_wrong_name(&error) => {
                // That of the host is the one to show: it is in the address that somebody wrote down.
                verify(alternative).map_err(|other| if is_wrong_name(&other) { error } else { other })
            }
            (result, _) => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn is_wrong_name(error: &Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(error, Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
}
