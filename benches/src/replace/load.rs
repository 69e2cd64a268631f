//! Connections through a node: idle ones, and busy ones of which every round trip is noted. All are on one thread, and the
//! application at their end is on another.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use demo::traffic::socks5;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::waits::{Wait, Waits};
use crate::error::{LoadError, during};

/// Bytes of a request and of its answer.
const REQUEST: usize = 64;
/// Connections that are opened at a time.
const OPENERS: usize = 16;
/// A connection that is silent for longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module. Dropping it closes all connections.
pub struct Load {
    idle: Vec<TcpStream>,
    notes: Arc<Notes>,
    clients: Runtime,
    _application: Runtime,
}

/// What the busy connections write down.
#[derive(Default)]
struct Notes {
    waits: Mutex<Vec<Wait>>,
    lost: Mutex<Vec<String>>,
}

/// How many connections of a load there are, and how often the busy ones ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Those that say nothing after their first words.
    pub idle: usize,
    /// Those with requests all the time.
    pub busy: usize,
    /// From an answer to the next request, on average.
    pub gap: Duration,
}

impl Load {
    /// Opens everything: through the SOCKS5 server `node` to an application on `server`, which it starts there.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub fn open(node: SocketAddr, server: IpAddr, plan: Plan) -> Result<Self, LoadError> {
        let (application, clients) = (one_thread()?, one_thread()?);
        let listener = application.block_on(TcpListener::bind((server, 0)));
        let listener = listener.map_err(during("the application cannot listen"))?;
        let server = listener.local_addr().map_err(during("the application cannot listen"))?;
        application.spawn(serve(listener));
        let notes = Arc::new(Notes::default());
        let mut idle = clients.block_on(open(node, server, plan.idle + plan.busy))?;
        for (number, stream) in idle.drain(plan.idle..).enumerate() {
            let notes = notes.clone();
            clients.spawn(async move {
                if let Err(error) = ask(stream, number, plan.gap, &notes).await {
                    lock(&notes.lost).push(error.to_string());
                }
            });
        }
        Ok(Self { idle, notes, clients, _application: application })
    }

    /// The round trips that have ended since this was asked last.
    pub fn waits(&self) -> Waits {
        Waits::new(std::mem::take(&mut *lock(&self.notes.waits)))
    }

    /// Lets every idle connection ask once; those that are not answered are lost. How many connections were lost since this was
    /// asked last, busy ones included, and why.
    pub fn lost(&mut self) -> Vec<String> {
        let mut lost = std::mem::take(&mut *lock(&self.notes.lost));
        let asked = std::mem::take(&mut self.idle);
        let answers = self.clients.block_on(async {
            let mut answers = JoinSet::new();
            for (number, mut stream) in asked.into_iter().enumerate() {
                answers.spawn(async move { exchange(&mut stream, number, 0).await.map(|()| stream) });
            }
            answers.join_all().await
        });
        for answer in answers {
            match answer {
                Ok(stream) => self.idle.push(stream),
                Err(error) => lost.push(error.to_string()),
            }
        }
        lost
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("idle", &self.idle.len()).finish_non_exhaustive()
    }
}

fn one_thread() -> Result<Runtime, LoadError> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(during("no thread for connections"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The application: what comes goes back.
async fn serve(listener: TcpListener) {
    // It ends with the runtime, its connections as well.
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        tokio::spawn(async move {
            let mut buffer = [0; REQUEST];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn open(node: SocketAddr, server: SocketAddr, count: usize) -> Result<Vec<TcpStream>, LoadError> {
    let mut openers = JoinSet::new();
    for opener in 0..OPENERS {
        openers.spawn(async move {
            let mut opened = Vec::new();
            for number in (opener..count).step_by(OPENERS) {
                let mut stream = socks5::connect(node, server).await?;
                let answered = exchange(&mut stream, number, 0).await;
                answered.map_err(during("a connection was not answered"))?;
                opened.push(stream);
            }
            Ok::<_, LoadError>(opened)
        });
    }
    let all: Result<Vec<_>, _> = openers.join_all().await.into_iter().collect();
    all.map(|all| all.into_iter().flatten().collect())
}

/// Asks again and again, and notes how long each answer took.
async fn ask(mut stream: TcpStream, number: usize, gap: Duration, notes: &Notes) -> io::Result<()> {
    for turn in 1.. {
        // Connections that were answered together shall not ask together.
        tokio::time::sleep(gap.mul_f64(0.5 + scatter(number, turn))).await;
        let begun = Instant::now();
        exchange(&mut stream, number, turn).await?;
        lock(&notes.waits).push(Wait { connection: number, took: begun.elapsed() });
    }
    Ok(())
}

/// From 0 to 1, the same in each run.
fn scatter(number: usize, turn: usize) -> f64 {
    let mixed = (number * 7919 + turn).wrapping_mul(0x9E37_79B1) >> 8;
    (mixed % 1000) as f64 / 1000.0
}

async fn exchange(stream: &mut TcpStream, number: usize, turn: usize) -> io::Result<()> {
    let mut request = [b'.'; REQUEST];
    request[..8].copy_from_slice(&(number as u64).to_be_bytes());
    request[8..16].copy_from_slice(&(turn as u64).to_be_bytes());
    let answered = async {
        stream.write_all(&request).await?;
        let mut answer = [0; REQUEST];
        stream.read_exact(&mut answer).await?;
        if answer == request { Ok(()) } else { Err(io::Error::other("an answer differs from its request")) }
    };
    tokio::time::timeout(PATIENCE, answered).await?
}
