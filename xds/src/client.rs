//! Keeps a [`Store`] like the control plane's view of the mesh, over one delta ADS stream at a time.
//!
//! ```text
//!            demand ┐                      ┌─► connect, stream ──► responses ─┐
//!                   ▼                      │   (a task for each attempt)      ▼
//!        Subscription (what to say, when) ─┘                      Keeper (decode, hold back, apply)
//!                   ▲                                              on a thread for work that takes long
//!                   └────────── what is visible now ◄─────────────────────────┘
//! ```
//!
//! Another process may [tell](crate::telling) of the mesh before there is a connection, or while there is none; it goes the
//! same way, through the keeper into the store. And what is visible may be told to others.
//!
//! Decoding and applying the first 100 MiB of a large mesh takes seconds, in which the thread that runs the client must
//! still answer pings and serve others.

mod attempt;
mod driver;
mod holding;
mod keeper;
mod teller;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::connect::Server;
use crate::proto::discovery::Node;
use crate::store::Store;
use crate::telling::Telling;
use driver::Driver;

/// What to subscribe to, as whom.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// A server of the control plane.
    pub server: Server,
    /// Who we are.
    pub node: Node,
    /// Workloads and services are only followed once they were [demanded](Client::demand); policies always.
    pub on_demand: bool,
    /// No connection is made before [`Client::begin`]: another process may tell of the mesh first.
    pub begins_later: bool,
}

/// A handle on the running client.
#[derive(Clone, Debug)]
pub struct Client {
    demands: mpsc::UnboundedSender<Arc<str>>,
    commands: mpsc::UnboundedSender<Command>,
    synced: watch::Receiver<bool>,
    caught_up: watch::Receiver<u64>,
}

/// What the handle says to the client beside demands, which never wait.
#[derive(Debug)]
enum Command {
    Tell(mpsc::Sender<Telling>),
    Learn(Telling),
    Begin,
}

/// What is counted. Called on the thread that runs the client.
pub trait Reports: Send + Sync {
    /// Everything that is subscribed to is there, or no longer followed. Initially it is not.
    fn connected(&self, up: bool);
    /// An attempt or a stream has ended.
    fn terminated(&self, reason: Termination);
    /// A response of this many bytes has come.
    fn received(&self, type_url: &str, bytes: usize);
    /// So many resources of a response could not be used.
    fn refused(&self, type_url: &str, resources: usize);
}

/// Why an attempt or a stream has ended, in the classes that stock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Termination {
    /// There was no connection.
    ConnectionError,
    /// The stream was refused, broke, or stayed silent.
    Error,
    /// It ended by a code that servers use as a matter of course: it was cancelled, its time was up, the server goes.
    Reconnect,
    /// The server ended it in good order.
    Complete,
}

/// The handle, and the client itself, which runs until it is dropped.
///
/// The future needs a tokio runtime with I/O and time. It logs what operators should know, each outage once.
pub fn start(
    config: ClientConfig,
    store: Store,
    reports: Arc<dyn Reports>,
) -> (Client, impl Future<Output = ()> + Send) {
    let (demands, demanded) = mpsc::unbounded_channel();
    let (commands, commanded) = mpsc::unbounded_channel();
    let (synced, is_synced) = watch::channel(false);
    let (caught_up, is_caught_up) = watch::channel(0);
    let driver = Driver::new(config, store, reports, Progress { synced, caught_up });
    let client = Client { demands, commands, synced: is_synced, caught_up: is_caught_up };
    (client, driver.run(demanded, commanded))
}

impl Client {
    /// Asks for a resource by one of its names: `network/ip`, `namespace/hostname`, or a workload's uid. When the
    /// control plane has answered, [`Snapshot::is_answered`](crate::Snapshot::is_answered) holds of the name, whether
    /// there is such a resource or not.
    ///
    /// Never blocks. Asks once, however often it is called; without [`ClientConfig::on_demand`] not at all.
    pub fn demand(&self, name: &str) {
        // If the client is gone nobody answers, which is what the caller sees anyway.
        let _ = self.demands.send(name.into());
    }

    /// Tells what is known now, in pieces, then every change once it is visible. Ends when the receiver is dropped, or
    /// the client.
    ///
    /// To each generation of the store that this client has made, a telling of that [generation](Telling::generation)
    /// or a later one follows. A slow receiver costs no memory to speak of: what waits for it is told by its state
    /// when its turn comes.
    pub fn tell(&self) -> mpsc::Receiver<Telling> {
        let (tellings, receiver) = mpsc::channel(TELLINGS_AHEAD);
        let _ = self.commands.send(Command::Tell(tellings));
        receiver
    }

    /// Takes what another process tells, in the order in which it was told, and all from the same process.
    ///
    /// Until everything is there that the control plane itself has to say, it becomes visible as it comes (while it
    /// is said, it waits). From then on what the control plane says is the truth, and what another process tells is
    /// only something to [catch up](Self::caught_up) with. While there is no control plane it is heard again.
    pub fn learn(&self, telling: Telling) {
        let _ = self.commands.send(Command::Learn(telling));
    }

    /// Connect: what was learnt until here shall count. Only of meaning with [`ClientConfig::begins_later`].
    pub fn begin(&self) {
        let _ = self.commands.send(Command::Begin);
    }

    /// The [generation](Telling::generation) of the teller that the store of this process is not behind of; 0 at first.
    ///
    /// What was told is caught up with when it was applied; or when our own stream has brought the same; or, if it
    /// brings something else, when it brings the next of each name that was told. Of a teller that is ahead of our
    /// istiod by more than one change of a name, it may be reached too early; of one that is behind, it may be reached
    /// late: wait with a deadline.
    pub fn caught_up(&self) -> watch::Receiver<u64> {
        self.caught_up.clone()
    }

    /// Waits until each type that is followed as a whole was answered and applied once. A response of which a part was
    /// refused counts: one broken resource must not keep every node from starting. Never returns if the client is
    /// dropped before.
    pub async fn synced(&self) {
        if self.synced.clone().wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What the driver lets the handles see.
struct Progress {
    synced: watch::Sender<bool>,
    caught_up: watch::Sender<u64>,
}

/// Pieces that are made before anybody takes them.
const TELLINGS_AHEAD: usize = 4;

#[cfg(test)]
mod tests;
