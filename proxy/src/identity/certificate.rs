//! One identity's certificate, ready for use.

use std::sync::Arc;

use hbone::{TlsClient, TlsServer};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use xds::Identity;

use super::parcel::Origin;
use super::verify::ServerVerifier;

/// One identity's certificate, key and roots, ready for use. Shared by all pods of the service account on this node.
///
/// Not `Debug`, not `Serialize`: it holds the private key.
pub struct Credentials {
    pub(super) identity: Identity,
    pub(super) generation: u64,
    pub(super) validity: Validity,
    /// The leaf, the intermediates, and the key.
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) root_certificates: Vec<CertificateDer<'static>>,
    pub(super) server: TlsServer,
    /// What another process of ours needs to have the same.
    pub(super) origin: Option<Origin>,
}

impl Credentials {
    /// Whose they are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For inbound tunnels. Built once for a certificate. The client needs a certificate that chains to our roots, is
    /// valid now and has a SPIFFE URI name in our trust domain.
    pub fn server(&self) -> &TlsServer {
        &self.server
    }

    /// For one outbound tunnel. The server needs a certificate that chains to our roots, is valid now, is for
    /// servers, and has a URI name among `expected`.
    pub fn client(
        &self,
        expected: impl IntoIterator<Item = impl ToString>,
    ) -> Result<TlsClient, ClientError> {
        let expected: Vec<String> = expected.into_iter().map(|name| name.to_string()).collect();
        if expected.is_empty() {
            return Err(ClientError::NobodyExpected);
        }
        let verifier = ServerVerifier::new(self.roots.clone(), expected, &hbone::provider());
        Ok(TlsClient::new(Arc::new(verifier), self.certified.clone())?)
    }

    /// Rises with each renewal: of two credentials of one identity the newer has the greater number.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether holders of the two trust at least some of the same peers.
    pub(super) fn shares_a_root_with(&self, other: &Self) -> bool {
        self.root_certificates.iter().any(|root| other.root_certificates.contains(root))
    }
}

/// Why a client configuration can't be made. The caller's fault, not a peer's.
#[derive(thiserror::Error, Debug)]
pub enum ClientError {
    /// Without an expected name every server would be refused.
    #[error("no identity is expected of the server: nobody could be trusted")]
    NobodyExpected,
    /// rustls refuses our certificate or settings.
    #[error("TLS client configuration: {0}")]
    Tls(#[from] rustls::Error),
}

/// When a certificate holds. Milliseconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

impl Validity {
    /// When to renew: at half of the life, give or take a twentieth of it, so that the certificates of a node that
    /// were signed together aren't all renewed together.
    ///
    /// A certificate that arrives late in its life (the CA's clock is behind, or it backdates a short-lived one) waits
    /// for a quarter of what is left: it must not be renewed at once, and again, and again.
    pub(super) fn renew_at(&self, now: u64, random: &mut fastrand::Rng) -> u64 {
        let life = self.not_after.saturating_sub(self.not_before);
        let spread = life / 20;
        let half = self.not_before + life / 2 - spread + random.u64(0..=2 * spread);
        let left = self.not_after.saturating_sub(now);
        half.max(now + (left / 4).max(1_000))
    }
}

#[cfg(test)]
mod tests {
    use hbone::{Handshake, HandshakeError, SessionConfig, Time};

    use super::*;
    use crate::identity::peer_identity;
    use crate::identity::testing::{DB, Leaf, TestCa, WEB};

    /// Sets a tunnel up as a worker would; returns whom the client and the server see.
    fn tunnel(
        client: &TlsClient,
        server: &TlsServer,
    ) -> Result<(Option<Identity>, Option<Identity>), HandshakeError> {
        let mut client = Handshake::client(client, SessionConfig::client())?;
        let mut server = Handshake::server(server, SessionConfig::server())?;
        while !(client.is_complete() && server.is_complete()) {
            let to_server = client.output().to_vec();
            client.advance(to_server.len());
            server.receive(&to_server)?;
            let to_client = server.output().to_vec();
            server.advance(to_client.len());
            client.receive(&to_client)?;
            assert!(!(to_server.is_empty() && to_client.is_empty()), "nothing moves");
        }
        let [client, server] = [client.finish(Time(0))?, server.finish(Time(0))?];
        Ok((peer_identity(&client.peer_certificates), peer_identity(&server.peer_certificates)))
    }

    #[test]
    fn tunnels_are_set_up_with_them() {
        let ca = TestCa::new("root");
        let web = ca.credentials(&Leaf::new(&[WEB]));
        let db = ca.accept(&Leaf::new(&[DB]), DB, &[]).ok().unwrap();
        let client = web.client([db.identity()]).unwrap();
        let seen = tunnel(&client, db.server()).unwrap();
        assert_eq!(seen, (Some(db.identity().clone()), Some(web.identity().clone())));

        let wrong = tunnel(&client, web.server()).unwrap_err().to_string();
        assert!(wrong.contains(&format!("the server presented {WEB}, expected one of {DB}")), "{wrong}");
        let stranger = TestCa::new("other").accept(&Leaf::new(&[DB]), DB, &[]).ok().unwrap();
        let unknown = tunnel(&client, stranger.server()).unwrap_err().to_string();
        assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    }

    const HOUR: u64 = 3_600_000;

    #[test]
    fn renewal_is_near_half_life_and_spread() {
        let validity = Validity { not_before: 100 * HOUR, not_after: 124 * HOUR };
        let mut random = fastrand::Rng::with_seed(7);
        let times: Vec<u64> = (0..200).map(|_| validity.renew_at(100 * HOUR, &mut random)).collect();
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*first >= 112 * HOUR - 24 * HOUR / 20 && *last <= 112 * HOUR + 24 * HOUR / 20);
        assert!(last - first > HOUR, "spread over {} ms only", last - first);
    }

    #[test]
    fn a_certificate_that_is_already_old_is_not_renewed_at_once() {
        let mut random = fastrand::Rng::with_seed(7);
        let old = Validity { not_before: 0, not_after: 100_000 };
        assert_eq!(old.renew_at(80_000, &mut random), 85_000);
        assert_eq!(old.renew_at(99_999, &mut random), 100_999);
        assert_eq!(old.renew_at(200_000, &mut random), 201_000);
    }
}
