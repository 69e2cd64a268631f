//! The DNS proxy: what the pods ask is answered from the mesh, or forwarded.
//!
//! | file | what |
//! |---|---|
//! | `sockets` | where questions come in, and from where nameservers are asked |
//! | `udp`, `tcp` | questions come, answers go |
//! | `resolver` | what becomes of one question |
//! | `message` | questions as they came, and what is sent back |
//! | `names`, `answer` | what a client may mean by a name, and what the mesh knows of it: pure functions |
//! | `resolv_conf`, `upstream` | who is asked for the rest, and how |
//!
//! All of it runs on a thread of its own, so that no flood of questions delays the data plane or the control plane. Each
//! socket of a pod has a task there, which owns all that the socket has under way: with the task it ends.

mod answer;
mod message;
mod names;
mod resolv_conf;
mod resolver;
mod sockets;
mod tcp;
mod udp;
mod upstream;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, error};
use xds::Store;

use crate::config::{DnsConfig, SocketConfig};
use crate::pod::Pod;
use crate::telemetry::DnsMetrics;
use resolver::Resolver;
pub use sockets::{DnsSockets, bind};

/// A handle on the DNS proxy; clones are the same. It ends with the last of them.
#[derive(Clone, Debug)]
pub struct DnsProxy(mpsc::UnboundedSender<Command>);

#[derive(Debug)]
enum Command {
    Serve(Arc<Pod>, DnsSockets),
    Stop(Arc<Pod>, oneshot::Sender<()>),
    StopAll(Phase, oneshot::Sender<()>),
    Copy(oneshot::Sender<io::Result<Copies>>),
}

/// Copies of the sockets of each pod that is served.
type Copies = Vec<(Arc<Pod>, DnsSockets)>;

/// What the tasks of a pod do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Nothing new is taken; what has come is answered.
    Draining,
    /// As Draining, but what waits in the sockets is left to those who have copies of them.
    LettingGo,
    Stopped,
}

/// Starts the thread. Nobody is served yet. The calling thread must be in the process's own network namespace.
///
/// # Errors
/// If there is no thread or no runtime, or without `/proc`.
pub fn start(
    config: DnsConfig,
    sockets: SocketConfig,
    store: Store,
    metrics: DnsMetrics,
) -> io::Result<(DnsProxy, JoinHandle<()>)> {
    let origin = sockets::Origin::new(sockets)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (commands, received) = mpsc::unbounded_channel();
    let resolver = Arc::new(Resolver::new(config, store, metrics, origin));
    let run = move || runtime.block_on(run(received, &resolver));
    let thread = std::thread::Builder::new().name("ztunnel-dns".to_owned()).spawn(run)?;
    Ok((DnsProxy(commands), thread))
}

impl DnsProxy {
    /// Answers the pod's questions from now on.
    pub fn serve(&self, pod: Arc<Pod>, sockets: DnsSockets) {
        // Without the thread nobody is answered; who started it sees it end.
        let _ = self.0.send(Command::Serve(pod, sockets));
    }

    /// Stops at once; returns when the pod's sockets are closed, also if there are none. Those of a drain close by
    /// themselves.
    pub async fn stop(&self, pod: &Arc<Pod>) {
        self.ask(|done| Command::Stop(pod.clone(), done)).await;
    }

    /// Takes no more questions, answers those that have come, and closes all sockets. Takes 5 s or a little more at most.
    pub async fn drain(&self) {
        self.ask(|done| Command::StopAll(Phase::Draining, done)).await;
    }

    /// Copies of all sockets, for another process to [`serve`](Self::serve). Whoever reads a question first answers it; who
    /// should stop reading is told to [`let_go`](Self::let_go).
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub async fn copy(&self) -> io::Result<Vec<(Arc<Pod>, DnsSockets)>> {
        let (done, copies) = oneshot::channel();
        let _ = self.0.send(Command::Copy(done));
        copies.await.unwrap_or_else(|_| Err(io::Error::other("the thread of the DNS proxy is gone")))
    }

    /// Takes no more questions: those that wait are for whoever holds copies of the sockets. Answers what was taken, and
    /// closes its own copies. Takes 5 s or a little more at most. Pods can be served again by a copy at any time.
    pub async fn let_go(&self) {
        self.ask(|done| Command::StopAll(Phase::LettingGo, done)).await;
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, is_done) = oneshot::channel();
        let _ = self.0.send(command(done));
        // An error means that the thread is gone, and the sockets with it.
        let _ = is_done.await;
    }
}

/// The sockets of one pod at work.
struct Serving {
    pod: Arc<Pod>,
    udp: Vec<Arc<tokio::net::UdpSocket>>,
    tcp: Vec<Arc<tokio::net::TcpListener>>,
    phase: watch::Sender<Phase>,
    tasks: JoinSet<()>,
}

async fn run(mut commands: mpsc::UnboundedReceiver<Command>, resolver: &Arc<Resolver>) {
    // By the pod's number.
    let mut pods: BTreeMap<u64, Serving> = BTreeMap::new();
    let mut ends = JoinSet::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Serve(pod, sockets) => match Serving::start(resolver, pod.clone(), sockets) {
                Ok(serving) => {
                    debug!(target: "dns", workload = %pod.workload(), "answering");
                    if let Some(former) = pods.insert(pod.number(), serving) {
                        former.end(Phase::Stopped).await;
                    }
                }
                Err(error) => {
                    error!(target: "dns", workload = %pod.workload(), %error, "the pod's questions can't be answered");
                }
            },
            Command::Stop(pod, done) => {
                if let Some(serving) = pods.remove(&pod.number()) {
                    serving.end(Phase::Stopped).await;
                }
                let _ = done.send(());
            }
            Command::StopAll(phase, done) => {
                let mut ending = JoinSet::new();
                for serving in std::mem::take(&mut pods).into_values() {
                    ending.spawn(serving.end(phase));
                }
                // Others need not wait for it.
                ends.spawn(async move {
                    while ending.join_next().await.is_some() {}
                    let _ = done.send(());
                });
            }
            Command::Copy(done) => {
                let _ = done.send(pods.values().map(Serving::copy).collect());
            }
        }
    }
    for serving in pods.into_values() {
        serving.end(Phase::Stopped).await;
    }
}

impl Serving {
    fn start(resolver: &Arc<Resolver>, pod: Arc<Pod>, sockets: DnsSockets) -> io::Result<Self> {
        let client = Arc::new(resolver.client(pod.clone()));
        let (phase, _) = watch::channel(Phase::Serving);
        let mut tasks = JoinSet::new();
        let udp = sockets.udp.into_iter().map(|socket| tokio::net::UdpSocket::from_std(socket).map(Arc::new));
        let udp = udp.collect::<io::Result<Vec<_>>>()?;
        let tcp =
            sockets.tcp.into_iter().map(|socket| tokio::net::TcpListener::from_std(socket).map(Arc::new));
        let tcp = tcp.collect::<io::Result<Vec<_>>>()?;
        for socket in &udp {
            let (resolver, client) = (resolver.clone(), client.clone());
            tasks.spawn(udp::serve(socket.clone(), resolver, client, phase.subscribe()));
        }
        let places = Arc::new(Semaphore::new(tcp::MOST_CONNECTIONS));
        for listener in &tcp {
            let (resolver, client) = (resolver.clone(), client.clone());
            tasks.spawn(tcp::serve(listener.clone(), resolver, client, places.clone(), phase.subscribe()));
        }
        Ok(Self { pod, udp, tcp, phase, tasks })
    }

    fn copy(&self) -> io::Result<(Arc<Pod>, DnsSockets)> {
        let udp = self.udp.iter().map(|socket| Ok(socket.as_fd().try_clone_to_owned()?.into()));
        let tcp = self.tcp.iter().map(|listener| Ok(listener.as_fd().try_clone_to_owned()?.into()));
        let sockets =
            DnsSockets { udp: udp.collect::<io::Result<_>>()?, tcp: tcp.collect::<io::Result<_>>()? };
        Ok((self.pod.clone(), sockets))
    }

    /// Returns when everything is closed.
    async fn end(self, phase: Phase) {
        let Self { udp, tcp, phase: told, mut tasks, .. } = self;
        // The tasks close theirs when it is time.
        drop((udp, tcp));
        told.send_replace(phase);
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                error!(target: "dns", %error, "a panic ended the service of a socket");
            }
        }
    }
}

#[cfg(test)]
mod tests;
