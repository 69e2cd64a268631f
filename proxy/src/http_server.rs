//! The small HTTP/1.1 server behind admin, metrics and readiness.
//!
//! It takes sockets that listen already, so that they can come from another process, and stops gracefully: the
//! listening socket closes at once, requests in flight are answered.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

pub use hyper::{Method, StatusCode};

/// A whole reply.
pub type Response = hyper::Response<Full<Bytes>>;

/// Tells servers to stop, once it holds `true` or its sender is gone.
pub type Stop = watch::Receiver<bool>;

/// Time for a client to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// A request's head is small; hyper's least is 8 KiB.
const BUFFER: usize = 8 * 1024;
/// Clients of one server at a time: probes, a scraper, an operator. Others wait in the listening socket's queue.
const CLIENTS: usize = 128;
/// Before accepting is tried again after a failure such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `listener` until `stop`; bodies of requests are ignored. `name` is for the log.
///
/// To be called within a tokio runtime. The future ends when the last client is gone.
pub fn serve(
    name: &'static str,
    listener: std::net::TcpListener,
    handle: impl Fn(&Parts) -> Response + Send + Sync + 'static,
    stop: Stop,
) -> io::Result<impl Future<Output = ()> + Send> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    Ok(accept_until(name, listener, Arc::new(handle), stop))
}

async fn accept_until(
    name: &'static str,
    listener: TcpListener,
    handle: Arc<impl Fn(&Parts) -> Response + Send + Sync + 'static>,
    mut stop: Stop,
) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < CLIENTS => match accepted {
                Ok((stream, _)) => {
                    clients.spawn(converse(name, stream, Arc::clone(&handle), stop.clone()));
                }
                Err(error) => {
                    warn!(server = name, %error, "cannot accept; trying again soon");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

async fn converse(
    name: &'static str,
    stream: TcpStream,
    handle: Arc<impl Fn(&Parts) -> Response + Send + Sync + 'static>,
    mut stop: Stop,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let response = handle(&request.into_parts().0);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(server = name, %error, "a client went badly");
    }
}

async fn stopped(stop: &mut Stop) {
    // An error means that the sender is gone, and with it whoever would want us to go on.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A reply of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    content(status, "text/plain; charset=utf-8", body)
}

/// A reply of some type.
pub fn content(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A reply without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
pub(crate) mod testing {
    //! A client of few words.

    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A listening socket on loopback, and its address.
    pub(crate) fn listener() -> (std::net::TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// One request on a connection of its own: status and body.
    pub(crate) async fn request(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    }

    /// A runtime like that of the control thread.
    pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::testing::{block_on, listener, request};
    use super::*;

    #[test]
    fn stopping_closes_the_door_and_answers_who_is_inside() {
        block_on(async {
            let (listener, address) = listener();
            let (stop, stopped) = watch::channel(false);
            let handle = |head: &Parts| text(StatusCode::OK, head.uri.path().to_owned());
            let server = tokio::spawn(serve("test", listener, handle, stopped).unwrap());
            assert_eq!(request(address, "GET", "/first", "").await.2, "/first");

            // Half a request: the server is waiting for the rest when it is told to stop.
            let mut inside = TcpStream::connect(address).await.unwrap();
            inside.write_all(b"GET /second HTTP/1.1\r\nhost: test\r\n").await.unwrap();
            let_others_run().await;
            stop.send(true).unwrap();
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            inside.write_all(b"\r\n").await.unwrap();
            let mut reply = String::new();
            inside.read_to_string(&mut reply).await.unwrap();
            assert!(reply.ends_with("/second"), "{reply}");
            server.await.unwrap();
        });
    }

    /// Lets the tasks on this thread run until they wait for something.
    async fn let_others_run() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_head_that_never_ends_is_given_up() {
        block_on(async {
            let (listener, address) = listener();
            let (_stop, stopped) = watch::channel(false);
            tokio::spawn(serve("test", listener, |_: &Parts| empty(StatusCode::OK), stopped).unwrap());
            let mut slow = TcpStream::connect(address).await.unwrap();
            slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            let mut reply = Vec::new();
            tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut reply))
                .await
                .unwrap()
                .unwrap();
            assert!(!reply.starts_with(b"HTTP/1.1 200"));

            let mut fat = TcpStream::connect(address).await.unwrap();
            let head = format!("GET / HTTP/1.1\r\nx: {}\r\n", "x".repeat(2 * BUFFER));
            fat.write_all(head.as_bytes()).await.unwrap();
            reply.clear();
            // The rest of the head may meet a closed socket.
            let _ = fat.read_to_end(&mut reply).await;
            assert!(!reply.starts_with(b"HTTP/1.1 200"));
        });
    }
}
