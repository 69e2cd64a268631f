//! Questions that come over connections, each behind its length (RFC 7766).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Phase;
use super::resolver::{BUDGET, Client, Outcome, Resolver};
use crate::telemetry::DnsTransport;

/// How many connections one pod may have. Others wait in the kernel until one ends.
pub(super) const MOST_CONNECTIONS: usize = 64;
/// How many questions of one connection may wait for others. Meanwhile no more are read.
const MOST_WAITING: usize = 32;
/// How long a connection may be silent while nothing is under way, and how long it may take an answer.
const IDLE: Duration = Duration::from_secs(5);
/// After an error of the listener itself (no descriptors), so that one that lasts doesn't occupy the thread.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers what comes until it is told to end. Everything is closed when this returns.
pub(super) async fn serve(
    listener: Arc<TcpListener>,
    resolver: Arc<Resolver>,
    client: Arc<Client>,
    places: Arc<Semaphore>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut connections = JoinSet::new();
    let start = |connections: &mut JoinSet<()>, (stream, place)| {
        connections.spawn(connection(stream, resolver.clone(), client.clone(), place));
    };
    while *phase.borrow_and_update() == Phase::Serving {
        tokio::select! {
            accepted = accept(&listener, &places) => match accepted {
                Ok(accepted) => start(&mut connections, accepted),
                Err(error) => {
                    warn!(target: "dns", %error, "cannot accept");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = phase.changed() => {}
        }
    }
    let phase = *phase.borrow();
    if phase == Phase::Draining {
        // What has been accepted by the kernel would be reset when the listener is closed.
        while let Ok(Ok(accepted)) = timeout(Duration::ZERO, accept(&listener, &places)).await {
            start(&mut connections, accepted);
        }
    }
    if phase != Phase::Stopped {
        drop(listener);
        let _ = timeout(BUDGET, async { while connections.join_next().await.is_some() {} }).await;
    }
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// A connection until its client closes it, is silent for too long, or doesn't take its answers.
async fn connection(
    stream: TcpStream,
    resolver: Arc<Resolver>,
    client: Arc<Client>,
    _place: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(target: "dns", %error, "TCP_NODELAY");
    }
    let (reader, writer) = stream.into_split();
    let mut connection = Connection { reader, writer, received: Vec::new(), waiting: JoinSet::new() };
    if let Err(error) = connection.run(&resolver, &client).await {
        debug!(target: "dns", %error, "a connection ended");
    }
}

struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// Less than a message, between two turns.
    received: Vec<u8>,
    waiting: JoinSet<Vec<u8>>,
}

impl Connection {
    async fn run(&mut self, resolver: &Arc<Resolver>, client: &Arc<Client>) -> io::Result<()> {
        let mut open = true;
        while open || !self.waiting.is_empty() {
            let reads = open && self.waiting.len() < MOST_WAITING;
            tokio::select! {
                length = self.reader.read_buf(&mut self.received), if reads => {
                    open = length? > 0;
                    self.take_messages(resolver, client).await?;
                }
                Some(answer) = self.waiting.join_next() => {
                    send(&mut self.writer, &answer.map_err(io::Error::other)?).await?;
                }
                () = sleep(IDLE), if self.waiting.is_empty() => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes the whole messages out of what was received.
    async fn take_messages(&mut self, resolver: &Arc<Resolver>, client: &Arc<Client>) -> io::Result<()> {
        let mut taken = 0;
        while let Some(message) = first_message(&self.received[taken..]) {
            taken += 2 + message.len();
            match resolver.receive(client, message, DnsTransport::Tcp) {
                Outcome::Ignored => {}
                Outcome::Answered(answer) => send(&mut self.writer, &answer).await?,
                Outcome::Waits(waiting) => {
                    let (resolver, client) = (resolver.clone(), client.clone());
                    self.waiting.spawn(async move { resolver.wait(&client, waiting).await });
                }
            }
        }
        self.received.drain(..taken);
        Ok(())
    }
}

fn first_message(received: &[u8]) -> Option<&[u8]> {
    let (length, rest) = received.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

async fn send(writer: &mut OwnedWriteHalf, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], answer].concat();
    timeout(IDLE, writer.write_all(&framed)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
