//! From the environment to a proxy whose listeners are bound and whose parts are ready to start.
//!
//! Everything that can go wrong goes wrong here, before anything runs: a process that is misconfigured says one line and
//! ends, and takes nothing from whoever serves now.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use super::StartError;
use super::lead::{self, Control};
use super::mesh::Mesh;
use super::servers::Servers;
use crate::clock::Clock;
use crate::config::{
    self, AdminConfig, CertificateAuthorityConfig, DrainConfig, Environment, Http2Config, IdentityConfig,
    InboundConfig, ListenerConfig, LocalXdsConfig, LogConfig, PoolConfig, ProxyMode, SocketConfig,
    Transparent, WorkerConfig, WorkloadConfig, XdsConfig,
};
use crate::control_plane;
use crate::identity::{self, CertificateAuthority, FakeCaConfig, RootFiles};
use crate::pool::{Directory, Loads};
use crate::shared::{Http2, PoolLimits, Shared};
use crate::socket::{self, ListenerKind};
use crate::telemetry::{LogGuard, Telemetry};
use crate::worker::{Handle, Listening, Mailbox, Message, Worker};

/// Tunnels of one worker to one peer, at most: with 100 streams each that is 6 400 connections of one worker between
/// two workloads. More of them wait for room.
const MAX_TUNNELS_PER_PEER: usize = 64;

/// A proxy that is ready to start.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    workers: Vec<(Worker, Handle)>,
    listeners: Vec<(Listening, TcpListener)>,
    control: Control,
    log: LogGuard,
}

impl Proxy {
    pub(super) fn from_environment(environment: &Environment) -> Result<Self, StartError> {
        config::refuse_unsupported(environment)?;
        let mode = ProxyMode::from_environment(environment)?;
        let log = LogConfig::from_environment(environment)?;
        let workers = WorkerConfig::from_environment(environment)?;
        let listeners = ListenerConfig::from_environment(environment)?;
        let admin = AdminConfig::from_environment(environment)?;
        let drain = DrainConfig::from_environment(environment)?;
        let sockets = SocketConfig::from_environment(environment, mode)?;
        let pool = PoolConfig::from_environment(environment)?;
        let http2 = Http2Config::from_environment(environment)?;
        let workload = WorkloadConfig::from_environment(environment)?;
        let inbound = InboundConfig::from_environment(environment)?;
        let identity = IdentityConfig::from_environment(environment)?;
        let xds = XdsConfig::from_environment(environment)?;
        let store = xds::Store::new();
        let static_config = load_local_mesh(environment, &store)?;
        let shown = serde_json::json!({
            "proxyMode": mode,
            "workload": workload,
            "listeners": listeners,
            "sockets": sockets,
            "pool": pool,
            "http2": http2,
            "inbound": inbound,
            "identity": identity,
            "xds": xds,
            "admin": admin,
            "drain": drain,
            "log": log,
            "workers": workers,
        });

        let (log_handle, log) = crate::telemetry::log::install(&log)?;
        socket::raise_file_limit();
        let clock = Clock::start();
        let telemetry = Telemetry::new(&admin.istio_version, move || clock.now());
        let authority = authority(environment, &identity)?;
        let (certificates, manager) = identity::start(authority, telemetry.control_plane().clone());
        let mesh = xds.map(|xds| Mesh::new(&xds, store.clone(), &telemetry)).transpose()?;
        let (bound, transparent) = bind(&listeners, &sockets)?;

        let shared = Arc::new(Shared {
            clock,
            store,
            demand: mesh.as_ref().and_then(Mesh::demand),
            certificates,
            telemetry,
            registry: drain::Registry::new(workers.threads),
            directory: Directory::new(),
            loads: Loads::new(workers.threads),
            sockets,
            pool: limits(&pool),
            http2: sessions(&http2, &pool),
            workload,
            inbound,
            bind_address: listeners.bind_address,
            transparent,
            own_ports: listeners.ports(),
            workers: OnceLock::new(),
        });
        let interval = workers.move_interval.map(milliseconds);
        let workers = (0..workers.threads)
            .map(|id| {
                let (handle, mailbox) = Mailbox::new()?;
                Ok((Worker::new(id, shared.clone(), mailbox, interval)?, handle))
            })
            .collect::<Result<Vec<_>, std::io::Error>>()?;
        let servers = Servers::bind(&admin, &shared, log_handle, shown, static_config)?;
        let control = Control::new(shared.clone(), &drain, Box::pin(manager), mesh, servers);
        Ok(Self { shared, workers, listeners: bound, control, log })
    }

    /// Runs until it is told to end and has drained.
    pub(super) fn serve(self) -> ExitCode {
        let handles: Vec<Handle> = self.workers.iter().map(|(_, handle)| handle.clone()).collect();
        let count = handles.len();
        let _ = self.shared.workers.set(handles.clone());
        let threads: Vec<JoinHandle<()>> = self
            .workers
            .into_iter()
            .enumerate()
            .filter_map(|(id, (worker, _))| {
                let thread = std::thread::Builder::new().name(format!("ztunnel-{id}"));
                let run = move || {
                    if let Err(error) = worker.run() {
                        tracing::error!(worker = id, %error, "a worker can't go on");
                    }
                };
                thread.spawn(run).inspect_err(|error| tracing::error!(%error, "no thread for a worker")).ok()
            })
            .collect();
        for (index, (listening, listener)) in self.listeners.into_iter().enumerate() {
            handles[index % count].post(Message::Listen(listening, listener));
        }
        let code = lead::lead(self.control);
        for handle in &handles {
            handle.post(Message::Exit);
        }
        for thread in threads {
            let _ = thread.join();
        }
        self.log.flush();
        code
    }
}

/// Fills the store from `LOCAL_XDS`; returns what was given, as `/config_dump` shows it.
fn load_local_mesh(environment: &Environment, store: &xds::Store) -> Result<serde_json::Value, StartError> {
    let Some(local) = LocalXdsConfig::from_environment(environment)? else {
        return Ok(serde_json::Value::Null);
    };
    let (yaml, place) = local.read()?;
    let mesh = xds::local::load(&yaml).map_err(|error| StartError::LocalMesh { place, error })?;
    let shown = serde_json::json!({
        "workloads": mesh.workloads,
        "services": mesh.services,
        "policies": mesh.policies,
    });
    store.update(|edit| mesh.apply(edit));
    Ok(shown)
}

fn authority(
    environment: &Environment,
    identity: &IdentityConfig,
) -> Result<Arc<dyn CertificateAuthority>, StartError> {
    match &identity.authority {
        CertificateAuthorityConfig::Fake => {
            let file = |name| environment.get(name).map(|path| environment.path(path));
            let root = file("FAKE_CA_ROOT_CERT")
                .zip(file("FAKE_CA_ROOT_KEY"))
                .map(|(certificate, key)| RootFiles { certificate, key });
            Ok(identity::fake_authority(&FakeCaConfig { ttl: identity.secret_ttl, root })?)
        }
        CertificateAuthorityConfig::Remote(remote) => {
            Ok(control_plane::authority(remote, identity.secret_ttl)?)
        }
    }
}

/// Binds the data plane's listeners. Also says whether they can take foreign addresses.
fn bind(
    config: &ListenerConfig,
    sockets: &SocketConfig,
) -> Result<(Vec<(Listening, TcpListener)>, bool), StartError> {
    let mut wanted = vec![
        (Listening::Outbound, "outbound", config.outbound, ListenerKind::Users),
        (Listening::Passthrough, "inbound plaintext", config.passthrough, ListenerKind::Users),
        (Listening::Tunnels, "inbound HBONE", config.hbone, ListenerKind::Tunnels),
    ];
    wanted.extend(config.socks5.map(|address| (Listening::Socks5, "SOCKS5", address, ListenerKind::Tunnels)));
    let mut transparent = config.transparent != Transparent::Never;
    let mut listeners = Vec::with_capacity(wanted.len());
    for (listening, what, address, kind) in wanted {
        let listen = || -> std::io::Result<TcpListener> {
            let listener = socket::listen(address, kind, sockets)?;
            if transparent && let Err(error) = socket::set_transparent(&listener) {
                if config.transparent == Transparent::Required {
                    return Err(error);
                }
                tracing::info!(%error, "original source addresses will not be kept");
                transparent = false;
            }
            Ok(listener)
        };
        let mut listen = listen;
        let listener = listen().map_err(|error| StartError::Listen { what, address, error })?;
        listeners.push((listening, listener));
    }
    Ok((listeners, transparent))
}

fn limits(pool: &PoolConfig) -> PoolLimits {
    PoolLimits {
        max_streams: u32::from(pool.max_streams_per_connection),
        unused_release_timeout_ms: milliseconds(pool.unused_release_timeout),
        max_tunnels_per_peer: MAX_TUNNELS_PER_PEER,
    }
}

fn sessions(http2: &Http2Config, pool: &PoolConfig) -> Http2 {
    let sized = |session: hbone::SessionConfig| hbone::SessionConfig {
        stream_window: http2.stream_window_size,
        connection_window: http2.connection_window_size,
        max_frame_size: http2.frame_size,
        ..session
    };
    let client = hbone::SessionConfig {
        max_concurrent_streams: u32::from(pool.max_streams_per_connection),
        ..sized(hbone::SessionConfig::client())
    };
    Http2 { client, server: sized(hbone::SessionConfig::server()) }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
