//! Keeps a connection to istio-cni, and carries out what the [`reconciler`](super::reconciler) decides.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::host::{PodHost, StartPodError};
use super::message::{self, Request, RequestError};
use super::reconciler::{Action, Reason, Reconciler, Report};
use super::transfer::{NotReleased, Transfer};
use super::transport::{Connection, Packet, PacketError, ReceiveError};
use crate::namespace::{Namespace, NamespaceId};
use crate::pod::WorkloadName;
use crate::readiness::{self, Readiness};
use crate::telemetry::{WorkloadManagerMetrics, ZdsMessage, ZdsResult};

/// Where istio-cni is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The socket that it listens on.
    pub path: PathBuf,
}

/// A pod that should be served and can't be; it is tried again every 5 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPod {
    /// What istio-cni calls it.
    pub uid: Arc<str>,
    /// What Kubernetes calls it.
    pub workload: WorkloadName,
    /// Why it is not served.
    pub error: Arc<str>,
}

/// A handle on the running client; clones are the same.
#[derive(Clone, Debug)]
pub struct Client(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    pending: ArcSwap<Vec<PendingPod>>,
    commands: mpsc::UnboundedSender<Command>,
}

/// What the driver is asked to do.
#[derive(Debug)]
enum Command {
    Go,
    Adopt(Transfer),
    Release(oneshot::Sender<Result<Transfer, NotReleased>>),
    Stop(Arc<str>, oneshot::Sender<()>),
    Drain,
}

impl Client {
    /// New pods are refused from now on. Pods go on being removed while the connection lasts; it is not made again.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// The pods that should be served and can't be, by uid. Takes no lock.
    pub fn pending(&self) -> Vec<PendingPod> {
        self.0.pending.load().as_ref().clone()
    }

    /// A driver that has ended does nothing, also with what it is told.
    fn tell(&self, command: Command) {
        let _ = self.0.commands.send(command);
    }
}

/// The handle, and the client itself, which runs until it is dropped, and connects when it is told to
/// ([`Client::go`], [`Client::adopt`]).
///
/// The proxy is not ready (task `workload proxy manager`) from this call on until all pods that istio-cni has named are
/// served, and again while there is no connection, unless it was given away. The future needs a tokio runtime with I/O and
/// time. It logs what operators should know, each outage once.
pub fn start(
    config: Config,
    host: Arc<dyn PodHost>,
    readiness: Readiness,
    metrics: WorkloadManagerMetrics,
) -> (Client, impl Future<Output = ()> + Send) {
    let (commands, told) = mpsc::unbounded_channel();
    let client = Client(Arc::new(Handle { pending: ArcSwap::default(), commands }));
    let driver = Driver {
        config,
        host,
        metrics,
        unready: Some(readiness.pending(TASK)),
        readiness,
        handle: client.0.clone(),
        told,
        reconciler: Reconciler::new(),
        link: Link::Elsewhere,
        releasing: None,
        unread_since: None,
        back_off: BackOff::default(),
        outage_told: false,
        handling: None,
        draining: false,
        operations: JoinSet::new(),
        pods: HashMap::new(),
        stops: Vec::new(),
    };
    (client, driver.run())
}

struct Driver {
    config: Config,
    host: Arc<dyn PodHost>,
    metrics: WorkloadManagerMetrics,
    readiness: Readiness,
    unready: Option<readiness::Pending>,
    handle: Arc<Handle>,
    told: mpsc::UnboundedReceiver<Command>,
    reconciler: Reconciler<Arc<Namespace>>,
    link: Link,
    releasing: Option<Releasing>,
    /// Since when the next message may have waited, if it waited for us.
    unread_since: Option<u64>,
    back_off: BackOff,
    /// Whether there was a warning since the last complete snapshot.
    outage_told: bool,
    /// The message that was not answered yet.
    handling: Option<ZdsMessage>,
    draining: bool,
    operations: JoinSet<Done>,
    /// Whom an operation is about, and what it is, for one that panics.
    pods: HashMap<Id, Operation>,
    /// Who waits for a pod to be gone.
    stops: Vec<(Arc<str>, oneshot::Sender<()>)>,
}

/// ```text
///                go              it works
///   Elsewhere ───────► Waiting ───────────► Up ──┐
///     ▲   │               ▲────── lost ──────│   │ lost by one that drains,
///     │   └──── adopt ────┼───────────────►──┘   ▼ as is Waiting
///     └───── release ─────┴── Waiting, Up, Down  Down
/// ```
enum Link {
    Up(Connection),
    Waiting(Instant),
    /// Not made again, by one that drains.
    Down,
    /// Not ours yet, or not any more.
    Elsewhere,
}

struct Operation {
    uid: Arc<str>,
    starts: bool,
}

/// The result of an operation.
enum Done {
    Started(Result<(), StartPodError>),
    Stopped,
}

enum Event {
    Received(Result<Packet, ReceiveError>),
    Done(Result<(Id, Done), JoinError>),
    Time,
    Told(Command),
}

/// Why a packet can't be handled.
#[derive(thiserror::Error, Debug)]
enum UnreadableError {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("nothing is known of a namespace's descriptor: {0}")]
    Namespace(#[from] io::Error),
}

impl Driver {
    async fn run(mut self) {
        // So that a message can be older than we are.
        let start = Instant::now().checked_sub(STALLED).unwrap_or_else(Instant::now);
        loop {
            self.perform();
            self.release(now(start));
            self.perform();
            self.publish();
            let asleep = Instant::now();
            let event = self.next(start).await;
            let now = now(start);
            let stalled = asleep.elapsed() >= STALLED && matches!(self.link, Link::Up(_));
            if stalled {
                self.lost("this process stood still for so long that an answer would be late");
            }
            match event {
                Event::Received(_) if stalled => {}
                Event::Received(packet) => self.received(packet, now),
                Event::Done(done) => self.done(done, now),
                Event::Time => {
                    if matches!(self.link, Link::Waiting(until) if until <= Instant::now()) {
                        self.connect();
                    }
                    self.reconciler.handle_timeout(now);
                }
                Event::Told(command) => self.obey(command, now),
            }
        }
    }

    fn obey(&mut self, command: Command, now: u64) {
        match command {
            Command::Go => self.go(),
            Command::Adopt(transfer) => self.adopt(transfer, now),
            Command::Release(reply) => self.begin_release(reply),
            Command::Stop(uid, reply) => {
                self.reconciler.relayed_del(&uid, now);
                self.stops.push((uid, reply));
            }
            Command::Drain => {
                self.draining = true;
                self.reconciler.drain();
                if let Link::Waiting(_) = self.link {
                    self.link = Link::Down;
                }
            }
        }
    }

    async fn next(&mut self, start: Instant) -> Event {
        let timeout = self.reconciler.timeout().map(|at| start + Duration::from_millis(at));
        let reconnect = match self.link {
            Link::Waiting(until) => Some(until),
            Link::Up(_) | Link::Down | Link::Elsewhere => None,
        };
        let until = self.release_until();
        let wake_up =
            timeout.into_iter().chain(reconnect).chain(until).chain([Instant::now() + HEARTBEAT]).min();
        // Messages are answered one after the other: while one is handled the next one waits in the kernel.
        let connection = match &self.link {
            Link::Up(connection) if !self.reconciler.is_busy() && !self.is_withheld() => Some(connection),
            _ => None,
        };
        tokio::select! {
            biased;
            Some(command) = self.told.recv() => Event::Told(command),
            Some(done) = self.operations.join_next_with_id() => Event::Done(done),
            () = sleep_until(wake_up) => Event::Time,
            packet = receive(connection) => Event::Received(packet),
        }
    }

    fn connect(&mut self) {
        let opened = Connection::open(&self.config.path).and_then(|connection| {
            connection.send(&message::hello())?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                debug!(path = %self.config.path.display(), "connected to istio-cni");
                self.link = Link::Up(connection);
                self.reconciler.connected();
            }
            Err(error) => {
                self.tell_outage(&format!("istio-cni cannot be reached: {error}"));
                self.reconnect_later();
            }
        }
    }

    fn received(&mut self, received: Result<Packet, ReceiveError>, now: u64) {
        let request = match received {
            Ok(packet) => decode(packet),
            Err(ReceiveError::Packet(error)) => Err(error.into()),
            Err(error @ (ReceiveError::Closed | ReceiveError::Socket(_))) => {
                return self.lost(&error.to_string());
            }
        };
        match request {
            Ok(request) => {
                debug!(?request, "a message of istio-cni");
                self.handling = Some(request.kind());
                self.reconciler.message(request, self.unread_since.take().unwrap_or(now));
            }
            Err(error) => {
                self.handling = Some(ZdsMessage::Unreadable);
                self.answer(Some(&error.to_string()));
                self.lost(&format!("a message of istio-cni cannot be used: {error}"));
            }
        }
    }

    fn done(&mut self, done: Result<(Id, Done), JoinError>, now: u64) {
        let id = match &done {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(Operation { uid, starts }) = self.pods.remove(&id) else { return };
        if done.is_err() {
            tracing::error!(%uid, starts, "serving a pod panicked");
        }
        match done {
            Ok((_, Done::Started(Ok(())))) => {
                self.metrics.started();
                self.reconciler.started(&uid, Ok(()), now);
            }
            Ok((_, Done::Started(Err(error)))) => {
                self.reconciler.started(&uid, Err(error.to_string().into()), now);
            }
            Err(_) if starts => self.reconciler.started(&uid, Err("its start panicked".into()), now),
            Ok((_, Done::Stopped)) | Err(_) => {
                self.metrics.stopped();
                self.reconciler.stopped(&uid, now);
            }
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.reconciler.poll() {
            match action {
                Action::Start { uid, workload, namespace } => {
                    debug!(%uid, %workload, "starting a pod");
                    let (host, pod) = (self.host.clone(), uid.clone());
                    let started = async move { Done::Started(host.start(pod, workload, namespace).await) };
                    let task = self.operations.spawn(started);
                    self.pods.insert(task.id(), Operation { uid, starts: true });
                }
                Action::Stop { uid } => {
                    debug!(%uid, "stopping a pod");
                    let (host, pod) = (self.host.clone(), uid.clone());
                    let stopped = async move {
                        host.stop(pod).await;
                        Done::Stopped
                    };
                    let task = self.operations.spawn(stopped);
                    self.pods.insert(task.id(), Operation { uid, starts: false });
                }
                Action::Answer(result) => self.answer(result.err().as_deref()),
                Action::Close(Reason::Late) => {
                    warn!("handling a message of istio-cni took too long: the connection is made anew");
                    self.count(ZdsResult::Late);
                    self.close();
                }
                Action::Close(Reason::OutOfOrder) => {
                    self.tell_outage("istio-cni sent a message out of order");
                    self.close();
                }
                Action::Report(report) => {
                    if report == Report::SnapshotComplete {
                        self.back_off = BackOff::default();
                        self.outage_told = false;
                    }
                    report.log(self.reconciler.active());
                }
            }
        }
    }

    fn answer(&mut self, refusal: Option<&str>) {
        let Link::Up(connection) = &self.link else { return };
        match connection.send(&message::answer(refusal)) {
            Ok(()) => self.count(if refusal.is_none() { ZdsResult::Acked } else { ZdsResult::Nacked }),
            Err(error) => self.lost(&format!("istio-cni cannot be answered: {error}")),
        }
    }

    fn lost(&mut self, why: &str) {
        self.tell_outage(why);
        self.reconciler.disconnected();
        self.close();
    }

    fn close(&mut self) {
        self.count(ZdsResult::Lost);
        self.reconnect_later();
    }

    /// Counts what became of the message that was handled, if there is one.
    fn count(&mut self, result: ZdsResult) {
        if let Some(message) = self.handling.take() {
            self.metrics.message(message, result);
        }
    }

    fn reconnect_later(&mut self) {
        // Who connects last is told of new pods: that must not be a proxy that refuses them.
        self.link =
            if self.draining { Link::Down } else { Link::Waiting(Instant::now() + self.back_off.next()) };
    }

    fn tell_outage(&mut self, why: &str) {
        if self.outage_told {
            debug!("{why}");
        } else {
            warn!(path = %self.config.path.display(), "{why}; pods are served as before, trying again");
            self.outage_told = true;
        }
    }

    fn publish(&mut self) {
        let pending: Vec<_> = self.reconciler.pending().map(PendingPod::new).collect();
        self.metrics.pods(self.reconciler.active(), pending.len());
        self.metrics.connected(matches!(self.link, Link::Up(_)));
        for (uid, reply) in std::mem::take(&mut self.stops) {
            if self.reconciler.is_going(&uid) {
                self.stops.push((uid, reply));
            } else {
                // Who asked may have stopped waiting.
                let _ = reply.send(());
            }
        }
        if **self.handle.pending.load() != pending {
            self.handle.pending.store(Arc::new(pending));
        }
        if !self.reconciler.is_ready() {
            self.unready.get_or_insert_with(|| self.readiness.pending(TASK));
        } else if self.unready.is_some() {
            self.unready = None;
        }
    }
}

impl PendingPod {
    fn new((uid, workload, error): (&Arc<str>, &WorkloadName, &Arc<str>)) -> Self {
        Self { uid: uid.clone(), workload: workload.clone(), error: error.clone() }
    }
}

impl Report {
    fn log(&self, active: usize) {
        match self {
            Self::Failing { uid, workload, reason } => {
                warn!(%uid, %workload, "a pod can't be served: {reason}; trying again");
            }
            Self::StillFailing { uid, workload, reason } => {
                debug!(%uid, %workload, "a pod can't be served: {reason}");
            }
            Self::Recovered { uid, workload } => info!(%uid, %workload, "the pod is served now"),
            Self::SnapshotComplete => info!(pods = active, "all pods that istio-cni knows are named"),
        }
    }
}

fn decode(packet: Packet) -> Result<Request<(NamespaceId, Arc<Namespace>)>, UnreadableError> {
    let namespace = packet.descriptor.map(Namespace::new).transpose()?;
    let namespace = namespace.map(|namespace| (namespace.id(), Arc::new(namespace)));
    Ok(Request::decode(&packet.bytes, namespace)?)
}

async fn receive(connection: Option<&Connection>) -> Result<Packet, ReceiveError> {
    match connection {
        Some(connection) => connection.receive().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn now(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// 20 ms, doubled with each attempt until a snapshot is complete, never more than 15 s, give or take 20 %.
#[derive(Default)]
struct BackOff {
    attempts: u32,
}

impl BackOff {
    fn next(&mut self) -> Duration {
        let base = FIRST_RETRY.saturating_mul(1 << self.attempts).min(LAST_RETRY);
        // No more than are needed to reach the last one.
        self.attempts = (self.attempts + 1).min(16);
        base.mul_f64(0.8 + 0.4 * fastrand::f64())
    }
}

/// The client wakes up at least this often, and so notices when it couldn't.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// If it didn't wake up for this long, a message may have waited for longer than istio-cni waits for its answer.
const STALLED: Duration = Duration::from_secs(4);
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(15);
/// As stock calls it.
const TASK: &str = "workload proxy manager";

mod transfer;

use transfer::Releasing;

#[cfg(test)]
mod tests;
