//! Certificates of every kind, right and wrong, and rustls connections in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::ca::{CertificateAuthority, FakeCaConfig, SignedChain};
use super::certificate::Credentials;
use super::chain::{Chain, ChainError};
use super::fake_ca::FakeCa;
use super::verify::{ClientVerifier, ServerVerifier};

pub(super) const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
pub(super) const DB: &str = "spiffe://cluster.local/ns/default/sa/db";
pub(super) const FOREIGN: &str = "spiffe://other.example/ns/default/sa/web";
pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);
const HOUR: Duration = Duration::from_secs(3_600);

/// The fake CA, which test builds have in any case.
pub(crate) fn fake_authority() -> Arc<dyn CertificateAuthority> {
    Arc::new(FakeCa::open(&FakeCaConfig { ttl: DAY, root: None }).unwrap())
}

/// A root, or an intermediate under one.
pub(super) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl TestCa {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(super) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(super) fn root_pem(&self) -> &str {
        &self.certificate
    }

    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A leaf with its key, unchecked, and the leaf in PEM.
    pub(super) fn issue(&self, leaf: &Leaf) -> (CertifiedKey, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.params.signed_by(&key, &self.issuer).unwrap();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
        let chain = vec![certificate.der().clone()];
        (CertifiedKey::new(chain, any_ecdsa_type(&der).unwrap()), certificate.pem())
    }

    /// Credentials as the manager would make them of this CA's answer.
    pub(super) fn credentials(&self, leaf: &Leaf) -> Credentials {
        self.accept(leaf, WEB, &[]).map_err(|error| error.to_string()).unwrap()
    }

    /// An answer of `[leaf, elements…, root]` to a question for `asked`.
    pub(super) fn accept(
        &self,
        leaf: &Leaf,
        asked: &str,
        elements: &[&str],
    ) -> Result<Credentials, ChainError> {
        let (certified, pem) = self.issue(leaf);
        let mut answer = vec![pem];
        answer.extend(elements.iter().map(|element| (*element).to_owned()));
        if elements.is_empty() {
            answer.push(self.certificate.clone());
        }
        let chain = Chain::parse(&SignedChain(answer))?;
        chain.accept(&asked.parse().unwrap(), certified.key, UnixTime::now(), 1)
    }
}

/// What a leaf says. By default: valid from an hour ago for a day, for servers and clients.
pub(super) struct Leaf {
    params: CertificateParams,
}

impl Leaf {
    pub(super) fn new(names: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let begin = SystemTime::now() - HOUR;
        params.not_before = begin.into();
        params.not_after = (begin + DAY).into();
        Self { params }
    }

    pub(super) fn dns(mut self, name: &str) -> Self {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    pub(super) fn serial(mut self, bytes: &[u8]) -> Self {
        self.params.serial_number = Some(SerialNumber::from_slice(bytes));
        self
    }

    pub(super) fn expired(mut self) -> Self {
        self.params.not_before = (SystemTime::now() - 2 * DAY).into();
        self.params.not_after = (SystemTime::now() - DAY).into();
        self
    }

    pub(super) fn beginning_in(mut self, time: Duration) -> Self {
        self.params.not_before = (SystemTime::now() + time).into();
        self
    }

    pub(super) fn only_for(mut self, purpose: ExtendedKeyUsagePurpose) -> Self {
        self.params.extended_key_usages = vec![purpose];
        self
    }
}

/// Runs a whole TLS 1.3 handshake in memory. The error says which side refused, and why.
pub(super) fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<(), String> {
    let nameless = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let mut client = rustls::ClientConnection::new(client.clone(), nameless).unwrap();
    let mut server = rustls::ServerConnection::new(server.clone()).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        while !bytes.is_empty() {
            let read = server.read_tls(&mut &bytes[..]).unwrap();
            bytes.drain(..read);
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        server.write_tls(&mut bytes).unwrap();
        while !bytes.is_empty() {
            let read = client.read_tls(&mut &bytes[..]).unwrap();
            bytes.drain(..read);
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

/// A client that checks servers as the holder of `credentials` does, and shows `shown`.
pub(super) fn client(
    credentials: &Credentials,
    expected: &[&str],
    shown: Option<&CertifiedKey>,
) -> Arc<ClientConfig> {
    let expected = expected.iter().map(|name| (*name).to_owned()).collect();
    let verifier = ServerVerifier::new(credentials.roots.clone(), expected, &hbone::provider());
    let builder = ClientConfig::builder_with_provider(Arc::new(hbone::provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Arc::new(match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown.clone()))),
        None => builder.with_no_client_auth(),
    })
}

/// A server that checks clients as the holder of `credentials` does, and shows `shown`.
pub(super) fn server(credentials: &Credentials, shown: &CertifiedKey) -> Arc<ServerConfig> {
    let trust_domain = credentials.identity().trust_domain();
    let verifier = ClientVerifier::new(credentials.roots.clone(), trust_domain, &hbone::provider()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(hbone::provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown.clone())));
    Arc::new(config)
}

/// Whether the holders of two credentials can talk, the first as the client.
pub(super) fn talk(from: &Credentials, to: &Credentials, expected: &str) -> Result<(), String> {
    handshake(&client(from, &[expected], Some(&from.certified)), &server(to, &to.certified))
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}
