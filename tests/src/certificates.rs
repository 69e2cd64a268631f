//! A certificate authority of a test's own, which signs for our nodes and for stock peers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A root certificate and its key.
#[derive(Debug)]
pub struct Root {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, and the roots that came with it.
#[derive(Debug)]
pub struct Credentials {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Whom its holder trusts.
    pub roots: Arc<RootCertStore>,
    /// After how many records a stock holder renews its traffic key (RFC 8446, 4.6.3); `None` is as late as it may.
    pub renew_key_after: Option<u64>,
}

impl Root {
    /// A new root.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a root");
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Writes certificate and key where a node's fake authority can read them: `FAKE_CA_ROOT_CERT`,
    /// `FAKE_CA_ROOT_KEY`.
    pub fn write(&self, directory: &Path) -> [PathBuf; 2] {
        let paths = [directory.join("root.pem"), directory.join("root-key.pem")];
        fs::write(&paths[0], self.certificate.pem()).expect("a writable directory");
        fs::write(&paths[1], self.issuer.key().serialize_pem()).expect("a writable directory");
        paths
    }

    /// A certificate for `identity`, a SPIFFE URI.
    pub fn certify(&self, identity: &str) -> Credentials {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().expect("a URI is ASCII"))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let begin = SystemTime::now() - HOUR;
        params.not_before = begin.into();
        params.not_after = (begin + 24 * HOUR).into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: self.store(),
            renew_key_after: None,
        }
    }

    /// A store that holds this root alone.
    pub fn store(&self) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add(self.certificate.der().clone()).expect("a root");
        Arc::new(store)
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
