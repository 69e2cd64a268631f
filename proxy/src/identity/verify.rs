//! What each side of a tunnel checks of the other's certificate.
//!
//! | who checks | chain, validity | purpose | name |
//! |---|---|---|---|
//! | client | to the roots that came with our own certificate | serverAuth | any URI name is one of those expected |
//! | server | the same; a certificate is mandatory | clientAuth | any SPIFFE URI name is in our trust domain |
//!
//! A trust domain has no aliases here: as in stock, which doesn't read `trustDomainAliases`, a client of an alias is
//! refused in the handshake, and policies compare principals as they are written.
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
        // The first one is whom policy will see (`peer_identity`), so it is the one that must be of our mesh.
        let first = presented.iter().find_map(|name| name.parse::<Identity>().ok());
        if first.is_some_and(|identity| **identity.trust_domain() == *self.trust_domain) {
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

#[cfg(test)]
mod tests {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

    use crate::identity::Credentials;
    use crate::identity::testing::{DAY, DB, FOREIGN, Leaf, TestCa, WEB, client, handshake, server};

    /// A mesh of one root: `us` is web, on whichever side checks.
    struct Mesh {
        ca: TestCa,
        us: Credentials,
    }

    impl Mesh {
        fn new() -> Self {
            let ca = TestCa::new("root");
            let us = ca.credentials(&Leaf::new(&[WEB]));
            Self { ca, us }
        }

        /// We dial, expecting `expected`; the server shows a leaf signed by `ca`.
        fn dial(&self, expected: &[&str], ca: &TestCa, leaf: &Leaf) -> Result<(), String> {
            let (shown, _) = ca.issue(leaf);
            handshake(&client(&self.us, expected, Some(&self.us.certified)), &server(&self.us, &shown))
        }

        /// We are dialled by a client that shows a leaf signed by `ca`.
        fn accept(&self, ca: &TestCa, leaf: &Leaf) -> Result<(), String> {
            let (shown, _) = ca.issue(leaf);
            handshake(&client(&self.us, &[WEB], Some(&shown)), &server(&self.us, &self.us.certified))
        }
    }

    #[test]
    fn the_right_server_is_accepted() {
        let mesh = Mesh::new();
        mesh.dial(&[DB], &mesh.ca, &Leaf::new(&[DB])).unwrap();
        mesh.dial(&[WEB, DB], &mesh.ca, &Leaf::new(&[DB])).unwrap();
        mesh.dial(&[DB], &mesh.ca, &Leaf::new(&["https://example.com/", DB])).unwrap();
        mesh.dial(&[DB], &mesh.ca, &Leaf::new(&[DB]).only_for(ServerAuth)).unwrap();
        // A service's own name need not be an identity of ours.
        mesh.dial(&["spiffe://x/any"], &mesh.ca, &Leaf::new(&["spiffe://x/any"])).unwrap();
    }

    #[test]
    fn a_server_of_another_name_is_refused() {
        let mesh = Mesh::new();
        assert_eq!(
            mesh.dial(&[DB, FOREIGN], &mesh.ca, &Leaf::new(&[WEB])).unwrap_err(),
            format!(
                "client: invalid peer certificate: \
                 Other(OtherError(the server presented {WEB}, expected one of {DB}, {FOREIGN}))"
            ),
        );
        let nameless = mesh.dial(&[DB], &mesh.ca, &Leaf::new(&[])).unwrap_err();
        assert!(nameless.contains("the server presented no URI name"), "{nameless}");
        // A prefix is not the name, and a DNS name isn't a URI name.
        mesh.dial(&[DB], &mesh.ca, &Leaf::new(&[&DB[..DB.len() - 1]])).unwrap_err();
        mesh.dial(&["db.default.svc"], &mesh.ca, &Leaf::new(&[]).dns("db.default.svc")).unwrap_err();
        mesh.dial(&[], &mesh.ca, &Leaf::new(&[WEB])).unwrap_err();
    }

    #[test]
    fn a_server_with_a_bad_certificate_is_refused_by_the_client() {
        let mesh = Mesh::new();
        let [foreign, namesake] = ["foreign", "root"].map(TestCa::new);
        for (leaf, ca, why) in [
            (Leaf::new(&[DB]).expired(), &mesh.ca, "certificate expired"),
            (Leaf::new(&[DB]).beginning_in(DAY / 12), &mesh.ca, "not valid yet"),
            (Leaf::new(&[DB]), &foreign, "UnknownIssuer"),
            (Leaf::new(&[DB]), &namesake, "BadSignature"),
            (Leaf::new(&[DB]), &mesh.ca.intermediate("not shown"), "UnknownIssuer"),
            (Leaf::new(&[DB]).only_for(ClientAuth), &mesh.ca, "extended key usage"),
        ] {
            let error = mesh.dial(&[DB], ca, &leaf).unwrap_err();
            assert!(error.starts_with("client: ") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_right_client_is_accepted() {
        let mesh = Mesh::new();
        mesh.accept(&mesh.ca, &Leaf::new(&[DB])).unwrap();
        mesh.accept(&mesh.ca, &Leaf::new(&["https://example.com/", DB])).unwrap();
        mesh.accept(&mesh.ca, &Leaf::new(&[DB]).only_for(ClientAuth)).unwrap();
    }

    #[test]
    fn a_client_of_another_trust_domain_is_refused() {
        let mesh = Mesh::new();
        assert_eq!(
            mesh.accept(&mesh.ca, &Leaf::new(&[FOREIGN])).unwrap_err(),
            format!(
                "server: invalid peer certificate: Other(OtherError(the client presented {FOREIGN}, \
                 expected an identity of trust domain \"cluster.local\"))"
            ),
        );
        for leaf in [
            Leaf::new(&[]),
            Leaf::new(&[]).dns("cluster.local"),
            Leaf::new(&["spiffe://cluster.local/something/else"]),
            Leaf::new(&["spiffe://cluster.local.evil.example/ns/default/sa/web"]),
        ] {
            let error = mesh.accept(&mesh.ca, &leaf).unwrap_err();
            assert!(error.starts_with("server: ") && error.contains("expected an identity"), "{error}");
        }
    }

    #[test]
    fn a_client_with_a_bad_certificate_is_refused_by_the_server() {
        let mesh = Mesh::new();
        let [foreign, namesake] = ["foreign", "root"].map(TestCa::new);
        for (leaf, ca, why) in [
            (Leaf::new(&[DB]).expired(), &mesh.ca, "certificate expired"),
            (Leaf::new(&[DB]).beginning_in(DAY / 12), &mesh.ca, "not valid yet"),
            (Leaf::new(&[DB]), &foreign, "UnknownIssuer"),
            (Leaf::new(&[DB]), &namesake, "BadSignature"),
            (Leaf::new(&[DB]).only_for(ServerAuth), &mesh.ca, "extended key usage"),
        ] {
            let error = mesh.accept(ca, &leaf).unwrap_err();
            assert!(error.starts_with("server: ") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_client_without_a_certificate_is_refused() {
        let mesh = Mesh::new();
        let error =
            handshake(&client(&mesh.us, &[WEB], None), &server(&mesh.us, &mesh.us.certified)).unwrap_err();
        assert_eq!(error, "server: peer sent no certificates");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let mesh = Mesh::new();
        let (theirs, _) = mesh.ca.issue(&Leaf::new(&[DB]));
        let (own, _) = mesh.ca.issue(&Leaf::new(&[WEB]));
        let stolen = rustls::sign::CertifiedKey::new(theirs.cert, own.key);
        let error = handshake(&client(&mesh.us, &[DB], Some(&mesh.us.certified)), &server(&mesh.us, &stolen));
        assert_eq!(error.unwrap_err(), "client: invalid peer certificate: BadSignature");
        let error =
            handshake(&client(&mesh.us, &[WEB], Some(&stolen)), &server(&mesh.us, &mesh.us.certified));
        assert_eq!(error.unwrap_err(), "server: invalid peer certificate: BadSignature");
    }
}
