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
