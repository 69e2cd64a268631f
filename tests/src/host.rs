//! The data plane as a library: one worker in this very process, without listeners but those that it is given.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use hbone::Secrets;
use ztunnel::clock::{self, Clock};
use ztunnel::config::{InboundConfig, LocationConfig, SocketConfig};
use ztunnel::identity::{self, Certificates, FakeCaConfig, RootFiles};
use ztunnel::namespace::Namespace;
use ztunnel::pod::{Pod, Pods, WorkloadName};
use ztunnel::pool::{Directory, Loads};
use ztunnel::shared::{Http2, PoolLimits, Shared};
use ztunnel::socket::{self, ListenerKind};
use ztunnel::telemetry::{ControlPlaneMetrics, Telemetry};
use ztunnel::worker::{
    Given, Handle, Listening, Mailbox, Message, MoveError, PreparedConnection, Taken, Worker,
};

/// What a host is made of.
#[derive(Debug)]
pub struct HostConfig {
    /// The mesh: YAML, see [`demo::mesh::Mesh`].
    pub mesh: String,
    /// The workload that it serves.
    pub workload: WorkloadName,
    /// Where it is.
    pub location: LocationConfig,
    /// The address that its tunnels come from.
    pub address: IpAddr,
    /// Certificate and key of the root that signs for it.
    pub root: [PathBuf; 2],
    /// How long a tunnel without streams is kept.
    pub unused_release_timeout: Duration,
}

/// See the module. Its threads end with the process.
pub struct Host {
    shared: Arc<Shared>,
    worker: Handle,
    sockets: SocketConfig,
    pod: Arc<Pod>,
}

impl Host {
    /// Starts the worker.
    ///
    /// # Panics
    /// The configuration cannot be used.
    pub fn start(config: HostConfig) -> Self {
        let store = xds::Store::new();
        let mesh = xds::local::load(&config.mesh).expect("a mesh");
        store.update(|edit| mesh.apply(edit));
        let sockets = SocketConfig { keepalive: None, user_timeout: None, mark: None };
        let clock = Clock::start();
        let telemetry = Telemetry::new("test", move || clock.now());
        let home = Arc::new(Namespace::current().expect("this is Linux"));
        let shared = Arc::new(Shared {
            clock,
            store,
            demand: None,
            certificates: certificates(config.root, telemetry.control_plane().clone()),
            telemetry,
            registry: drain::Registry::new(1),
            directory: Directory::new(),
            loads: Loads::new(1),
            sockets: sockets.clone(),
            pool: PoolLimits {
                max_streams: 100,
                unused_release_timeout_ms: u64::try_from(config.unused_release_timeout.as_millis())
                    .expect("a timeout in milliseconds"),
                max_tunnels_per_peer: 64,
            },
            http2: Http2 { client: hbone::SessionConfig::client(), server: hbone::SessionConfig::server() },
            location: config.location,
            pods: Pods::default(),
            home: home.clone(),
            inbound: InboundConfig { response_baggage: true, policy_decisions_at_info: false },
            bind_address: Some(config.address),
            descriptors: usize::MAX,
            own_ports: Vec::new(),
            workers: OnceLock::new(),
        });
        let pod = Arc::new(Pod::new("", config.workload, home, false));
        shared.pods.insert(pod.clone());
        let (worker, mailbox) = Mailbox::new().expect("an event queue");
        let running = Worker::new(0, shared.clone(), mailbox, None).expect("an event queue");
        assert!(shared.workers.set(vec![worker.clone()]).is_ok(), "the workers are set here only");
        thread::spawn(move || running.run().expect("the worker runs"));
        Self { shared, worker, sockets, pod }
    }

    /// Accepts connections at `address`.
    ///
    /// # Errors
    /// It is taken.
    pub fn listen(&self, listening: Listening, address: SocketAddr) -> io::Result<()> {
        let kind = match listening {
            Listening::Tunnels => ListenerKind::Tunnels,
            Listening::Outbound | Listening::Passthrough | Listening::Socks5 => ListenerKind::Users,
        };
        let listener: TcpListener = socket::listen(address, kind, false, &self.sockets)?;
        self.worker.post(Message::Listen(listening, listener, self.pod.clone()));
        Ok(())
    }

    /// Freezes everything that can be moved; tells when that was done, too.
    ///
    /// # Panics
    /// The worker has ended.
    pub fn give(&self) -> (Vec<Given>, Instant) {
        let (send, receive) = mpsc::channel();
        let reply = Box::new(move |given| {
            // Whoever asked waits below.
            send.send((given, Instant::now())).ok();
        });
        let (most, descriptors) = (usize::MAX, usize::MAX);
        self.worker.post(Message::GiveConnections {
            most,
            descriptors,
            canary: false,
            but: Arc::default(),
            reply,
        });
        receive.recv().expect("the worker answers")
    }

    /// Checks what another process wants to give.
    ///
    /// # Errors
    /// It can't run here.
    pub fn prepare(&self, record: &[u8], sockets: Vec<OwnedFd>) -> Result<PreparedConnection, MoveError> {
        let now = self.shared.clock.now();
        PreparedConnection::read(record, sockets, clock::monotonic_ns(), &self.shared.pods, now)
    }

    /// Runs a connection; whether it does can be received.
    pub fn take(
        &self,
        prepared: PreparedConnection,
        secrets: Option<Secrets>,
    ) -> mpsc::Receiver<Result<Taken, MoveError>> {
        let (send, receive) = mpsc::channel();
        let taken = Box::new(move |taken| {
            // Nobody has to wait for it.
            send.send(taken).ok();
        });
        let prepared = Box::new(prepared);
        self.worker.post(Message::TakeConnection { prepared, secrets, taken, proved: None });
        receive
    }
}

/// The manager of certificates runs on a thread of its own.
fn certificates([certificate, key]: [PathBuf; 2], metrics: ControlPlaneMetrics) -> Certificates {
    let root = Some(RootFiles { certificate, key });
    let day = Duration::from_secs(86_400);
    let authority = identity::fake_authority(&FakeCaConfig { ttl: day, root }).expect("a root certificate");
    let (certificates, manager) = identity::start(authority, metrics);
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(manager);
    });
    certificates
}
