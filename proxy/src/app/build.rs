//! From the environment to a proxy whose listeners are bound and whose parts are ready to start.
//!
//! Everything that can go wrong goes wrong here, before anything runs: a process that is misconfigured says one line and
//! ends, and takes nothing from whoever serves now.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::xds::Identity;
use drain::handover::channel::Channel;
use drain::handover::limits;
use drain::handover::seat::{Seat, SeatError, Taken};
use tokio::sync::watch;

use super::StartError;
use super::hosting::{Dns, Hosting};
use super::lead::{self, Candidature, Control};
use super::listeners::{ListenError, Listeners};
use super::mesh::Mesh;
use super::node_agent::NodeAgent;
use super::node_role::{NodeRole, Resident};
use super::servers::{Operators, Shown};
use super::standing::{Candidacy, Handover, Memory};
use crate::clock::Clock;
use crate::config::{
    self, AdminConfig, CertificateAuthorityConfig, DnsConfig, DrainConfig, Environment, HandoverConfig,
    Http2Config, IdentityConfig, InboundConfig, ListenerConfig, LocalXdsConfig, LocationConfig, LogConfig,
    PoolConfig, ProxyMode, SocketConfig, WorkerConfig, XdsConfig,
};
use crate::control_plane;
use crate::dns;
use crate::handover::greeting::Card;
use crate::handover::mesh::LocalMesh;
use crate::handover::status::Status;
use crate::identity::{self, CertificateAuthority, FakeCaConfig, RootFiles};
use crate::namespace::Namespace;
use crate::pod::{Pods, WorkloadName};
use crate::pool::{Directory, Loads};
use crate::privileges;
use crate::readiness::Readiness;
use crate::shared::{Http2, PoolLimits, Shared};
use crate::socket;
use crate::telemetry::{LogGuard, Telemetry};
use crate::worker::{Handle, Mailbox, Message, Worker};

/// Tunnels of one worker to one peer, at most: with 100 streams each that is 6 400 connections of one worker between
/// two workloads. More of them wait for room.
const MAX_TUNNELS_PER_PEER: usize = 64;

/// A proxy that is ready to start.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    workers: Vec<(Worker, Handle)>,
    /// In shared mode: this process as a workload of its own.
    own: Option<(WorkloadName, Listeners)>,
    hosting: Arc<Hosting>,
    control: Control,
    log: LogGuard,
}

impl Proxy {
    pub(super) fn from_environment(environment: &Environment) -> Result<Self, StartError> {
        config::refuse_unsupported(environment)?;
        let mode = ProxyMode::from_environment(environment)?;
        let log = LogConfig::from_environment(environment)?;
        let workers = WorkerConfig::from_environment(environment)?;
        let listeners = ListenerConfig::from_environment(environment, &mode)?;
        let admin = AdminConfig::from_environment(environment)?;
        let handover = HandoverConfig::from_environment(environment, &mode)?;
        let drain = DrainConfig::from_environment(environment, &mode, handover.as_ref())?;
        let sockets = SocketConfig::from_environment(environment, &mode)?;
        let pool = PoolConfig::from_environment(environment)?;
        let http2 = Http2Config::from_environment(environment)?;
        let location = LocationConfig::from_environment(environment)?;
        let inbound = InboundConfig::from_environment(environment)?;
        let identity = IdentityConfig::from_environment(environment)?;
        let xds = XdsConfig::from_environment(environment)?;
        let dns = DnsConfig::from_environment(environment, &mode)?;
        let store = xds::Store::new();
        let static_config = load_local_mesh(environment, &store)?;
        let config = serde_json::json!({
            "proxyMode": mode,
            "location": location,
            "listeners": listeners,
            "sockets": sockets,
            "pool": pool,
            "http2": http2,
            "inbound": inbound,
            "identity": identity,
            "xds": xds,
            "dns": dns,
            "admin": admin,
            "drain": drain,
            "handover": handover,
            "log": log,
            "workers": workers,
        });

        let (log_handle, log) = crate::telemetry::log::install(&log)?;
        privileges::keep_memory_private();
        if let ProxyMode::Shared(_) = mode {
            privileges::check()?;
        }
        let descriptors = socket::raise_file_limit();
        let clock = Clock::start();
        let telemetry = Telemetry::new(&admin.istio_version, move || clock.now());
        let authority = authority(environment, &identity, &mode)?;
        let (certificates, manager) = identity::start(authority, telemetry.control_plane().clone());
        let Seating { seat, call, cause } = be_seated(handover.as_ref());
        let mesh = xds.map(|xds| Mesh::new(&xds, store.clone(), &telemetry, call.is_some())).transpose()?;
        let names = dns.as_ref().map_or(&[][..], |dns| &dns.addresses);
        let (resident, own) = match &mode {
            ProxyMode::Dedicated(workload) => {
                let resident = resident(workload, &listeners, names, &sockets);
                if call.is_none() {
                    // What can't be bound is said before anything runs.
                    resident.bind()?;
                }
                (Some(resident), None)
            }
            ProxyMode::Shared(shared) => {
                let bind = |own: &WorkloadName| Ok((own.clone(), Listeners::bind_own(listeners.hbone)?));
                (None, shared.own.as_ref().map(bind).transpose().map_err(|error: ListenError| error)?)
            }
        };

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
            location,
            pods: Pods::default(),
            home: Arc::new(Namespace::current()?),
            inbound,
            bind_address: listeners.bind_address,
            descriptors,
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
        let dns = dns.map(|config| answer_names(config, &shared)).transpose()?;
        let hosting = Arc::new(Hosting::new(shared.clone(), listeners, dns));
        let readiness = Readiness::default();
        let node_agent = match &mode {
            ProxyMode::Shared(config) => {
                Some(NodeAgent::new(config, hosting.clone(), readiness.clone(), &shared.telemetry))
            }
            ProxyMode::Dedicated(_) => None,
        };
        let client = node_agent.as_ref().map(|agent| agent.client().clone());
        let status = Status::new(pod_name(environment), shared.telemetry.handover().clone());
        status.available(cause.as_deref());
        let (operators, quits) = Operators::new(
            &admin,
            &shared,
            readiness.clone(),
            client.clone(),
            log_handle,
            Shown { config, static_config, handover: status.clone() },
        );
        if call.is_none() || resident.is_none() {
            operators.bind()?;
        }
        let (known, is_known) = watch::channel(mesh.is_none());
        let local_mesh = LocalMesh::new(mesh.as_ref().map(Mesh::client), shared.store.clone(), known);
        let path = handover.as_ref().map(|handover| handover.socket.clone()).unwrap_or_default();
        let (role, notices) = NodeRole::new(hosting.clone(), client, operators, resident, path, is_known);
        if call.is_some() {
            role.not_ready_without(readiness.pending("hand-over"));
        }
        let unproved = call.is_some().then(|| readiness.pending("certificate"));
        let (voice, ear) = Handover::new();
        hosting.tell(voice.clone());
        let candidacy = handover.map(|config| Candidacy {
            config,
            card: card(environment, &mode, &shared.location, &identity),
            mesh: local_mesh.clone(),
            role: role.clone(),
            shared: shared.clone(),
            status: status.clone(),
            readiness: readiness.clone(),
            ear,
            memory: Memory::default(),
        });
        let control = Control {
            shared: shared.clone(),
            drain,
            manager: Box::pin(manager),
            mesh,
            local_mesh,
            node_agent,
            hosting: hosting.clone(),
            role,
            notices,
            candidature: Candidature {
                handover: voice,
                status,
                candidacy,
                seat,
                call,
                identity: own_identity(&mode, &identity),
                unproved,
            },
            readiness,
            quits,
        };
        Ok(Self { shared, workers, hosting, own, control, log })
    }

    /// Runs until it is told to end and has drained.
    pub(super) fn serve(self) -> ExitCode {
        let handles: Vec<Handle> = self.workers.iter().map(|(_, handle)| handle.clone()).collect();
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
        if let Some((workload, listeners)) = self.own {
            self.hosting.serve_resident(workload, listeners);
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
    mode: &ProxyMode,
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
            Ok(control_plane::authority(remote, identity.secret_ttl, mode)?)
        }
    }
}

/// The workload that this process lives with, whose listeners another process may give.
fn resident(
    workload: &WorkloadName,
    listeners: &ListenerConfig,
    names: &[SocketAddr],
    sockets: &SocketConfig,
) -> Resident {
    let (listeners, names, sockets) = (listeners.clone(), names.to_vec(), sockets.clone());
    let bind = move || Ok(Listeners::bind(&listeners, &names, &sockets)?);
    Resident::new(workload.clone(), Box::new(bind))
}

/// What was found at the place of the hand-over.
#[derive(Default)]
struct Seating {
    /// Nobody was there.
    seat: Option<Seat>,
    /// Somebody is.
    call: Option<Channel>,
    /// Why hand-over isn't available, if it isn't.
    cause: Option<String>,
}

fn be_seated(config: Option<&HandoverConfig>) -> Seating {
    let Some(config) = config else {
        return Seating { cause: Some("HANDOVER is off".to_owned()), ..Seating::default() };
    };
    let begun = Instant::now();
    // If its owner is gone and somebody stood by, that one comes first: connections wait at its listening sockets.
    let mut gives_way = config.socket.exists();
    loop {
        match Seat::take(&config.socket) {
            Ok(Taken::Free(seat)) if std::mem::take(&mut gives_way) => {
                drop(seat);
                std::thread::sleep(Duration::from_millis(2 * limits::LOCK_RETRY_MS));
            }
            Ok(Taken::Free(seat)) => return Seating { seat: Some(seat), ..Seating::default() },
            Ok(Taken::Held(channel)) => return Seating { call: Some(channel), ..Seating::default() },
            // It may be just about to listen.
            Err(SeatError::Silent { .. }) if begun.elapsed() < Duration::from_millis(limits::HELLO_MS) => {
                std::thread::sleep(Duration::from_millis(limits::LOCK_RETRY_MS));
            }
            Err(error) => {
                let path = config.socket.display();
                tracing::error!(%path, %error, "connections can't be handed over: starting as stock does");
                return Seating { cause: Some(error.to_string()), ..Seating::default() };
            }
        }
    }
}

/// What this process is called; without a name it is nobody's former self.
fn pod_name(environment: &Environment) -> String {
    let name =
        environment.get("POD_NAME").map_or_else(|| format!("process-{}", std::process::id()), str::to_owned);
    format!("{}/{name}", environment.get("POD_NAMESPACE").unwrap_or_default())
}

/// What must be equal for connections to move.
fn card(
    environment: &Environment,
    mode: &ProxyMode,
    location: &LocationConfig,
    identity: &IdentityConfig,
) -> Card {
    let mode = match mode {
        ProxyMode::Shared(_) => "shared".to_owned(),
        ProxyMode::Dedicated(workload) => format!("dedicated, {workload}"),
    };
    let facts = [
        ("mode", mode),
        ("cluster", location.cluster.clone()),
        ("network", location.network.clone()),
        ("node", location.node.clone().unwrap_or_default()),
        ("trust domain", identity.trust_domain.clone()),
    ];
    let compatibility = facts.map(|(name, value)| (name.to_owned(), value)).into();
    let roots = match &identity.authority {
        CertificateAuthorityConfig::Remote(remote) => Some(remote.roots.clone()),
        CertificateAuthorityConfig::Fake => None,
    };
    Card { pod: pod_name(environment), compatibility, roots }
}

/// For whom a fresh process has a certificate signed before it takes over, if that is known.
fn own_identity(mode: &ProxyMode, identity: &IdentityConfig) -> Option<Identity> {
    let workload = match mode {
        ProxyMode::Dedicated(workload) => workload,
        ProxyMode::Shared(shared) => shared.own.as_ref()?,
    };
    let WorkloadName { namespace, service_account, .. } = workload;
    format!("spiffe://{}/ns/{namespace}/sa/{service_account}", identity.trust_domain).parse().ok()
}

/// Starts the thread that answers the pods' questions of names.
fn answer_names(config: DnsConfig, shared: &Shared) -> std::io::Result<Dns> {
    let (addresses, sockets) = (config.addresses.clone(), shared.sockets.clone());
    let (proxy, _) = dns::start(config, sockets, shared.store.clone(), shared.telemetry.dns().clone())?;
    Ok(Dns { proxy, addresses })
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

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
