//! A CA's answer, taken apart and checked against what was asked.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SigningKey};
use xds::Identity;

use super::ca::SignedChain;
use super::certificate::{Credentials, Validity};
use super::names::uri_names;
use super::verify::{ClientVerifier, ServerVerifier};

/// Why a CA's answer isn't used.
#[derive(thiserror::Error, Debug)]
pub(super) enum ChainError {
    #[error("the CA sent no certificate")]
    Empty,
    #[error("no root certificate present: the CA sent only {0} certificate(s) of ours")]
    NoRoot(usize),
    #[error("element {position} of the chain holds no certificate")]
    NoCertificate { position: usize },
    #[error("element {position} of the chain is not PEM: {source}")]
    NotPem { position: usize, source: pem::Error },
    #[error("a certificate of the chain is not X.509")]
    NotX509,
    #[error("asked for {asked}, the CA signed {signed:?}")]
    AnotherIdentity { asked: Identity, signed: Vec<String> },
    #[error("the certificate is already expired (since {since} s of Unix time)")]
    Expired { since: u64 },
    #[error("the certificate is not of our key: {0}")]
    AnotherKey(rustls::Error),
    #[error("root certificate: {0}")]
    Root(rustls::Error),
    #[error("roots: {0}")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    #[error("peers would not trust the certificate: {0}")]
    Untrusted(rustls::Error),
    #[error("TLS server configuration: {0}")]
    Server(rustls::Error),
}

/// The answer's certificates by what they are for.
pub(super) struct Chain {
    /// The leaf, then the intermediates: what we show to peers.
    shown: Vec<CertificateDer<'static>>,
    /// What we trust. Never empty.
    roots: Vec<CertificateDer<'static>>,
}

impl Chain {
    /// `[leaf, intermediates…, roots]`; each element may hold several certificates.
    pub(super) fn parse(signed: &SignedChain) -> Result<Self, ChainError> {
        let mut elements = Vec::new();
        for (position, text) in signed.0.iter().enumerate() {
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|source| ChainError::NotPem { position, source })?;
            if certificates.is_empty() {
                return Err(ChainError::NoCertificate { position });
            }
            elements.push(certificates);
        }
        let roots = elements.pop().ok_or(ChainError::Empty)?;
        if elements.is_empty() {
            return Err(ChainError::NoRoot(roots.len()));
        }
        Ok(Self { shown: elements.into_iter().flatten().collect(), roots })
    }

    /// Checks the chain as the peers will, and makes it usable with the key that it was asked for.
    ///
    /// `now` and the result's validity are Unix time.
    pub(super) fn accept(
        self,
        asked: &Identity,
        key: Arc<dyn SigningKey>,
        now: UnixTime,
        generation: u64,
    ) -> Result<Credentials, ChainError> {
        let leaf = self.shown.first().ok_or(ChainError::Empty)?;
        let signed = uri_names(leaf).ok_or(ChainError::NotX509)?;
        // The first name: it is the one by which peers know us.
        if signed.first() != Some(&asked.to_string()) {
            return Err(ChainError::AnotherIdentity { asked: asked.clone(), signed });
        }
        let validity = validity(leaf)?;
        if validity.not_after <= millis(now) {
            return Err(ChainError::Expired { since: validity.not_after / 1_000 });
        }
        let roots = Arc::new(self.root_store()?);
        let client_verifier = self.check_as_peers_will(asked, &roots, validity, now)?;

        let certified = Arc::new(CertifiedKey::new(self.shown, key));
        certified.keys_match().map_err(ChainError::AnotherKey)?;
        let server = hbone::TlsServer::new(Arc::new(client_verifier), certified.clone())
            .map_err(ChainError::Server)?;
        Ok(Credentials {
            identity: asked.clone(),
            generation,
            validity,
            certified,
            roots,
            root_certificates: self.roots,
            server,
            origin: None,
        })
    }

    fn root_store(&self) -> Result<RootCertStore, ChainError> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store.add(root.clone()).map_err(ChainError::Root)?;
        }
        Ok(store)
    }

    /// As a server's and as a client's certificate. Returns the check that we apply to clients ourselves.
    fn check_as_peers_will(
        &self,
        asked: &Identity,
        roots: &Arc<RootCertStore>,
        validity: Validity,
        now: UnixTime,
    ) -> Result<ClientVerifier, ChainError> {
        let provider = hbone::provider();
        let as_server = ServerVerifier::new(roots.clone(), vec![asked.to_string()], &provider);
        let as_client = ClientVerifier::new(roots.clone(), asked.trust_domain(), &provider)?;
        let (leaf, intermediates) = self.shown.split_first().ok_or(ChainError::Empty)?;
        // Our clock may be a little behind the CA's: a certificate that begins in a moment is good.
        let begun = Duration::from_millis(validity.not_before).as_secs().max(now.as_secs());
        let at = UnixTime::since_unix_epoch(Duration::from_secs(begun));
        let nameless = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        as_server
            .verify_server_cert(leaf, intermediates, &nameless, &[], at)
            .map_err(ChainError::Untrusted)?;
        as_client.verify_client_cert(leaf, intermediates, at).map_err(ChainError::Untrusted)?;
        Ok(as_client)
    }
}

fn validity(leaf: &CertificateDer<'_>) -> Result<Validity, ChainError> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|_| ChainError::NotX509)?;
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
    let dates = leaf.validity();
    Ok(Validity {
        not_before: millis(dates.not_before.timestamp()),
        not_after: millis(dates.not_after.timestamp()),
    })
}

fn millis(time: UnixTime) -> u64 {
    time.as_secs().saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{DAY, DB, Leaf, TestCa, WEB, talk};

    fn parse(elements: &[&str]) -> Result<Chain, ChainError> {
        Chain::parse(&SignedChain(elements.iter().map(|element| (*element).to_owned()).collect()))
    }

    #[test]
    fn the_last_element_holds_the_roots_the_others_are_shown() {
        let [one, two] = ["one", "two"].map(TestCa::new);
        let intermediate = one.intermediate("intermediate");
        let (_, leaf) = intermediate.issue(&Leaf::new(&[WEB]));
        let roots = format!("{}\n{}", two.root_pem(), one.root_pem());

        let chain = parse(&[&leaf, intermediate.root_pem(), &roots]).unwrap();
        assert_eq!((chain.shown.len(), chain.roots.len()), (2, 2));
        let joined = parse(&[&format!("{leaf}{}", intermediate.root_pem()), &roots]).unwrap();
        assert_eq!((&joined.shown, &joined.roots), (&chain.shown, &chain.roots));
    }

    #[test]
    fn malformed_answers_say_what_is_missing() {
        let (_, leaf) = TestCa::new("root").issue(&Leaf::new(&[WEB]));
        let text = |result: Result<Chain, ChainError>| result.err().map(|error| error.to_string()).unwrap();
        assert_eq!(text(parse(&[])), "the CA sent no certificate");
        assert_eq!(
            text(parse(&[&leaf])),
            "no root certificate present: the CA sent only 1 certificate(s) of ours"
        );
        assert_eq!(text(parse(&[&leaf, ""])), "element 1 of the chain holds no certificate");
        let cut = &leaf[..leaf.len() / 2];
        assert!(text(parse(&[cut, &leaf])).starts_with("element 0 of the chain is not PEM: "));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let ca = TestCa::new("root");
        let error = ca.accept(&Leaf::new(&[WEB]), WEB, &[garbage]).err().unwrap();
        assert!(matches!(error, ChainError::Root(_)), "{error}");
    }

    #[test]
    fn an_intermediate_is_shown_and_several_roots_are_trusted() {
        let [old, new] = ["old", "new"].map(TestCa::new);
        let intermediate = old.intermediate("intermediate");
        let roots = format!("{}{}", old.root_pem(), new.root_pem());
        let web =
            intermediate.accept(&Leaf::new(&[WEB]), WEB, &[intermediate.root_pem(), &roots]).ok().unwrap();
        let db = new.accept(&Leaf::new(&[DB]), DB, &[&roots]).ok().unwrap();
        assert_eq!((web.certified.cert.len(), web.root_certificates.len()), (2, 2));
        talk(&web, &db, DB).unwrap();
        talk(&db, &web, WEB).unwrap();
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let ca = TestCa::new("root");
        let error = |leaf: &Leaf, roots: &[&str]| ca.accept(leaf, WEB, roots).err().unwrap();
        assert!(matches!(error(&Leaf::new(&[DB]), &[]), ChainError::AnotherIdentity { .. }));
        assert!(matches!(error(&Leaf::new(&[DB, WEB]), &[]), ChainError::AnotherIdentity { .. }));
        assert!(matches!(error(&Leaf::new(&[]), &[]), ChainError::AnotherIdentity { .. }));
        assert!(matches!(error(&Leaf::new(&[WEB]).expired(), &[]), ChainError::Expired { .. }));
        let foreign = TestCa::new("foreign");
        let untrusted = error(&Leaf::new(&[WEB]), &[foreign.root_pem()]);
        assert_eq!(
            untrusted.to_string(),
            "peers would not trust the certificate: invalid peer certificate: UnknownIssuer"
        );
        for purpose in
            [rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth]
        {
            assert!(matches!(error(&Leaf::new(&[WEB]).only_for(purpose), &[]), ChainError::Untrusted(_)));
        }
    }

    #[test]
    fn a_certificate_of_another_key_is_refused() {
        let ca = TestCa::new("root");
        let (_, leaf) = ca.issue(&Leaf::new(&[WEB]));
        let (another, _) = ca.issue(&Leaf::new(&[WEB]));
        let chain = parse(&[&leaf, ca.root_pem()]).unwrap();
        let error = chain.accept(&WEB.parse().unwrap(), another.key, UnixTime::now(), 1).err().unwrap();
        assert!(matches!(error, ChainError::AnotherKey(_)), "{error}");
    }

    #[test]
    fn a_certificate_that_begins_in_a_moment_is_taken() {
        let ca = TestCa::new("root");
        let credentials = ca.accept(&Leaf::new(&[WEB]).beginning_in(DAY / 1_000), WEB, &[]).ok().unwrap();
        assert!(credentials.validity.not_before > millis(UnixTime::now()));
    }
}
