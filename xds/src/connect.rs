//! How to reach a server of the control plane: one connection for each call, nothing remembered in between.
//!
//! Files are read and the name is resolved again each time: Kubernetes renews tokens and roots, and replicas of istiod
//! come and go behind one name.
//!
//! ```text
//!  roots ──► name ──► each address, until one is good: TCP ──► TLS ──► HTTP/2
//!            5 s      in random order                   5 s together
//! ```

mod config;
mod error;
mod tls;

pub use config::{RootCertificates, ServerConfig, Token};
pub use error::{AddressError, ConnectError, Purpose, ServerConfigError, Step};

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// A server of the control plane. Clones are cheap.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    config: ServerConfig,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    name: ServerName<'static>,
    alternative_name: Option<ServerName<'static>>,
}

impl Server {
    /// Checks what can be checked without the network.
    pub fn new(config: ServerConfig) -> Result<Self, ServerConfigError> {
        if config.address.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err(ServerConfigError::NotHttps(config.address));
        }
        let host = config.address.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let name = |name: &str| {
            ServerName::try_from(name.to_owned()).map_err(|_| ServerConfigError::Name(name.to_owned()))
        };
        if http::HeaderValue::from_str(&config.cluster_id).is_err() {
            return Err(ServerConfigError::ClusterId(config.cluster_id));
        }
        let shared = Shared {
            name: name(&host)?,
            alternative_name: config.alternative_name.as_deref().map(name).transpose()?,
            port: config.address.port_u16().unwrap_or(443),
            host,
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A new connection, and the address at its other end. All addresses are tried, in random order, `avoid` last.
    ///
    /// The connection is never made anew behind the caller's back: once it has ended, all calls on the channel fail.
    /// It is found dead within 40 s also when nothing is called. Needs a tokio runtime.
    pub async fn connect(&self, avoid: Option<SocketAddr>) -> Result<(Channel, SocketAddr), ConnectError> {
        let tls = tls::connector(self.roots()?, self.shared.alternative_name.clone())?;
        let addresses = in_random_order(self.resolve().await?, avoid);
        self.connect_to_any(addresses, &tls).await
    }

    /// What goes along with a request: the token as it is now, the cluster, and the headers of the configuration.
    pub fn metadata(&self) -> Result<MetadataMap, ConnectError> {
        let mut headers = http::HeaderMap::new();
        let config = &self.shared.config;
        if let Some(token) = &config.token {
            headers.insert(http::header::AUTHORIZATION, token.bearer()?);
        }
        if let Ok(cluster) = http::HeaderValue::from_str(&config.cluster_id) {
            headers.insert("clusterid", cluster);
        }
        for (name, value) in &config.headers {
            headers.append(name, value.clone());
        }
        Ok(MetadataMap::from_headers(headers))
    }

    /// The root certificates as they are now, in PEM; nothing for those of the system.
    pub(crate) fn roots(&self) -> Result<Option<Vec<u8>>, ConnectError> {
        self.shared.config.roots.read()
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let (host, port) = (self.shared.host.as_str(), self.shared.port);
        let failed = |reason: String| ConnectError::Resolve { host: host.to_owned(), reason };
        let found = timeout(STEP_TIMEOUT, tokio::net::lookup_host((host, port)))
            .await
            .map_err(|_| failed(format!("no answer within {} s", STEP_TIMEOUT.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        let addresses: Vec<_> = found.collect();
        if addresses.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(addresses) }
    }

    async fn connect_to_any(
        &self,
        addresses: Vec<SocketAddr>,
        tls: &TlsConnector,
    ) -> Result<(Channel, SocketAddr), ConnectError> {
        let mut failed = Vec::new();
        for address in addresses {
            match self.open(address, tls).await {
                Ok(channel) => return Ok((channel, address)),
                Err(error) => failed.push(error),
            }
        }
        // An order that repeats: whoever compares two errors should not see chance.
        failed.sort_by_key(|error| error.address);
        Err(ConnectError::Addresses(failed))
    }

    async fn open(&self, address: SocketAddr, tls: &TlsConnector) -> Result<Channel, AddressError> {
        // How far it got when the time was up.
        let mut step = Step::Tcp;
        let opening = async {
            let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            // Requests are small, and answered before the next one.
            tcp.set_nodelay(true).map_err(|error| error.to_string())?;
            step = Step::Tls;
            let stream =
                tls.connect(self.shared.name.clone(), tcp).await.map_err(|error| tls::reason(&error))?;
            step = Step::Http;
            self.channel(stream).await.map_err(|error| error.to_string())
        };
        let result = timeout(STEP_TIMEOUT, opening).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {} s", STEP_TIMEOUT.as_secs())));
        result.map_err(|reason| AddressError { address, step, reason })
    }

    async fn channel(&self, stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
        // A channel asks for another connection when one has ended. This one gives only the first.
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let connector = service_fn(move |_: http::Uri| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(stream.ok_or("the connection has ended"))
        });
        Endpoint::from(self.shared.config.address.clone())
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect_with_connector(connector)
            .await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.shared.config).finish()
    }
}

fn in_random_order(mut addresses: Vec<SocketAddr>, last: Option<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    fastrand::shuffle(&mut addresses);
    addresses.sort_by_key(|address| Some(*address) == last);
    addresses
}

/// For resolving the name, and for each address.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes. The first answer of a large mesh has 100 MiB; it should not wait for a round trip every 64 KiB.
const WINDOW: u32 = 8 << 20;

#[cfg(test)]
mod tests;
