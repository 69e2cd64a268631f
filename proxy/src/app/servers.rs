//! The servers for operators, from bound listeners to running tasks.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::StartError;
use crate::admin::{self, Admin};
use crate::config::AdminConfig;
use crate::metrics_server;
use crate::readiness::{self, Pending, Readiness};
use crate::shared::Shared;
use crate::telemetry::LogHandle;

/// Admin (15000), metrics (15020) and readiness (15021), bound.
pub(super) struct Servers {
    admin: Vec<TcpListener>,
    stats: TcpListener,
    readiness: TcpListener,
    page: Arc<Admin>,
    quits: mpsc::Receiver<()>,
}

/// The same, running until this is dropped.
pub(super) struct Running {
    /// `POST /quitquitquit`.
    pub(super) quits: mpsc::Receiver<()>,
    readiness: Readiness,
    _stop: watch::Sender<bool>,
}

impl Servers {
    /// Binds them. `config` and `static_config` are what `/config_dump` shows of the configuration.
    pub(super) fn bind(
        addresses: &AdminConfig,
        shared: &Shared,
        log: LogHandle,
        config: serde_json::Value,
        static_config: serde_json::Value,
    ) -> Result<Self, StartError> {
        let (shutdown, quits) = mpsc::channel(1);
        let certificates = shared.certificates.clone();
        let page = Arc::new(Admin {
            store: shared.store.clone(),
            workload: shared.workload.clone(),
            static_config,
            config,
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
            page,
            quits,
        })
    }

    /// Starts them on the current runtime. The data plane listens by now, so the proxy is ready.
    pub(super) fn start(self) -> io::Result<Running> {
        let (stop, stopped) = watch::channel(false);
        let readiness = Readiness::default();
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
