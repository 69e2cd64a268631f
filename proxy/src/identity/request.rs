//! A key of our own and the request to have it certified.

use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::sign::SigningKey;
use xds::Identity;
use zeroize::Zeroizing;

use super::ca::SignedChain;
use super::certificate::Credentials;
use super::chain::{Chain, ChainError};
use super::parcel::Origin;

/// One attempt to get a certificate: a fresh P-256 key and its certificate signing request.
///
/// Each attempt has a key of its own. Wiped when dropped, as far as the libraries let us.
pub(super) struct Request {
    identity: Identity,
    key: Zeroizing<KeyPair>,
    csr: String,
}

impl Request {
    /// The request names the identity as its only, critical URI name, and has an empty subject.
    pub(super) fn new(identity: Identity) -> Result<Self, rcgen::Error> {
        let key = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        let mut params = CertificateParams::default();
        // With an empty subject the alternative name is critical (RFC 5280 section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string())?)];
        let csr = params.serialize_request(&*key)?.pem()?;
        Ok(Self { identity, key, csr })
    }

    /// PKCS #10 in PEM.
    pub(super) fn csr(&self) -> &str {
        &self.csr
    }

    /// Joins the CA's answer with the key.
    pub(super) fn accept(
        self,
        answer: &SignedChain,
        now: UnixTime,
        generation: u64,
    ) -> Result<Credentials, ChainError> {
        let chain = Chain::parse(answer)?;
        let der = Zeroizing::new(self.key.serialize_der());
        let mut credentials = chain.accept(&self.identity, signing_key(&der)?, now, generation)?;
        credentials.origin = Some(Origin { answer: answer.clone(), key: der });
        Ok(credentials)
    }
}

/// A P-256 key from its PKCS #8 form.
pub(super) fn signing_key(der: &[u8]) -> Result<Arc<dyn SigningKey>, ChainError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
    any_ecdsa_type(&der).map_err(ChainError::AnotherKey)
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::cri_attributes::ParsedCriAttribute;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::oid_registry::{OID_EC_P256, OID_SIG_ECDSA_WITH_SHA256};
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn the_request_asks_for_nothing_but_the_name() {
        let identity: Identity = "spiffe://cluster.local/ns/default/sa/web".parse().unwrap();
        let request = Request::new(identity).unwrap();
        let pem = pem::parse(request.csr()).unwrap();
        assert_eq!(pem.tag(), "CERTIFICATE REQUEST");
        let (rest, csr) = X509CertificationRequest::from_der(pem.contents()).unwrap();
        assert!(rest.is_empty());
        let info = &csr.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        assert_eq!(csr.signature_algorithm.algorithm, OID_SIG_ECDSA_WITH_SHA256);
        let curve = info.subject_pki.algorithm.parameters.as_ref().unwrap().as_oid().unwrap();
        assert_eq!(curve, OID_EC_P256);

        assert_eq!(info.attributes().len(), 1);
        let ParsedCriAttribute::ExtensionRequest(extensions) = info.attributes()[0].parsed_attribute() else {
            panic!("not an extension request");
        };
        let [extension] = &extensions.extensions[..] else { panic!("one extension expected") };
        assert!(extension.critical);
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            panic!("not a name");
        };
        assert_eq!(names.general_names, [GeneralName::URI("spiffe://cluster.local/ns/default/sa/web")]);
    }

    #[test]
    fn each_request_has_its_own_key() {
        let identity: Identity = "spiffe://cluster.local/ns/default/sa/web".parse().unwrap();
        let [one, two] = [(); 2].map(|()| Request::new(identity.clone()).unwrap());
        assert_ne!(one.key.public_key_raw(), two.key.public_key_raw());
    }
}
