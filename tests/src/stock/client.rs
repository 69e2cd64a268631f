//! A tunnel that stock dialled.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use rustls::ClientConfig;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::stream::Stream;
use super::{CONNECTION_WINDOW, STREAM_WINDOW, connect_tls};

/// A tunnel to one of our nodes. It is closed when this is dropped.
#[derive(Debug)]
pub struct Tunnel {
    requests: SendRequest<Bytes>,
    stalled: watch::Sender<bool>,
    driver: AbortHandle,
}

/// The answer to a CONNECT.
#[derive(Debug)]
pub struct Reply {
    /// 200, or why not.
    pub status: StatusCode,
    /// What came with it.
    pub headers: HeaderMap,
    /// The stream; it goes on only after a 200.
    pub stream: Stream,
}

impl Tunnel {
    /// Dials from `from`; `frame` is the largest frame that is taken.
    ///
    /// # Errors
    /// TCP, TLS or HTTP/2 do not come up.
    pub async fn connect(
        from: IpAddr,
        to: SocketAddr,
        tls: Arc<ClientConfig>,
        frame: u32,
    ) -> io::Result<Self> {
        let tls = connect_tls(from, to, tls).await?;
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(frame)
            .max_header_list_size(16 << 10)
            .max_send_buffer_size(STREAM_WINDOW as usize)
            .initial_max_send_streams(100)
            .enable_push(false)
            .handshake(tls)
            .await
            .map_err(io::Error::other)?;
        let (stalled, mut stall) = watch::channel(false);
        let driver = tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                // Its end shows at every stream.
                _ = &mut connection => {}
                () = async { drop(stall.wait_for(|stall| *stall).await) } => std::future::pending().await,
            }
        });
        Ok(Self { requests, stalled, driver: driver.abort_handle() })
    }

    /// Asks for `authority`.
    ///
    /// # Errors
    /// The stream was reset or the tunnel ended.
    pub async fn open(&self, authority: &str) -> Result<Reply, h2::Error> {
        self.send(connect_method(authority)).await
    }

    /// Sends any request.
    ///
    /// # Errors
    /// As [`Tunnel::open`].
    pub async fn send(&self, request: Request<()>) -> Result<Reply, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, send) = requests.send_request(request, false)?;
        let (head, receive) = response.await?.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, stream: Stream::new(send, receive) })
    }

    /// Does what stock does with an application's connections: each that is accepted becomes a stream to `authority`.
    /// Returns where to connect to.
    ///
    /// # Errors
    /// Nothing can listen on `listen`.
    pub async fn forward(self: &Arc<Self>, listen: IpAddr, authority: String) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((listen, 0)).await?;
        let address = listener.local_addr()?;
        let tunnel = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((mut application, _)) = listener.accept().await {
                let (tunnel, authority) = (Arc::clone(&tunnel), authority.clone());
                tokio::spawn(async move {
                    let Ok(Reply { status: StatusCode::OK, mut stream, .. }) = tunnel.open(&authority).await
                    else {
                        return;
                    };
                    // Whatever breaks shows at the applications.
                    copy_bidirectional(&mut application, &mut stream).await.ok();
                });
            }
        });
        Ok(address)
    }

    /// Stops reading and writing, with everything left open: a peer that hangs.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A CONNECT request as stock sends it, without its headers for telemetry.
///
/// # Panics
/// `authority` cannot be one.
pub fn connect_method(authority: &str) -> Request<()> {
    let uri = Uri::builder().authority(authority).build().expect("an authority");
    Request::builder().method(Method::CONNECT).uri(uri).body(()).expect("a request")
}
