//! The servers for operators: admin (15000), metrics (15020), readiness (15021).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};

use super::StartError;
use crate::admin::{self, Admin};
use crate::config::AdminConfig;
use crate::handover::parts::OperatorSockets;
use crate::handover::status::Status;
use crate::pod::WorkloadName;
use crate::readiness::{self, Readiness};
use crate::shared::Shared;
use crate::telemetry::LogHandle;
use crate::{metrics_server, zds};

/// See the module. Who runs them are the holders of their sockets: where two processes share a network namespace they move with
/// the role.
pub(super) struct Operators {
    addresses: AdminConfig,
    readiness: Readiness,
    page: Arc<Admin>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bound; while the servers run these are copies.
    sockets: Option<OperatorSockets>,
    running: Option<watch::Sender<bool>>,
}

/// What the admin pages show of the process as a whole.
pub(super) struct Shown {
    /// The configs of the subsystems.
    pub(super) config: serde_json::Value,
    /// Mesh state that was given by file.
    pub(super) static_config: serde_json::Value,
    /// Where this process stands among those that hand over to each other.
    pub(super) handover: Status,
}

impl Operators {
    /// Not bound yet. `node_agent` tells of pods that are not served yet. The other result are the calls of
    /// `POST /quitquitquit`.
    pub(super) fn new(
        addresses: &AdminConfig,
        shared: &Arc<Shared>,
        readiness: Readiness,
        node_agent: Option<zds::Client>,
        log: LogHandle,
        shown: Shown,
    ) -> (Self, mpsc::Receiver<()>) {
        let (shutdown, quits) = mpsc::channel(1);
        let certificates = shared.certificates.clone();
        let page = Arc::new(Admin {
            store: shared.store.clone(),
            node: shared.location.node.clone(),
            pods: shared.pods.clone(),
            pending: Box::new(move || node_agent.as_ref().map(pending_pods).unwrap_or_default()),
            static_config: shown.static_config,
            config: shown.config,
            istio_version: addresses.istio_version.clone(),
            certificates: Box::new(move || certificates.summaries()),
            connections: shared.registry.clone(),
            telemetry: shared.telemetry.clone(),
            log,
            shutdown,
            handover: shown.handover,
        });
        (Self { addresses: addresses.clone(), readiness, page, state: Mutex::default() }, quits)
    }

    /// Binds them, if they are not.
    ///
    /// # Errors
    /// What can't be bound.
    pub(super) fn bind(&self) -> Result<(), StartError> {
        let mut state = self.lock();
        if state.sockets.is_none() {
            let admin = self.addresses.admin.iter().map(|address| bind("admin", *address));
            state.sockets = Some(OperatorSockets {
                admin: admin.collect::<Result<_, _>>()?,
                stats: bind("metrics", self.addresses.stats)?,
                readiness: bind("readiness", self.addresses.readiness)?,
            });
        }
        Ok(())
    }

    /// Starts them on the current runtime, if they don't run.
    ///
    /// # Errors
    /// What can't be bound, or listened at.
    pub(super) fn start(&self) -> Result<(), StartError> {
        self.bind()?;
        let mut state = self.lock();
        let State { sockets: Some(sockets), running: running @ None } = &mut *state else { return Ok(()) };
        let (stop, stopped) = watch::channel(false);
        let OperatorSockets { admin, stats, readiness } = sockets.try_clone()?;
        for listener in admin {
            tokio::spawn(admin::serve(listener, self.page.clone(), stopped.clone())?);
        }
        let telemetry = self.page.telemetry.clone();
        tokio::spawn(metrics_server::serve(stats, telemetry, stopped.clone())?);
        tokio::spawn(readiness::serve(readiness, self.readiness.clone(), stopped)?);
        *running = Some(stop);
        Ok(())
    }

    /// Starts them at sockets that another process gave.
    pub(super) fn start_with(&self, sockets: OperatorSockets) {
        self.lock().sockets = Some(sockets);
        if let Err(error) = self.start() {
            tracing::error!(%error, "the servers for operators can't start");
        }
    }

    /// Stops them and lets go of their sockets; requests in flight are answered.
    pub(super) fn stop(&self) {
        *self.lock() = State::default();
    }

    /// Copies of the sockets, for another process.
    ///
    /// # Errors
    /// If descriptors have run out.
    pub(super) fn copies(&self) -> io::Result<Option<OperatorSockets>> {
        self.lock().sockets.as_ref().map(OperatorSockets::try_clone).transpose()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pending_pods(pods: &zds::Client) -> Vec<(Arc<str>, WorkloadName)> {
    pods.pending().into_iter().map(|pod| (pod.uid, pod.workload)).collect()
}

fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Listen { what, address, error })
}
