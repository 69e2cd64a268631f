//! A certificate authority, and stock peers: rustls' buffered connections, driven in memory.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, Error, NamedGroup, RootCertStore,
    ServerConfig, ServerConnection, SignatureScheme, SupportedCipherSuite,
};

use crate::{TlsClient, TlsServer, provider};

/// A mesh's root, and one certificate of a workload.
pub(super) struct Authority {
    roots: Arc<RootCertStore>,
    certificate: Arc<CertifiedKey>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let root_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        // Two roots of one name would be taken for each other.
        let name = format!("root {:02x?}", &root_key.public_key_raw()[1..9]);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key).unwrap();
        let issuer = rcgen::Issuer::new(params, root_key);

        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();

        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        Self {
            roots: Arc::new(roots),
            certificate: Arc::new(CertifiedKey::new(vec![leaf.der().clone()], key)),
        }
    }

    /// The certificate of this mesh, the trust of another.
    pub(super) fn with_roots_of(&self, other: &Self) -> Self {
        Self { roots: other.roots.clone(), certificate: self.certificate.clone() }
    }

    pub(super) fn client(&self) -> TlsClient {
        TlsClient::new(self.server_verifier(), self.certificate()).unwrap()
    }

    pub(super) fn server(&self) -> TlsServer {
        TlsServer::new(self.client_verifier(), self.certificate()).unwrap()
    }

    pub(super) fn certificate(&self) -> Arc<CertifiedKey> {
        self.certificate.clone()
    }

    pub(super) fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        WebPkiClientVerifier::builder_with_provider(self.roots.clone(), Arc::new(provider())).build().unwrap()
    }

    pub(super) fn server_verifier(&self) -> Arc<dyn ServerCertVerifier> {
        let provider = Arc::new(provider());
        let algorithms = provider.signature_verification_algorithms;
        let chain =
            WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider).build().unwrap();
        Arc::new(AnyName { chain, algorithms })
    }
}

/// Checks the chain and takes any peer of the mesh, whatever name it was called by.
#[derive(Debug)]
struct AnyName {
    chain: Arc<WebPkiServerVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = ServerName::try_from(NAME).unwrap();
        self.chain.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
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

/// How a peer differs from us.
pub(super) struct Options {
    pub(super) suites: Vec<SupportedCipherSuite>,
    pub(super) groups: Vec<&'static dyn SupportedKxGroup>,
    pub(super) alpn: Vec<Vec<u8>>,
    /// Longest record that it sends, header included.
    pub(super) fragment: Option<usize>,
    /// A client without certificate.
    pub(super) anonymous: bool,
}

impl Default for Options {
    fn default() -> Self {
        let CryptoProvider { cipher_suites: suites, kx_groups: groups, .. } = aws_lc_rs::default_provider();
        Self { suites, groups, alpn: vec![b"h2".to_vec()], fragment: None, anonymous: false }
    }
}

impl Options {
    fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider {
            cipher_suites: self.suites.clone(),
            kx_groups: self.groups.clone(),
            ..aws_lc_rs::default_provider()
        })
    }
}

/// A stock peer.
pub(super) struct Peer(rustls::Connection);

impl Peer {
    pub(super) fn client(authority: &Authority, options: &Options) -> Self {
        let builder = ClientConfig::builder_with_provider(options.provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(authority.server_verifier());
        let mut config = if options.anonymous {
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(authority.certificate())))
        };
        config.alpn_protocols.clone_from(&options.alpn);
        config.max_fragment_size = options.fragment;
        let name = ServerName::try_from("peer.example").unwrap();
        Self(ClientConnection::new(Arc::new(config), name).unwrap().into())
    }

    pub(super) fn server(authority: &Authority, options: &Options) -> Self {
        let mut config = ServerConfig::builder_with_provider(options.provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(authority.client_verifier())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(authority.certificate())));
        config.alpn_protocols.clone_from(&options.alpn);
        config.max_fragment_size = options.fragment;
        Self(ServerConnection::new(Arc::new(config)).unwrap().into())
    }

    pub(super) fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut out).unwrap();
        }
        out
    }

    #[track_caller]
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.try_receive(bytes).unwrap();
    }

    pub(super) fn try_receive(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).unwrap();
            self.0.process_new_packets()?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, payload: &[u8]) {
        self.0.writer().write_all(payload).unwrap();
    }

    pub(super) fn read(&mut self) -> Vec<u8> {
        let mut payload = vec![0; 100_000];
        let length = self.0.reader().read(&mut payload).unwrap();
        payload.truncate(length);
        payload
    }

    pub(super) fn refresh_keys(&mut self) {
        self.0.refresh_traffic_keys().unwrap();
    }

    pub(super) fn group(&self) -> NamedGroup {
        self.0.negotiated_key_exchange_group().unwrap().name()
    }

    pub(super) fn suite(&self) -> CipherSuite {
        self.0.negotiated_cipher_suite().unwrap().suite()
    }
}

/// What every certificate is issued for.
const NAME: &str = "workload.mesh";
