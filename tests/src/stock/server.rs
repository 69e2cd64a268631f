//! The proxy of another node, as stock: takes tunnels on port 15008 and joins their streams to applications.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncWriteExt, copy, copy_bidirectional, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::stream::Stream;
use super::{CONNECTION_WINDOW, LARGE_FRAMES, STREAM_WINDOW, server_config};
use crate::certificates::Credentials;

/// How a server is set.
#[derive(Debug, Clone, Copy)]
pub struct ServerConfig {
    /// `SETTINGS_MAX_FRAME_SIZE`.
    pub frame: u32,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`.
    pub streams: u32,
    /// What becomes of requests.
    pub answer: Answer,
}

impl Default for ServerConfig {
    /// As stock.
    fn default() -> Self {
        Self { frame: LARGE_FRAMES, streams: 200, answer: Answer::Join }
    }
}

/// What becomes of a CONNECT request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The stream is joined to the application at its authority.
    Join,
    /// As `Join`, and streams end with trailers.
    JoinWithTrailers,
    /// Every stream of the first tunnel is refused unprocessed, later ones are joined.
    RefuseFirstTunnel,
    /// A status, and the end of the stream.
    Status(StatusCode),
    /// 200, a few bytes, then RST_STREAM.
    Reset(Reason),
}

/// A listening server. Dropping it ends it with all of its tunnels.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    going_away: watch::Sender<usize>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    config: ServerConfig,
    handshakes: AtomicUsize,
    tunnels: AtomicUsize,
    streams: AtomicUsize,
    broken: Mutex<Vec<String>>,
}

impl Server {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start(
        address: SocketAddr,
        credentials: Credentials,
        config: ServerConfig,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let acceptor = TlsAcceptor::from(server_config(credentials));
        let counters = [(); 3].map(|()| AtomicUsize::new(0));
        let [handshakes, tunnels, streams] = counters;
        let shared = Arc::new(Shared { config, handshakes, tunnels, streams, broken: Mutex::default() });
        let (going_away, away) = watch::channel(0);
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, shared, away) = (acceptor.clone(), Arc::clone(&serving), away.clone());
                // Failed ones are the client's business; here they are only not counted.
                connections.spawn(async move { shared.tunnel(tcp, acceptor, away).await.ok() });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { shared, going_away, task })
    }

    /// TLS handshakes that were done.
    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::Acquire)
    }

    /// Tunnels that are open.
    pub fn tunnels(&self) -> usize {
        self.shared.tunnels.load(Ordering::Acquire)
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Acquire)
    }

    /// Tunnels and streams that broke, in words.
    pub fn broken(&self) -> Vec<String> {
        self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells all clients of now to open nothing more (GOAWAY, RFC 9113, 6.8); open streams go on.
    pub fn go_away(&self) {
        self.going_away.send_modify(|times| *times += 1);
    }
}

impl Server {
    /// Ends it as a process ends that is killed: every socket is closed, nobody is told.
    pub async fn kill(mut self) {
        self.task.abort();
        // It says that it was aborted.
        (&mut self.task).await.ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the stock server saw {:#?}", self.broken());
        }
        self.task.abort();
    }
}

impl Shared {
    fn note(&self, error: &dyn Error) {
        let mut text = error.to_string();
        if let Some(cause) = error.source() {
            write!(text, ": {cause}").expect("a string takes anything");
        }
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    async fn tunnel(
        self: Arc<Self>,
        tcp: TcpStream,
        acceptor: TlsAcceptor,
        mut away: watch::Receiver<usize>,
    ) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let tcp = tcp.into_std()?;
        let lingering = TcpStream::from_std(tcp.try_clone()?)?;
        let tls = acceptor.accept(TcpStream::from_std(tcp)?).await?;
        let number = self.handshakes.fetch_add(1, Ordering::AcqRel);
        away.borrow_and_update();
        let mut connection = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(self.config.frame)
            .max_header_list_size(64 << 10)
            .max_send_buffer_size(400 << 10)
            .max_concurrent_streams(self.config.streams)
            .handshake::<_, Bytes>(tls)
            .await
            .map_err(io::Error::other)?;
        let _open = Counted::new(&self, |shared| &shared.tunnels);
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                request = connection.accept() => match request {
                    Some(Ok((request, respond))) => {
                        let counted = Counted::new(&self, |shared| &shared.streams);
                        let answer = match self.config.answer {
                            Answer::RefuseFirstTunnel if number > 0 => Answer::Join,
                            answer => answer,
                        };
                        streams.spawn(async move {
                            if let Err(error) = serve(answer, request, respond).await {
                                counted.0.note(&*error);
                            }
                        });
                    }
                    Some(Err(error)) => {
                        self.note(&error);
                        return Ok(());
                    }
                    None => return linger(lingering).await,
                },
                Ok(()) = away.changed() => connection.graceful_shutdown(),
            }
        }
    }
}

/// Waits for the client's end. A socket that is closed with bytes unread is reset, and what the client has not received
/// by then is lost.
async fn linger(mut socket: TcpStream) -> io::Result<()> {
    match timeout(LINGER, copy(&mut socket, &mut sink())).await {
        Ok(read) => read.map(drop),
        Err(_) => Ok(()),
    }
}

const LINGER: Duration = Duration::from_secs(5);

async fn serve(
    answer: Answer,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let reply = |status| Response::builder().status(status).body(());
    match answer {
        Answer::RefuseFirstTunnel => respond.send_reset(Reason::REFUSED_STREAM),
        Answer::Status(status) => {
            respond.send_response(reply(status)?, true)?;
        }
        Answer::Reset(reason) => {
            let send = respond.send_response(reply(StatusCode::OK)?, false)?;
            let mut stream = Stream::new(send, request.into_body());
            stream.write_all(b"a beginning").await?;
            stream.reset(reason);
        }
        Answer::Join | Answer::JoinWithTrailers => {
            let authority = request.uri().authority().ok_or("a request without authority")?;
            let mut application = TcpStream::connect(authority.as_str()).await?;
            application.set_nodelay(true)?;
            let send = respond.send_response(reply(StatusCode::OK)?, false)?;
            let mut stream = Stream::new(send, request.into_body());
            if answer == Answer::JoinWithTrailers {
                stream = stream.with_trailers();
            }
            copy_bidirectional(&mut stream, &mut application).await?;
        }
    }
    Ok(())
}

/// Counts something for as long as it lives.
struct Counted(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Counted {
    fn new(shared: &Arc<Shared>, counter: fn(&Shared) -> &AtomicUsize) -> Self {
        counter(shared).fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared), counter)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Ordering::AcqRel);
    }
}
