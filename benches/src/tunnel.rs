//! Both ends of a tunnel in memory: what one seals the other opens.

use std::sync::Arc;

use hbone::{
    ConnectRequest, ConnectResponse, Connection, ConnectionError, Event, Handshake, HandshakeError, Inbox,
    OpenError, Outbox, SessionConfig, StreamId, ThawError, Time, TlsClient, TlsServer, provider,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;

/// A tunnel in memory could not be set up, or broke.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// A certificate could not be made.
    #[error("no certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A TLS configuration could not be made.
    #[error("no TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// A verifier could not be made.
    #[error("no verifier: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The handshake failed.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// The connection failed.
    #[error("connection: {0}")]
    Connection(#[from] ConnectionError),
    /// No stream could be opened.
    #[error("stream: {0}")]
    Open(#[from] OpenError),
    /// A snapshot was refused.
    #[error("snapshot: {0}")]
    Thaw(#[from] ThawError),
}

/// One end, with scratch buffers of its own.
pub struct End {
    /// The connection.
    pub connection: Connection,
    /// What it received last.
    pub inbox: Inbox,
    /// What it is to send.
    pub outbox: Outbox,
    /// What happened, since somebody looked last.
    pub events: Vec<Event>,
}

impl End {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            inbox: Inbox::with_capacity(SCRATCH),
            outbox: Outbox::with_capacity(SCRATCH),
            events: Vec::new(),
        }
    }

    /// Puts what the peer has sealed into the inbox; returns how many bytes that is.
    pub fn copy_from(&mut self, peer: &mut Self) -> usize {
        let sealed = peer.outbox.sealed().len();
        self.inbox.space(&self.connection)[..sealed].copy_from_slice(peer.outbox.sealed());
        peer.connection.written(&mut peer.outbox, sealed);
        sealed
    }

    /// Opens `fresh` bytes of the inbox.
    ///
    /// # Errors
    /// The connection failed.
    pub fn receive(&mut self, fresh: usize) -> Result<(), ConnectionError> {
        self.connection.receive(Time(0), &mut self.inbox, fresh, &mut self.events)
    }

    /// Takes all payload that came, and gives window back.
    pub fn consume(&mut self) {
        for event in self.events.drain(..) {
            if let Event::Data { stream, range } = event {
                self.connection.consumed(stream, range.len());
            }
        }
    }
}

/// Both ends, connected.
pub struct Tunnel {
    /// The end that opens streams.
    pub client: End,
    /// The end that accepts them.
    pub server: End,
}

impl Tunnel {
    /// A handshake, and everything that both ends have to say after it.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub fn open() -> Result<Self, TunnelError> {
        let (client, server) = tls()?;
        // Keepalive and the limit on streams are not what is measured.
        let config = SessionConfig { max_concurrent_streams: 10_000, ..SessionConfig::server() };
        let mut client = Handshake::client(&client, config.clone())?;
        let mut server = Handshake::server(&server, config)?;
        while !(client.is_complete() && server.is_complete()) {
            pass(&mut client, &mut server)?;
            pass(&mut server, &mut client)?;
        }
        let ends = [client, server]
            .map(|end| end.finish(Time(0)).map(|established| End::new(established.connection)));
        let [client, server] = ends;
        let mut tunnel = Self { client: client?, server: server? };
        tunnel.settle()?;
        Ok(tunnel)
    }

    /// Opens a stream and answers it.
    ///
    /// # Errors
    /// The connection failed.
    pub fn connect(&mut self) -> Result<StreamId, TunnelError> {
        let stream = self.client.connection.connect(&request())?;
        self.settle()?;
        self.server.connection.respond(stream, &ConnectResponse::status(200), false);
        self.settle()?;
        Ok(stream)
    }

    /// Passes control frames until both ends are silent. All payload is consumed.
    ///
    /// # Errors
    /// The connection failed.
    pub fn settle(&mut self) -> Result<(), ConnectionError> {
        while exchange(&mut self.client, &mut self.server)? || exchange(&mut self.server, &mut self.client)? {
        }
        Ok(())
    }
}

/// A request as node proxies make it.
pub fn request() -> ConnectRequest {
    let baggage = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,\
                   service.version=v1,cloud.region=region-1,cloud.availability_zone=zone-1";
    let headers = [
        ("baggage", baggage),
        ("forwarded", "for=\"10.1.2.3:45678\";host=db.shop.svc.cluster.local"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    ConnectRequest::connect("10.4.5.6:8080", headers.to_vec())
}

/// Everything that `from` has to say. False if it had nothing to say.
fn exchange(from: &mut End, to: &mut End) -> Result<bool, ConnectionError> {
    let mut fresh = from.connection.unsent().len();
    if fresh > 0 {
        to.inbox.space(&to.connection)[..fresh].copy_from_slice(from.connection.unsent());
        from.connection.advance(fresh);
    } else {
        from.connection.flush(&mut from.outbox)?;
        fresh = to.copy_from(from);
    }
    // What came behind the handshake lies with the connection.
    to.receive(fresh)?;
    to.consume();
    Ok(fresh > 0)
}

fn pass(from: &mut Handshake, to: &mut Handshake) -> Result<(), HandshakeError> {
    let bytes = from.output().to_vec();
    from.advance(bytes.len());
    if bytes.is_empty() { Ok(()) } else { to.receive(&bytes) }
}

/// Both ends trust one root and show a certificate for the address that a client calls every server by.
fn tls() -> Result<(TlsClient, TlsServer), TunnelError> {
    let root_key = rcgen::KeyPair::generate()?;
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let mut roots = RootCertStore::empty();
    roots.add(root.self_signed(&root_key)?.der().clone())?;
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = rcgen::KeyPair::generate()?;
    let leaf = rcgen::CertificateParams::new(["0.0.0.0".to_owned()])?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| rustls::Error::General(error.to_owned()))?;
    let certificate = Arc::new(CertifiedKey::new(vec![leaf.der().clone()], any_supported_type(&key)?));

    let (roots, provider) = (Arc::new(roots), Arc::new(provider()));
    let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let client = WebPkiClientVerifier::builder_with_provider(roots, provider).build()?;
    Ok((TlsClient::new(server, certificate.clone())?, TlsServer::new(client, certificate)?))
}

const SCRATCH: usize = 512 << 10;
