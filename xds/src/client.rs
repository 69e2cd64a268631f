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
//! Decoding and applying the first 100 MiB of a large mesh takes seconds, in which the thread that runs the client must
//! still answer pings and serve others.

mod attempt;
mod driver;
mod holding;
mod keeper;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::connect::Server;
use crate::proto::discovery::Node;
use crate::store::Store;
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
}

/// A handle on the running client.
#[derive(Clone, Debug)]
pub struct Client {
    demands: mpsc::UnboundedSender<Arc<str>>,
    synced: watch::Receiver<bool>,
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
    let (synced, is_synced) = watch::channel(false);
    let driver = Driver::new(config, store, reports, synced);
    (Client { demands, synced: is_synced }, driver.run(demanded))
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

    /// Waits until each type that is followed as a whole was answered and applied once. A response of which a part was
    /// refused counts: one broken resource must not keep every node from starting. Never returns if the client is
    /// dropped before.
    pub async fn synced(&self) {
        if self.synced.clone().wait_for(|synced| *synced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
