//! The client application: a mix of connections, each checked to the last byte, until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::conversation::{ConversationError, Head, PATIENCE, Pattern, Place, Receiver, Sender};
use super::pattern::{Direction, WINDOW};
use super::socks5;
use super::tally::{Measured, Tally};

/// How the client reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// Straight to its address; a node proxy takes the connection unasked, or there is none.
    Direct,
    /// Through the SOCKS5 port of a node proxy.
    Socks5(SocketAddr),
}

/// Which connections the client keeps going, side by side.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Connections that carry blocks both ways as fast as they go, from start to stop.
    pub bulk: usize,
    /// Connections that ask and are answered without pause, renewed after a few hundred requests.
    pub requests: usize,
    /// Places where a new connection is opened for every single request.
    pub fresh: usize,
    /// Places where one connection after another ends one direction before the other begins.
    pub half_close: usize,
    /// Connections that stay open from start to stop and say something now and then.
    pub idle: usize,
    /// Longest silence of an idle connection.
    pub idle_pause: Duration,
    /// Decides sizes and pauses.
    pub seed: u64,
}

impl Plan {
    /// Connections that are open at the same time.
    pub fn connections(&self) -> usize {
        self.bulk + self.requests + self.fresh + self.half_close + self.idle
    }
}

/// Everything that the connections of a client share.
#[derive(Debug)]
struct Client {
    dial: Dial,
    servers: Vec<SocketAddr>,
    plan: Plan,
    tally: Arc<Tally>,
    next: AtomicU64,
    stop: watch::Receiver<bool>,
}

/// Runs `plan` against `servers` (addresses of one server; taken in turn) until `stop` turns true, then lets every
/// conversation come to its proper end. Returns when all have.
pub async fn run(
    dial: Dial,
    servers: Vec<SocketAddr>,
    plan: Plan,
    tally: Arc<Tally>,
    stop: watch::Receiver<bool>,
) {
    let client = Arc::new(Client { dial, servers, plan, tally, next: AtomicU64::new(1), stop });
    let mut tasks = JoinSet::new();
    for _ in 0..client.plan.bulk {
        tasks.spawn(Arc::clone(&client).until_stopped(Role::Bulk));
    }
    for _ in 0..client.plan.requests {
        tasks.spawn(Arc::clone(&client).until_stopped(Role::Requests));
    }
    for _ in 0..client.plan.fresh {
        tasks.spawn(Arc::clone(&client).until_stopped(Role::Fresh));
    }
    for _ in 0..client.plan.half_close {
        tasks.spawn(Arc::clone(&client).until_stopped(Role::HalfClose));
    }
    for _ in 0..client.plan.idle {
        tasks.spawn(Arc::clone(&client).until_stopped(Role::Idle));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            client.tally.note(format!("a client task broke off: {error}"));
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Bulk,
    Requests,
    Fresh,
    HalfClose,
    Idle,
}

impl Client {
    /// One connection after another, of the same kind. A failed one is followed by a pause, so that a proxy that is
    /// gone gives a handful of failures and not a storm.
    async fn until_stopped(self: Arc<Self>, role: Role) {
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let failed = self.tally.failed();
            self.tally.connection(self.converse(role, number)).await;
            let pause = match role {
                _ if self.tally.failed() > failed => AFTER_FAILURE,
                Role::Fresh | Role::HalfClose => BETWEEN_SHORT,
                Role::Bulk | Role::Requests | Role::Idle => Duration::ZERO,
            };
            // The sender of `stop` going away means stop, too.
            if timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
        }
    }

    async fn converse(&self, role: Role, number: u64) -> Result<(), ConversationError> {
        let mut random = fastrand::Rng::with_seed(self.plan.seed ^ number);
        // The number of another run must not give the same bytes.
        let connection = (self.plan.seed << 32) ^ number;
        let begun = Instant::now();
        let stream = self.connect(connection, number).await?;
        let talk = Talk { client: self, stream, connection };
        match role {
            Role::Bulk => talk.bulk().await,
            Role::Requests => {
                let count = random.usize(50..400);
                talk.requests(&mut random, count, Pace::Steady).await
            }
            Role::Fresh => talk.requests(&mut random, 1, Pace::Fresh(begun)).await,
            Role::Idle => talk.requests(&mut random, usize::MAX, Pace::Idle).await,
            Role::HalfClose => talk.half_close(&mut random).await,
        }
    }

    async fn connect(&self, connection: u64, number: u64) -> Result<TcpStream, ConversationError> {
        let server = self.servers[usize::try_from(number).unwrap_or(0) % self.servers.len()];
        let silent = ConversationError::Silent {
            connection,
            place: Place { direction: Direction::Upload, offset: 0 },
        };
        let refused = |source| ConversationError::Connect { connection, source };
        match self.dial {
            Dial::Direct => {
                let stream = timeout(PATIENCE, TcpStream::connect(server))
                    .await
                    .map_err(|_| silent)?
                    .map_err(refused)?;
                stream.set_nodelay(true).map_err(refused)?;
                Ok(stream)
            }
            Dial::Socks5(proxy) => timeout(PATIENCE, socks5::connect(proxy, server))
                .await
                .map_err(|_| silent)?
                .map_err(|source| ConversationError::Socks5 { connection, source }),
        }
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Bounds the number of short connections, or their ports would run out.
const BETWEEN_SHORT: Duration = Duration::from_millis(10);

/// How requests follow one another.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// At once; each is measured.
    Steady,
    /// There is one; it is measured from before the connection was opened.
    Fresh(Instant),
    /// After a pause; not measured, since nobody waits for them.
    Idle,
}

/// One open connection.
struct Talk<'c> {
    client: &'c Client,
    stream: TcpStream,
    connection: u64,
}

impl Talk<'_> {
    fn head(&self, pattern: Pattern, length: u64) -> [u8; Head::SIZE] {
        Head { pattern, connection: self.connection, length }.encode()
    }

    async fn bulk(mut self) -> Result<(), ConversationError> {
        let head = self.head(Pattern::Bulk, 0);
        let (reader, writer) = self.stream.split();
        let tally = &*self.client.tally;
        let mut from = Receiver::new(reader, self.connection, Direction::Download, tally);
        let mut to = Sender::new(writer, self.connection, Direction::Upload, tally);
        let send = async {
            to.control(&head).await?;
            while !self.client.stopped() {
                to.block(WINDOW).await?;
                // Requests on the same thread shall not wait for more than one block.
                yield_now().await;
            }
            to.block(0).await?;
            to.finish().await
        };
        let receive = async {
            while from.block().await? {
                yield_now().await;
            }
            from.ended().await
        };
        tokio::try_join!(send, receive).map(|_| ())
    }

    async fn requests(
        mut self,
        random: &mut fastrand::Rng,
        count: usize,
        pace: Pace,
    ) -> Result<(), ConversationError> {
        let head = self.head(Pattern::Requests, 0);
        let (reader, writer) = self.stream.split();
        let tally = &*self.client.tally;
        let mut from = Receiver::new(reader, self.connection, Direction::Download, tally);
        let mut to = Sender::new(writer, self.connection, Direction::Upload, tally);
        to.control(&head).await?;
        let mut stop = self.client.stop.clone();
        for number in 0..count {
            // Even when told to stop, each connection has carried something.
            if number > 0 && *stop.borrow() {
                break;
            }
            let (request, answer) = (message_length(random), message_length(random));
            let mut sizes = [0; 8];
            sizes[..4].copy_from_slice(&request.to_be_bytes());
            sizes[4..].copy_from_slice(&answer.to_be_bytes());
            let asked = Instant::now();
            to.message(&sizes, u64::from(request)).await?;
            from.payload(u64::from(answer)).await?;
            tally.answered(match pace {
                Pace::Steady => Some((Measured::Answer, asked.elapsed())),
                Pace::Fresh(begun) => Some((Measured::Fresh, begun.elapsed())),
                Pace::Idle => None,
            });
            if matches!(pace, Pace::Idle) {
                let pause = self.client.plan.idle_pause.mul_f64(random.f64());
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }
        }
        to.finish().await?;
        from.ended().await
    }

    async fn half_close(mut self, random: &mut fastrand::Rng) -> Result<(), ConversationError> {
        let length = random.u64(1..1 << 20);
        let client_first = random.bool();
        let pattern =
            if client_first { Pattern::HalfCloseClientFirst } else { Pattern::HalfCloseServerFirst };
        let head = self.head(pattern, length);
        let (reader, writer) = self.stream.split();
        let tally = &*self.client.tally;
        let mut from = Receiver::new(reader, self.connection, Direction::Download, tally);
        let mut to = Sender::new(writer, self.connection, Direction::Upload, tally);
        to.control(&head).await?;
        if client_first {
            to.all_of(length).await?;
            from.all_of(length).await
        } else {
            from.all_of(length).await?;
            to.all_of(length).await
        }
    }
}

/// Mostly small, sometimes larger than any single record or frame; never empty.
fn message_length(random: &mut fastrand::Rng) -> u32 {
    match random.u32(0..10) {
        0..6 => random.u32(1..1024),
        6..9 => random.u32(1024..16 * 1024),
        _ => random.u32(16 * 1024..96 * 1024),
    }
}
