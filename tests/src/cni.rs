//! An istio-cni in miniature: the server of ZDS, by which a node's proxy learns of the pods.
//!
//! It does what istio-cni's own server does, its oddities included:
//!
//! - A connection is "the latest" from its accept on, before its hello. It gets all pods, one by one, each with its network
//!   namespace, or as one to keep where the namespace is not known; then the word that these were all.
//! - A new pod is told to the latest connection only, after its snapshot. The end of a pod is told to every connection, one
//!   after the other, the oldest first.
//! - Each message waits for one answer, 5 s. Answers are told apart by their order only: one that comes later is taken for
//!   the answer to the next message.
//! - That a connection is dead shows when it is written to, or by a probe after 5 s without updates; then the one before it
//!   is the latest.
//!
//! It can also do wrong what a real one should not: see [`Fault`]. Calls block; they are for threads of tests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

mod connection;
mod fault;
pub mod message;
mod packet;
pub mod peer;
mod statistics;

use connection::Connection;
pub use fault::Fault;
use message::{Add, Delete, Payload, Request, WorkloadInfo};
pub use packet::PacketError;
pub use statistics::{Answer, Statistics};

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two accepts, on average; one may follow at once.
    pub accept: Duration,
    /// How long an answer is waited for.
    pub deadline: Duration,
    /// Without updates for this long, a connection is probed.
    pub keepalive: Duration,
    /// How long a probe looks for bytes that should not come.
    pub probe: Duration,
}

impl Timing {
    /// As istio-cni has it.
    pub const ISTIO: Self = Self {
        accept: Duration::from_millis(200),
        deadline: Duration::from_secs(5),
        keepalive: Duration::from_secs(5),
        probe: Duration::from_millis(10),
    };

    /// The same with no limit on accepts.
    pub const UNLIMITED: Self = Self { accept: Duration::ZERO, ..Self::ISTIO };
}

/// The server. It remembers its pods while it is stopped. Dropping it stops it.
#[derive(Debug)]
pub struct Cni {
    path: PathBuf,
    shared: Arc<Shared>,
    running: Option<Running>,
}

/// What accepts connections.
#[derive(Debug)]
struct Running {
    listener: Arc<Socket>,
    /// Dropped to end the thread.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Why a proxy does not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// No proxy is connected.
    #[error("no ztunnel connection")]
    NoConnection,
    /// The connection ended before there was an answer.
    #[error("the connection ended before it answered")]
    Closed,
    /// There is no answer.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// It says that something went wrong.
    #[error("got ack error: {0}")]
    Refused(String),
}

/// A pod as istio-cni knows it.
#[derive(Debug, Clone)]
struct KnownPod {
    workload: WorkloadInfo,
    namespace: Option<Arc<File>>,
}

/// A message for a connection, and who waits for the answer.
#[derive(Debug)]
struct Update {
    request: Request,
    namespace: Option<Arc<File>>,
    answer: Sender<Result<String, PacketError>>,
}

/// A connection that is taken for open.
#[derive(Debug)]
struct Open {
    number: u64,
    socket: Arc<Socket>,
    updates: Sender<Update>,
    thread: JoinHandle<()>,
}

/// What the tasks of the server share.
#[derive(Debug)]
struct Shared {
    timing: Timing,
    pods: Mutex<BTreeMap<String, KnownPod>>,
    /// The latest one last.
    connections: Mutex<Vec<Open>>,
    /// A fault, after so many more messages.
    fault: Mutex<Option<(usize, Fault)>>,
    statistics: Mutex<Statistics>,
}

impl Cni {
    /// Starts it on `path`. A socket that another one left there is replaced.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn start(path: PathBuf, timing: Timing) -> io::Result<Self> {
        let shared = Shared {
            timing,
            pods: Mutex::default(),
            connections: Mutex::default(),
            fault: Mutex::default(),
            statistics: Mutex::default(),
        };
        let mut cni = Self { path, shared: Arc::new(shared), running: None };
        cni.restart()?;
        Ok(cni)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends it as if it were killed: its connections end, and its socket stays where it is, dead.
    pub fn stop(&mut self) {
        let Some(Running { listener, stop, thread }) = self.running.take() else { return };
        drop(stop);
        // That wakes the thread. It can fail only if the thread is gone; and a thread can only have panicked, and said so.
        listener.shutdown(Shutdown::Both).ok();
        thread.join().ok();
        let connections = std::mem::take(&mut *locked(&self.shared.connections));
        for Open { socket, updates, thread, .. } in connections {
            drop(updates);
            socket.shutdown(Shutdown::Both).ok();
            thread.join().ok();
        }
    }

    /// Starts it again, after a [`Cni::stop`] if it runs. It knows the pods that it knew.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop();
        let listener = Arc::new(listen(&self.path)?);
        let (stop, stopped) = mpsc::channel();
        let (accepting, shared) = (Arc::clone(&listener), Arc::clone(&self.shared));
        let thread = thread::Builder::new().name("istio-cni".to_owned()).spawn(move || {
            // An error is the end of the listener: it was shut down.
            accept(&accepting, &shared, &stopped).ok();
        })?;
        self.running = Some(Running { listener, stop, thread });
        Ok(())
    }

    /// Adds a pod to those that it knows, without a word to connections that are open: it was there before them.
    pub fn know(&self, uid: &str, workload: WorkloadInfo, namespace: Arc<File>) {
        let pod = KnownPod { workload, namespace: Some(namespace) };
        locked(&self.shared.pods).insert(uid.to_owned(), pod);
    }

    /// Adds a pod, and waits for the answer of the latest connection.
    ///
    /// # Errors
    /// There is none, or not a good one. The pod is known all the same, and part of later snapshots.
    pub fn add(&self, uid: &str, workload: WorkloadInfo, namespace: Arc<File>) -> Result<(), UpdateError> {
        self.know(uid, workload.clone(), Arc::clone(&namespace));
        let latest = locked(&self.shared.connections).last().map(|open| open.updates.clone());
        let latest = latest.ok_or(UpdateError::NoConnection)?;
        let payload = Payload::Add(Add { uid: uid.to_owned(), workload: Some(workload) });
        let error = send(&latest, payload, Some(namespace))?;
        if error.is_empty() { Ok(()) } else { Err(UpdateError::Refused(error)) }
    }

    /// Ends a pod, and waits for every connection's answer, one after the other. That one says that something went
    /// wrong is no error here: it is only counted.
    ///
    /// # Errors
    /// Those of connections that do not answer.
    pub fn delete(&self, uid: &str) -> Result<(), Vec<UpdateError>> {
        locked(&self.shared.pods).remove(uid);
        let connections: Vec<_> =
            locked(&self.shared.connections).iter().map(|open| open.updates.clone()).collect();
        let errors: Vec<_> = connections
            .iter()
            .filter_map(|updates| send(updates, Payload::Delete(Delete { uid: uid.to_owned() }), None).err())
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Loses the network namespace of a pod, as after its own restart: in snapshots it is one to keep.
    pub fn lose_namespace(&self, uid: &str) {
        if let Some(pod) = locked(&self.shared.pods).get_mut(uid) {
            pod.namespace = None;
        }
    }

    /// Spoils one message: the next one, or after so many more.
    pub fn spoil(&self, after: usize, fault: Fault) {
        *locked(&self.shared.fault) = Some((after, fault));
    }

    /// The connections that it takes for open, the latest last. They are counted from 1 in the order of accept.
    pub fn connections(&self) -> Vec<u64> {
        locked(&self.shared.connections).iter().map(|open| open.number).collect()
    }

    /// What it has seen.
    pub fn statistics(&self) -> Statistics {
        locked(&self.shared.statistics).clone()
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn pods(&self) -> BTreeMap<String, KnownPod> {
        locked(&self.pods).clone()
    }

    fn count(&self, counting: impl FnOnce(&mut Statistics)) {
        counting(&mut locked(&self.statistics));
    }

    fn leave(&self, number: u64) {
        locked(&self.connections).retain(|open| open.number != number);
    }

    /// What shall go wrong with the message that is sent now.
    fn next_fault(&self) -> Option<Fault> {
        let mut fault = locked(&self.fault);
        match &mut *fault {
            Some((0, _)) => fault.take().map(|(_, fault)| fault),
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        }
    }
}

fn listen(path: &Path) -> io::Result<Socket> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(128)?;
    Ok(socket)
}

fn accept(listener: &Socket, shared: &Arc<Shared>, stopped: &Receiver<()>) -> io::Result<()> {
    let mut next = Instant::now();
    loop {
        // As a token bucket with room for one: time spent waiting for a proxy is not added up.
        let pause = next.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return Ok(());
        }
        next = next.max(Instant::now()) + shared.timing.accept;
        let socket = Arc::new(listener.accept()?.0);
        let mut number = 0;
        shared.count(|statistics| {
            statistics.accepted += 1;
            number = statistics.accepted;
        });
        let (updates, taken) = mpsc::channel();
        let connection = Connection::new(number, Arc::clone(&socket), Arc::clone(shared));
        // Held until it is in the list: it may end at once, and leaves the list then.
        let mut connections = locked(&shared.connections);
        let name = format!("zds-{number}");
        let thread = thread::Builder::new().name(name).spawn(move || connection.run(&taken))?;
        connections.push(Open { number, socket, updates, thread });
    }
}

/// Sends an update and waits for its answer.
fn send(to: &Sender<Update>, payload: Payload, namespace: Option<Arc<File>>) -> Result<String, UpdateError> {
    let (answer, answered) = mpsc::channel();
    let update = Update { request: Request::new(payload), namespace, answer };
    to.send(update).map_err(|_| UpdateError::Closed)?;
    match answered.recv_timeout(LONGEST_WAIT) {
        Ok(result) => Ok(result?),
        Err(RecvTimeoutError::Disconnected) => Err(UpdateError::Closed),
        Err(RecvTimeoutError::Timeout) => Err(PacketError::Late.into()),
    }
}

/// Longer than any queue of a test takes; only a connection that hangs ([`Fault::Hang`]) needs it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is a single step: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
