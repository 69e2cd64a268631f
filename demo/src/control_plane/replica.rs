//! One istiod: both services on one port, in a thread of its own.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use xds::Identity;
use xds::proto::ca::istio_certificate_service_server::{self as ca_server, IstioCertificateServiceServer};
use xds::proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;

use super::certificates::Certificates;
use super::discovery::Discovery;
use super::{Authority, AuthorityError, Cluster, Statistics};
use crate::addresses::listen_again;
use crate::node::Control;

mod wire;

pub(super) use wire::Fuse;
use wire::Wire;

/// What a replica does wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Nothing.
    #[default]
    None,
    /// It accepts new TCP connections and sends nothing on them, ever.
    HangAfterAccept,
    /// It takes discovery streams, and says nothing on them, old or new. Afterwards it goes on where it stopped.
    SilentStream,
    /// Each response of the discovery service breaks off in its middle, with a TCP reset.
    ResetMidMessage,
    /// On new connections it shows a TLS certificate of a root that nobody trusts.
    WrongServerCertificate,
    /// It signs with a root that nobody trusts, and names that root in the answer.
    ChainOfAnotherRoot,
    /// It signs, properly, for another identity than was asked for.
    ChainOfAnotherIdentity,
    /// It refuses every certificate (`PERMISSION_DENIED`).
    RefuseCertificates,
}

/// A running replica. Dropping it is [`Replica::stop`].
#[derive(Debug)]
pub struct Replica {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Dropped to end the thread.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// What the tasks of a replica share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cluster: Cluster,
    pub(super) authority: Authority,
    behaviour: watch::Sender<Misbehaviour>,
    statistics: Mutex<Statistics>,
}

impl Replica {
    /// Starts a replica on `address` (port 0: any), in the network namespace of the calling thread. It takes connections
    /// when this returns.
    ///
    /// # Errors
    /// The address is taken or not of this machine; no thread could be started.
    pub fn start(address: SocketAddr, cluster: &Cluster, authority: &Authority) -> io::Result<Self> {
        // Addresses of connections that are just closed are no hindrance: the standard library sets SO_REUSEADDR.
        let listener = listen_again(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            authority: authority.clone(),
            behaviour: watch::Sender::default(),
            statistics: Mutex::default(),
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let tasks = Arc::clone(&shared);
        let thread = thread::Builder::new().name("control-plane".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, tasks) => {}
                    _ = stopped => {}
                }
            });
            // With the runtime end all tasks, and their sockets with them.
        })?;
        Ok(Self { address, shared, running: Some((stop, thread)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As `XDS_ADDRESS` and `CA_ADDRESS` want it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What a node needs to use this replica as `identity`, with a fresh token.
    ///
    /// # Errors
    /// The token cannot be written.
    pub fn control(&self, identity: &Identity) -> Result<Control, AuthorityError> {
        let authority = &self.shared.authority;
        let token = authority.token(identity)?;
        Ok(Control::ControlPlane { address: self.url(), root: authority.root_file(), token })
    }

    /// Ends it as if it were killed: nobody listens and every connection is reset when this returns.
    pub fn stop(mut self) {
        self.end();
    }

    /// Does this wrong from now on.
    pub fn misbehave(&self, misbehaviour: Misbehaviour) {
        self.shared.behaviour.send_replace(misbehaviour);
    }

    /// What it has seen since it started.
    pub fn statistics(&self) -> Statistics {
        self.shared.count(|statistics| statistics.clone())
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            // It can only have panicked, and said so.
            thread.join().ok();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    pub(super) fn count<R>(&self, counting: impl FnOnce(&mut Statistics) -> R) -> R {
        counting(&mut self.statistics.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn behaviour(&self) -> watch::Receiver<Misbehaviour> {
        self.behaviour.subscribe()
    }

    pub(super) fn misbehaviour(&self) -> Misbehaviour {
        *self.behaviour.borrow()
    }

    /// Who is calling, by the token.
    pub(super) fn bearer(&self, metadata: &MetadataMap) -> Result<Identity, Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer "));
        token.and_then(|token| self.authority.bearer(token)).ok_or_else(|| {
            self.count(|statistics| statistics.token_failures += 1);
            Status::unauthenticated("the token is missing, unknown or expired")
        })
    }
}

async fn accept(listener: StdListener, replica: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a listener, in a runtime");
    loop {
        // An error is of one connection, or passes: out of descriptors, say.
        let Ok((socket, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        replica.count(|statistics| statistics.connections += 1);
        let replica = Arc::clone(&replica);
        // A connection that breaks is the business of its client.
        tokio::spawn(async move { serve(socket, replica).await.ok() });
    }
}

async fn serve(
    socket: TcpStream,
    replica: Arc<Shared>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ip = socket.local_addr()?.ip();
    let fuse = Arc::new(Fuse::unlit());
    let mut wire = Wire::new(socket, Arc::clone(&fuse))?;
    let misbehaviour = replica.misbehaviour();
    if misbehaviour == Misbehaviour::HangAfterAccept {
        // Read, so that the end of the client is noticed.
        tokio::io::copy(&mut (&mut wire).take(u64::MAX), &mut sink()).await?;
        return Ok(());
    }
    let trusted = misbehaviour != Misbehaviour::WrongServerCertificate;
    let config = replica.authority.server_config(ip, trusted)?;
    let tls = TlsAcceptor::from(Arc::new(config)).accept(wire).await?;

    let certificates = IstioCertificateServiceServer::new(Certificates { replica: Arc::clone(&replica) });
    let discovery = AggregatedDiscoveryServiceServer::new(Discovery { replica, fuse })
        .max_decoding_message_size(LARGEST_MESSAGE);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (mut certificates, mut discovery) = (certificates.clone(), discovery.clone());
        async move {
            if request.uri().path().trim_start_matches('/').starts_with(ca_server::SERVICE_NAME) {
                certificates.call(request).await
            } else {
                discovery.call(request).await
            }
        }
    });
    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service).await?;
    Ok(())
}

/// A client of a large mesh sends what it knows in its first request. As much as clients take.
const LARGEST_MESSAGE: usize = 200 << 20;
