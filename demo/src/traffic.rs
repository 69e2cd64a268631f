//! The applications: a server, and clients that talk to it in every way that matters to a proxy. Both ends check every
//! byte.
//!
//! [`Server`] and [`Clients`] run in the background on a thread of their own, in the network namespace that they are told.
//! Harnesses with a runtime of their own can use [`server::serve`] and [`client::run`] directly.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::place::{Place, PlaceError};

pub mod client;
pub mod conversation;
pub mod pattern;
pub mod server;
pub mod socks5;
pub mod tally;

pub use client::{Dial, Plan};
pub use conversation::{ConversationError, Failure};
pub use tally::{Counts, Ends, Latencies, Tally};

/// An application could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ApplicationError {
    /// The server's address is taken or not of this machine.
    #[error("the server application cannot listen on {address}: {source}")]
    Listen {
        /// Where it should listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("no thread for an application: {0}")]
    Thread(#[source] io::Error),
    /// The network namespace is not there.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// The server application, listening until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    tally: Arc<Tally>,
    _runtime: Background,
}

impl Server {
    /// Starts the server on `address` (port 0: any) in `place`.
    ///
    /// # Errors
    /// See [`ApplicationError`].
    pub fn start(place: &Place, address: SocketAddr) -> Result<Self, ApplicationError> {
        let runtime = Background::new(place, "server-app")?;
        let tally = Arc::new(Tally::new());
        let (listening, heard) = mpsc::channel();
        let server_tally = Arc::clone(&tally);
        runtime.spawn(async move {
            let listener = match bind(address).await {
                Ok((listener, address)) => {
                    // Whoever started the server waits for this message.
                    listening.send(Ok(address)).ok();
                    listener
                }
                Err(error) => {
                    listening.send(Err(error)).ok();
                    return;
                }
            };
            if let Err(error) = server::serve(listener, Arc::clone(&server_tally)).await {
                server_tally.note(format!("the server application takes no more connections: {error}"));
            }
        });
        let bound = heard.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        let address = bound.map_err(|source| ApplicationError::Listen { address, source })?;
        Ok(Self { address, tally, _runtime: runtime })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The client application, running its plan until it is stopped.
#[derive(Debug)]
pub struct Clients {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
    _runtime: Background,
}

impl Clients {
    /// Starts `plan` in `place` against `servers`, addresses of one server that are taken in turn.
    ///
    /// # Errors
    /// See [`ApplicationError`].
    ///
    /// # Panics
    /// `servers` is empty.
    pub fn start(
        place: &Place,
        dial: Dial,
        servers: Vec<SocketAddr>,
        plan: Plan,
    ) -> Result<Self, ApplicationError> {
        assert!(!servers.is_empty(), "clients need a server");
        let runtime = Background::new(place, "client-app")?;
        let tally = Arc::new(Tally::new());
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = mpsc::channel();
        let client_tally = Arc::clone(&tally);
        runtime.spawn(async move {
            client::run(dial, servers, plan, client_tally, stopped).await;
            // Nobody listens if the clients were dropped before their end.
            end.send(()).ok();
        });
        Ok(Self { tally, stop, ended, _runtime: runtime })
    }

    /// What they counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same, for whoever looks on from another thread.
    pub fn shared_tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Lets every conversation come to its proper end, for at most `grace`. False if some did not.
    pub fn finish(&self, grace: Duration) -> bool {
        self.stop.send_replace(true);
        self.ended.recv_timeout(grace).is_ok()
    }
}

/// A runtime with one thread, in a place. Dropping it ends everything on it without waiting.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn new(place: &Place, name: &str) -> Result<Self, ApplicationError> {
        // A thread cannot report that the namespace is gone; this asks beforehand.
        place.run(|| ())?;
        let place = place.clone();
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .on_thread_start(move || place.enter().expect("the namespace was entered a moment ago"))
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(ApplicationError::Thread)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.as_ref().expect("the runtime is taken on drop only").spawn(task);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
