//! Questions that come in datagrams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::Phase;
use super::resolver::{Client, Outcome, Resolver};
use crate::telemetry::DnsTransport;

/// The longest question that is taken. Questions are short.
const LONGEST: usize = 4096;
/// After an error of the socket itself, so that one that lasts doesn't occupy the thread.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers what comes until it is told to end. The socket is closed when this returns or is dropped.
pub(super) async fn serve(
    socket: Arc<UdpSocket>,
    resolver: Arc<Resolver>,
    client: Arc<Client>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut server = Server { socket, resolver, client, waiting: JoinSet::new(), buffer: vec![0; LONGEST] };
    while *phase.borrow_and_update() == Phase::Serving {
        tokio::select! {
            received = server.socket.recv_from(&mut server.buffer) => server.received(received).await,
            Some(answer) = server.waiting.join_next() => server.send(answer).await,
            _ = phase.changed() => {}
        }
    }
    let phase = *phase.borrow();
    if phase == Phase::Draining {
        while let Ok(received) = server.socket.try_recv_from(&mut server.buffer) {
            server.received(Ok(received)).await;
        }
    }
    if phase != Phase::Stopped {
        while let Some(answer) = server.waiting.join_next().await {
            server.send(answer).await;
        }
    }
    server.waiting.shutdown().await;
}

/// An answer and whom it is for.
type Answer = (Vec<u8>, SocketAddr);

struct Server {
    socket: Arc<UdpSocket>,
    resolver: Arc<Resolver>,
    client: Arc<Client>,
    waiting: JoinSet<Answer>,
    buffer: Vec<u8>,
}

impl Server {
    async fn received(&mut self, received: io::Result<(usize, SocketAddr)>) {
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                warn!(target: "dns", %error, "cannot receive");
                return tokio::time::sleep(PAUSE).await;
            }
        };
        match self.resolver.receive(&self.client, &self.buffer[..length], DnsTransport::Udp) {
            Outcome::Ignored => {}
            Outcome::Answered(answer) => self.send(Ok((answer, from))).await,
            Outcome::Waits(waiting) => {
                let (resolver, client) = (self.resolver.clone(), self.client.clone());
                self.waiting.spawn(async move { (resolver.wait(&client, waiting).await, from) });
            }
        }
    }

    async fn send(&self, answer: Result<Answer, tokio::task::JoinError>) {
        match answer {
            Ok((answer, to)) => {
                if let Err(error) = self.socket.send_to(&answer, to).await {
                    debug!(target: "dns", %to, %error, "an answer could not be sent");
                }
            }
            Err(panic) => tracing::error!(target: "dns", %panic, "a panic ended one question"),
        }
    }
}
