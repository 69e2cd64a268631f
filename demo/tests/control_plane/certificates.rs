//! The certificate service: who gets what, and who does not.

use std::time::{Duration, SystemTime};

use demo::control_plane::Misbehaviour;
use prost_types::value::Kind;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{Error as TlsError, RootCertStore};
use tonic::{Code, Status};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use xds::Identity;
use xds::proto::ca::IstioCertificateRequest;

use super::client::{certificate, channel, roots};
use super::{Scene, node, token};

/// A request in PEM for one name.
fn csr(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(name.try_into().expect("ASCII"))];
    let key = KeyPair::generate().expect("a key");
    params.serialize_request(&key).and_then(|request| request.pem()).expect("a request")
}

fn request(name: &Identity) -> IstioCertificateRequest {
    let csr = csr(&name.to_string());
    IstioCertificateRequest { csr, validity_duration: 3600, ..IstioCertificateRequest::default() }
}

fn impersonating(name: &Identity) -> IstioCertificateRequest {
    let value = prost_types::Value { kind: Some(Kind::StringValue(name.to_string())) };
    let metadata = prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() };
    IstioCertificateRequest { metadata: Some(metadata), ..request(name) }
}

fn other() -> Identity {
    "spiffe://cluster.local/ns/data/sa/store".parse().expect("an identity")
}

impl Scene {
    async fn certificate(&self, request: IstioCertificateRequest) -> Result<Vec<String>, Status> {
        let channel = self.connect().await.expect("a connection");
        certificate(channel, &self.token, request).await
    }

    async fn refusal(&self, request: IstioCertificateRequest) -> Code {
        self.certificate(request).await.expect_err("a refusal").code()
    }
}

/// Whether the leaf is good for clients, by these roots.
fn verify(leaf: &str, roots: RootCertStore) -> Result<(), TlsError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().expect("roots");
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).expect("PEM");
    verifier.verify_client_cert(&leaf, &[], UnixTime::now()).map(drop)
}

/// The name of a certificate, and for how long before and after now it is valid.
fn read(leaf: &str) -> (String, Duration, Duration) {
    let der = CertificateDer::from_pem_slice(leaf.as_bytes()).expect("PEM");
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    assert_eq!(certificate.subject().iter().count(), 0);
    let names = certificate.subject_alternative_name().expect("once").expect("a name");
    assert!(names.critical);
    let [GeneralName::URI(name)] = names.value.general_names[..] else { panic!("one URI") };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let at = |time: x509_parser::time::ASN1Time| {
        Duration::from_secs(u64::try_from(time.timestamp()).expect("after 1970"))
    };
    let validity = certificate.validity();
    (name.to_owned(), now - at(validity.not_before), at(validity.not_after).saturating_sub(now))
}

fn about(duration: Duration, seconds: u64) -> bool {
    duration.abs_diff(Duration::from_secs(seconds)) < Duration::from_secs(30)
}

#[tokio::test]
async fn a_workload_gets_its_certificate() {
    let scene = Scene::new();
    let chain = scene.certificate(request(&node())).await.expect("a certificate");
    let [leaf, root] = &chain[..] else { panic!("leaf and root") };
    assert_eq!(*root, std::fs::read_to_string(scene.authority.root_file()).expect("a file"));
    verify(leaf, roots(&scene.authority.root_file())).expect("of the root");
    let (name, past, future) = read(leaf);
    assert_eq!(name, node().to_string());
    assert!(about(past, 120) && about(future, 3600), "{past:?} {future:?}");
    assert_eq!((scene.authority.signed(&node()), scene.authority.signed(&other())), (1, 0));

    scene.authority.set_lifetime(Some(Duration::from_secs(60)));
    let chain = scene.certificate(request(&node())).await.expect("a certificate");
    assert!(about(read(&chain[0]).2, 60), "capped");
    scene.authority.set_lifetime(None);
    let unspecified = IstioCertificateRequest { validity_duration: 0, ..request(&node()) };
    let chain = scene.certificate(unspecified).await.expect("a certificate");
    assert!(about(read(&chain[0]).2, 86_400), "a day");
    assert_eq!(scene.authority.signed(&node()), 3);
    assert_eq!(scene.replica.statistics().certificate_requests, 3);
}

#[tokio::test]
async fn nobody_gets_the_certificate_of_another() {
    let scene = Scene::new();
    assert_eq!(scene.refusal(request(&other())).await, Code::PermissionDenied);
    assert_eq!(scene.refusal(impersonating(&other())).await, Code::PermissionDenied);
    scene.authority.trust_node_account(&node());
    assert_eq!(scene.refusal(request(&other())).await, Code::PermissionDenied, "it has to say so");
    let chain = scene.certificate(impersonating(&other())).await.expect("a certificate");
    assert_eq!(read(&chain[0]).0, other().to_string());

    let request = IstioCertificateRequest { csr: csr(&node().to_string()), ..impersonating(&other()) };
    assert_eq!(scene.refusal(request).await, Code::PermissionDenied);
    assert_eq!((scene.authority.signed(&node()), scene.authority.signed(&other())), (0, 1));
}

#[tokio::test]
async fn a_request_has_to_be_right() {
    let scene = Scene::new();
    let ask = |csr: String| scene.refusal(IstioCertificateRequest { csr, ..request(&node()) });
    assert_eq!(ask("no request".to_owned()).await, Code::InvalidArgument);
    // The end of the request is its signature.
    let mut forged = csr(&node().to_string());
    let end = forged.find("\n-----END").or_else(|| forged.find("\r\n-----END")).expect("PEM") - 8;
    let other = if &forged[end..=end] == "A" { "B" } else { "A" };
    forged.replace_range(end..=end, other);
    assert_eq!(ask(forged).await, Code::InvalidArgument);
    let channel = scene.connect().await.expect("a connection");
    let refused = certificate(channel, "0123", request(&node())).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated);
    scene.replica.misbehave(Misbehaviour::RefuseCertificates);
    assert_eq!(scene.refusal(request(&node())).await, Code::PermissionDenied);
    assert_eq!(scene.authority.signed(&node()), 0);
}

#[tokio::test]
async fn wrong_chains() {
    let scene = Scene::new();
    let trusted = || roots(&scene.authority.root_file());
    scene.replica.misbehave(Misbehaviour::ChainOfAnotherRoot);
    let chain = scene.certificate(request(&node())).await.expect("a certificate");
    assert!(verify(&chain[0], trusted()).is_err());
    assert_eq!(read(&chain[0]).0, node().to_string());
    assert_ne!(chain[1], std::fs::read_to_string(scene.authority.root_file()).expect("a file"));

    scene.replica.misbehave(Misbehaviour::ChainOfAnotherIdentity);
    let chain = scene.certificate(request(&node())).await.expect("a certificate");
    verify(&chain[0], trusted()).expect("of the root");
    assert_eq!(read(&chain[0]).0, format!("{}-other", node()));
}

#[tokio::test]
async fn a_new_root_signs_and_the_old_one_stays_trusted() {
    let scene = Scene::new();
    let old = roots(&scene.authority.root_file());
    let before = scene.certificate(request(&node())).await.expect("a certificate");
    scene.authority.rotate_root().expect("a root");
    let both = roots(&scene.authority.root_file());
    assert_eq!((old.len(), both.len()), (1, 2));
    let after = scene.certificate(request(&node())).await.expect("a certificate");
    assert!(verify(&after[0], old.clone()).is_err());
    verify(&after[0], both.clone()).expect("of the new root");
    verify(&before[0], both).expect("of the old root");
    assert_eq!(after[1].matches("BEGIN CERTIFICATE").count(), 2);
    // Servers have it as well, and old tokens go on.
    assert!(channel(scene.replica.address(), old, "localhost").await.is_err());
    assert_ne!(token(&scene.authority, &node()), scene.token);
}
