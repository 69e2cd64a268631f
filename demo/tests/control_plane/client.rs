//! A client of the control plane that does nothing by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use demo::control_plane::{Authority, Replica, ResourceType};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use xds::proto::ca::IstioCertificateRequest;
use xds::proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use xds::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use xds::proto::discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Trusted roots, from a file as nodes get it.
pub(crate) fn roots(file: &Path) -> RootCertStore {
    let pem = std::fs::read(file).expect("the file is there");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    roots
}

/// TLS with a replica.
struct Connector {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (address, name, tls) = (self.address, self.name.clone(), self.tls.clone());
        Box::pin(async move {
            let socket = TcpStream::connect(address).await?;
            Ok(TokioIo::new(tls.connect(name, socket).await?))
        })
    }
}

/// Connects to `address`, whose certificate has to be of `roots` and for `name`.
pub(crate) async fn channel(address: SocketAddr, roots: RootCertStore, name: &str) -> Result<Channel, Error> {
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(name.to_owned())?;
    let connector = Connector { address, name, tls: TlsConnector::from(Arc::new(config)) };
    Ok(Endpoint::from(Uri::from_static("http://replica")).connect_with_connector(connector).await?)
}

/// Connects as a node does.
pub(crate) async fn connect(replica: &Replica, authority: &Authority) -> Result<Channel, Error> {
    let roots = roots(&authority.root_file());
    channel(replica.address(), roots, &replica.address().ip().to_string()).await
}

/// A request that shows a token.
pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().expect("a token is ASCII");
    request.metadata_mut().insert("authorization", header);
    request
}

/// Asks for a certificate.
pub(crate) async fn certificate(
    channel: Channel,
    token: &str,
    request: IstioCertificateRequest,
) -> Result<Vec<String>, Status> {
    let mut client = IstioCertificateServiceClient::new(channel);
    Ok(client.create_certificate(with_token(request, token)).await?.into_inner().cert_chain)
}

/// A discovery stream.
pub(crate) struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    pub(crate) async fn open(channel: Channel, token: &str) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(8);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(200 << 20);
        let request = with_token(ReceiverStream::new(receiver), token);
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.expect("the stream is open");
    }

    /// Asks for everything of a type, knowing `kept`.
    pub(crate) async fn subscribe(&self, resource_type: ResourceType, kept: BTreeMap<String, String>) {
        let request = request(resource_type);
        self.send(DeltaDiscoveryRequest { initial_resource_versions: kept, ..request }).await;
    }

    /// The next response.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        message.expect("an answer, or an error")?.ok_or_else(|| Status::ok("the stream has ended"))
    }

    /// The next response, acknowledged.
    pub(crate) async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await.expect("a response");
        self.acknowledge(&response, None).await;
        response
    }

    pub(crate) async fn acknowledge(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|error| discovery::Status { code: 3, message: error.to_owned() }),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }
}

pub(crate) fn request(resource_type: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: resource_type.url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

/// The names in a response.
pub(crate) fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| &*resource.name).collect()
}

/// What a client keeps of a response: names and versions.
pub(crate) fn kept(response: &DeltaDiscoveryResponse) -> BTreeMap<String, String> {
    let resources = response.resources.iter();
    resources.map(|resource| (resource.name.clone(), resource.version.clone())).collect()
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
