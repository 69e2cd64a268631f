//! A certificate authority and one workload certificate, for our side and for stock peers.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use hbone::{TlsClient, TlsServer, provider};

pub(crate) struct Authority {
    roots: Arc<RootCertStore>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// The name by which our client calls every server.
pub(crate) const NAME: &str = "0.0.0.0";

impl Authority {
    pub(crate) fn new() -> Self {
        let root_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key).unwrap();
        let issuer = rcgen::Issuer::new(params, root_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf =
            rcgen::CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        Self {
            roots: Arc::new(roots),
            certificate: leaf.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    pub(crate) fn client(&self) -> TlsClient {
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), Arc::new(provider()));
        TlsClient::new(verifier.build().unwrap(), self.certified_key()).unwrap()
    }

    pub(crate) fn server(&self) -> TlsServer {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), Arc::new(provider()));
        TlsServer::new(verifier.build().unwrap(), self.certified_key()).unwrap()
    }

    /// A stock client that trusts and shows our certificate.
    pub(crate) fn stock_client(&self, provider: CryptoProvider) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// A stock server. It sends tickets, as rustls does by default.
    pub(crate) fn stock_server(&self, provider: CryptoProvider) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    fn certified_key(&self) -> Arc<CertifiedKey> {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.key).unwrap();
        Arc::new(CertifiedKey::new(vec![self.certificate.clone()], key))
    }
}
