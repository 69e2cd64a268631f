//! A small control plane, scripted by the test: what it is asked comes out, what it answers goes in.

use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use crate::connect::{RootCertificates, Server, ServerConfig, Token};
use crate::proto::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use crate::proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use crate::proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use crate::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// Who signs certificates of servers.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The root certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's end of TLS, with a certificate of these names.
    pub(crate) fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What a client needs for a server at this address.
pub(crate) fn config(address: SocketAddr, authority: &Authority) -> ServerConfig {
    ServerConfig {
        address: format!("https://{address}").parse().unwrap(),
        roots: RootCertificates::Pem(authority.pem().to_owned()),
        token: Some(Token::Static("s3cret".to_owned())),
        alternative_name: None,
        cluster_id: "Kubernetes".to_owned(),
        headers: Vec::new(),
    }
}

pub(crate) fn server(config: ServerConfig) -> Server {
    Server::new(config).unwrap()
}

pub(crate) fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

/// A running gRPC server. Its connections end when it is dropped.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
    state: watch::Sender<Connections>,
    accepted: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connections {
    Served,
    /// Nothing is read or written, but they stay open.
    Frozen,
    Cut,
}

impl Replica {
    /// `service` answers on all connections.
    pub(crate) async fn start<S>(acceptor: TlsAcceptor, service: S) -> Self
    where
        S: Service<http::Request<hyper::body::Incoming>, Error = Infallible> + Clone + Send + 'static,
        S: Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<tonic::body::Body>,
                Future: Send,
            >,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, connections) = watch::channel(Connections::Served);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (acceptor, service, mut state) = (acceptor.clone(), service.clone(), connections.clone());
                state.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let mut serving = pin!(
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service))
                    );
                    let mut now = Connections::Served;
                    while now != Connections::Cut {
                        tokio::select! {
                            _ = serving.as_mut(), if now == Connections::Served => return,
                            changed = state.changed() => match changed {
                                Ok(()) => now = *state.borrow_and_update(),
                                Err(_) => return,
                            },
                        }
                    }
                });
            }
        });
        Self { address, accepting, state, accepted }
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// From now on nothing is read or written any more; connections stay open.
    pub(crate) fn freeze(&self) {
        self.state.send_replace(Connections::Frozen);
    }

    /// Ends the connections that there are.
    pub(crate) fn cut(&self) {
        self.state.send_replace(Connections::Cut);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One delta ADS stream, from the server's side.
pub(crate) struct Stream {
    pub(crate) metadata: MetadataMap,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Stream {
    pub(crate) async fn request(&mut self) -> DeltaDiscoveryRequest {
        self.requests.message().await.unwrap().expect("the client has ended the stream")
    }

    pub(crate) async fn respond(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }

    pub(crate) async fn fail(self, status: Status) {
        self.responses.send(Err(status)).await.unwrap();
    }

    /// Until the client has given the stream up.
    pub(crate) async fn ended(mut self) {
        while let Ok(Some(_)) = self.requests.message().await {}
    }
}

/// A delta ADS server whose streams the test plays itself.
pub(crate) struct Discovery {
    pub(crate) replica: Replica,
    streams: mpsc::UnboundedReceiver<Stream>,
}

impl Discovery {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let (sender, streams) = mpsc::unbounded_channel();
        let service = AggregatedDiscoveryServiceServer::new(Play(sender));
        let replica = Replica::start(authority.acceptor(&["127.0.0.1"]), service).await;
        Self { replica, streams }
    }

    pub(crate) async fn stream(&mut self) -> Stream {
        self.streams.recv().await.unwrap()
    }
}

struct Play<T>(mpsc::UnboundedSender<T>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Play<Stream> {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, receiver) = mpsc::channel(16);
        let metadata = request.metadata().clone();
        let stream = Stream { metadata, requests: request.into_inner(), responses };
        self.0.send(stream).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A request for a certificate, and where its answer goes.
pub(crate) struct Signing {
    pub(crate) request: Request<IstioCertificateRequest>,
    pub(crate) answer: oneshot::Sender<Result<Vec<String>, Status>>,
}

/// A CA whose answers the test gives itself.
pub(crate) struct Certificates {
    pub(crate) replica: Replica,
    signings: mpsc::UnboundedReceiver<Signing>,
}

impl Certificates {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let (sender, signings) = mpsc::unbounded_channel();
        let service = IstioCertificateServiceServer::new(Play(sender));
        let replica = Replica::start(authority.acceptor(&["127.0.0.1"]), service).await;
        Self { replica, signings }
    }

    pub(crate) async fn signing(&mut self) -> Signing {
        self.signings.recv().await.unwrap()
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Play<Signing> {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Signing { request, answer }).map_err(|_| Status::unavailable("the test is over"))?;
        let cert_chain = answered.await.map_err(|_| Status::unavailable("the test says nothing"))??;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
