//! The servers for operators, from bound listeners to running tasks.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::StartError;
use crate::admin::{self, Admin};
use crate::config::AdminConfig;
use crate::metrics_server;
use crate::pod::WorkloadName;
use crate::readiness::{self, Pending, Readiness};
use crate::shared::Shared;
use crate::telemetry::LogHandle;

/// Admin (15000), metrics (15020) and readiness (15021), bound.
pub(super) struct Servers {
    admin: Vec<TcpListener>,
    stats: TcpListener,
    readiness: TcpListener,
    state: Readiness,
    page: Arc<Admin>,
    quits: mpsc::Receiver<()>,
}

/// What `/config_dump` shows of the configuration.
pub(super) struct Shown {
    /// The configs of the subsystems.
    pub(super) config: serde_json::Value,
    /// Mesh state that was given by file.
    pub(super) static_config: serde_json::Value,
}

/// The same, running until this is dropped.
pub(super) struct Running {
    /// `POST /quitquitquit`.
    pub(super) quits: mpsc::Receiver<()>,
    readiness: Readiness,
    _stop: watch::Sender<bool>,
}

impl Servers {
    /// Binds them. `pending` tells of pods that are not served yet.
    pub(super) fn bind(
        addresses: &AdminConfig,
        shared: &Shared,
        readiness: Readiness,
        pending: Box<dyn Fn() -> Vec<(Arc<str>, WorkloadName)> + Send + Sync>,
        log: LogHandle,
        shown: Shown,
    ) -> Result<Self, StartError> {
        let (shutdown, quits) = mpsc::channel(1);
        let certificates = shared.certificates.clone();
        let page = Arc::new(Admin {
            store: shared.store.clone(),
            node: shared.location.node.clone(),
            pods: shared.pods.clone(),
            pending,
            static_config: shown.static_config,
            config: shown.config,
            istio_version: addresses.istio_version.clone(),
            certificates: Box::new(move || certificates.summaries()),
            connections: shared.registry.clone(),
            telemetry: shared.telemetry.clone(),
            log,
            shutdown,
        });
        let admin = addresses.admin.iter().map(|address| bind("admin", *address));
        Ok(Self {
            admin: admin.collect::<Result<_, _>>()?,
            stats: bind("metrics", addresses.stats)?,
            readiness: bind("readiness", addresses.readiness)?,
            state: readiness,
            page,
            quits,
        })
    }

    /// Starts them on the current runtime. The data plane listens by now, so the proxy is ready.
    pub(super) fn start(self) -> io::Result<Running> {
        let (stop, stopped) = watch::channel(false);
        let readiness = self.state;
        drop(readiness.pending("proxy"));
        for listener in self.admin {
            tokio::spawn(admin::serve(listener, self.page.clone(), stopped.clone())?);
        }
        let telemetry = self.page.telemetry.clone();
        tokio::spawn(metrics_server::serve(self.stats, telemetry, stopped.clone())?);
        tokio::spawn(readiness::serve(self.readiness, readiness.clone(), stopped)?);
        Ok(Running { quits: self.quits, readiness, _stop: stop })
    }
}

impl Running {
    /// Until the result is dropped, the process is not ready.
    pub(super) fn pending(&self, name: &'static str) -> Pending {
        self.readiness.pending(name)
    }

    /// The process is about to go. Operators can still ask how it is going.
    pub(super) fn not_ready(&self) {
        self.readiness.end("draining");
    }
}

fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Listen { what, address, error })
}
