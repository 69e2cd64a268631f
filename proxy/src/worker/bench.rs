//! A worker that is turned by hand, and what talks to it, all on one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use hbone::{
    ConnectRequest, Connection, Event, Handshake, Inbox, Outbox, Secrets, SessionConfig, StreamId, Time,
};
use mio::Events;
use xds::Store;

use super::leg::Adrift;
use super::placing::{Fresh, Onward};
use super::user::{Origin, Stage};
use super::{
    FrozenConnection, Given, Handle, Listening, Mailbox, Message, MoveError, PreparedConnection, Taken,
    Worker,
};
use crate::clock::Clock;
use crate::config::{InboundConfig, LocationConfig, LogFormat, SocketConfig};
use crate::identity::{self, Certificates, Credentials, Lookup};
use crate::inbound;
use crate::namespace::Namespace;
use crate::plan::Plan;
use crate::pod::{Pod, Pods, WorkloadName};
use crate::pool::{Directory, Loads};
use crate::shared::{Http2, PoolLimits, Shared};
use crate::telemetry::log::testing::logged;
use crate::telemetry::{Observation, Telemetry};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The workload that the workers serve, and whose identity it has.
pub(super) const LOCAL: &str = "{uid: local, name: local, namespace: shop, serviceAccount: local, \
    workloadIps: [127.0.0.1], protocol: HBONE}";
pub(super) const LOCAL_IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/local";
const PEER: &str = "spiffe://cluster.local/ns/shop/sa/peer";

pub(super) fn mesh(workload: &str) -> String {
    format!("workloads: [{workload}]")
}

/// A pod whose workload has this name.
pub(super) fn pod(shared: &Shared, name: &str) -> Arc<Pod> {
    let workload = WorkloadName { namespace: "shop".into(), name: name.into(), service_account: name.into() };
    Arc::new(Pod::new(name, workload, shared.home.clone(), false))
}

/// Workers of one proxy.
pub(super) struct Bench {
    pub(super) shared: Arc<Shared>,
    /// The pod of [`LOCAL`].
    pub(super) pod: Arc<Pod>,
    pub(super) workers: Vec<Worker>,
    pub(super) handles: Vec<Handle>,
    /// What the control plane was asked for.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    peer: Arc<Credentials>,
}

impl Bench {
    /// With `workers` workers and this mesh, in YAML.
    pub(super) fn new(workers: usize, mesh: &str) -> Self {
        let store = Store::new();
        let clock = Clock::start();
        let telemetry = Telemetry::new("test", move || clock.now());
        let certificates = certificates(&telemetry);
        // The workers' own has come by the time that they ask.
        credentials(&certificates, LOCAL_IDENTITY);
        let peer = credentials(&certificates, PEER);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asks = asked.clone();
        let shared = Arc::new(Shared {
            clock,
            store,
            demand: Some(Box::new(move |name: &str| asks.lock().unwrap().push(name.to_owned()))),
            certificates,
            telemetry,
            registry: drain::Registry::new(workers),
            directory: Directory::new(),
            loads: Loads::new(workers),
            sockets: SocketConfig { keepalive: None, user_timeout: None, mark: None },
            pool: PoolLimits {
                max_streams: 100,
                unused_release_timeout_ms: 60_000,
                max_tunnels_per_peer: 64,
            },
            http2: Http2 { client: SessionConfig::client(), server: SessionConfig::server() },
            location: LocationConfig {
                network: String::new(),
                node: None,
                cluster: "Kubernetes".into(),
                cluster_domain: "cluster.local".into(),
            },
            inbound: InboundConfig { response_baggage: false, policy_decisions_at_info: false },
            pods: Pods::default(),
            home: Arc::new(Namespace::current().unwrap()),
            bind_address: None,
            descriptors: 20_000,
            own_ports: Vec::new(),
            workers: OnceLock::new(),
        });
        let pod = pod(&shared, "local");
        shared.pods.insert(pod.clone());
        let bench =
            Self { shared: shared.clone(), pod, workers: Vec::new(), handles: Vec::new(), asked, peer };
        bench.apply(mesh);
        let mailboxes: Vec<_> = (0..workers).map(|_| Mailbox::new().unwrap()).collect();
        let (handles, mailboxes): (Vec<_>, Vec<_>) = mailboxes.into_iter().unzip();
        assert!(shared.workers.set(handles.clone()).is_ok());
        let running = mailboxes.into_iter().enumerate();
        let workers = running.map(|(id, mailbox)| Worker::new(id, shared.clone(), mailbox, None).unwrap());
        Self { workers: workers.collect(), handles, ..bench }
    }

    /// Adds to the mesh.
    pub(super) fn apply(&self, mesh: &str) {
        let config = xds::local::load(mesh).unwrap_or_else(|error| panic!("{mesh}: {error}"));
        self.shared.store.update(|edit| config.apply(edit));
    }

    /// Adds to the mesh, and says so to every worker.
    pub(super) fn change(&mut self, mesh: &str) {
        self.apply(mesh);
        self.recheck();
    }

    pub(super) fn recheck(&mut self) {
        for handle in &self.handles {
            handle.post(Message::Recheck);
        }
    }

    /// One turn of every worker; none waits for events.
    pub(super) fn turn(&mut self) {
        let mut events = Events::with_capacity(64);
        for (worker, handle) in self.workers.iter_mut().zip(&self.handles) {
            handle.post(Message::Wake(usize::MAX));
            worker.turn(&mut events).unwrap();
        }
    }

    /// Turns until `done` gives something.
    pub(super) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(done) = done(self) {
                return done;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
            self.turn();
        }
    }

    /// Turns until nothing is left of the rounds that were asked for.
    pub(super) fn settle(&mut self) {
        self.turn();
        self.until("the round ends", |bench| {
            bench.workers.iter().all(|worker| worker.recheck.is_over()).then_some(())
        });
        self.turn();
    }

    /// How many connections were judged again so far.
    pub(super) fn judged(&self) -> u64 {
        let text = self.shared.telemetry.exposition();
        let line = text.lines().find_map(|line| line.strip_prefix("ztunnel_rechecks_total "));
        line.unwrap().parse().unwrap()
    }

    /// A peer's connection to port 15008 that the first worker has just been given; the peer's end.
    pub(super) fn knock(&mut self) -> TcpStream {
        let (stream, theirs) = sockets();
        let source = theirs.local_addr().unwrap();
        self.handles[0].post(Message::Fresh(Box::new(Fresh::Tunnel {
            stream: Adrift::new(stream, self.pod.clone()),
            origin: self.origin(source, Listening::Tunnels),
        })));
        theirs
    }

    /// A peer's tunnel to the first worker.
    pub(super) fn tunnel(&mut self) -> Peer {
        let mut theirs = self.knock();
        let tls = self.peer.client([LOCAL_IDENTITY]).unwrap();
        let mut handshake = Handshake::client(&tls, SessionConfig::client()).unwrap();
        self.until("the handshake", |_| {
            let n = theirs.write(handshake.output()).unwrap();
            handshake.advance(n);
            let mut bytes = [0; 16 * 1024];
            match theirs.read(&mut bytes) {
                Ok(n) => handshake.receive(&bytes[..n]).unwrap(),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            handshake.is_complete().then_some(())
        });
        let connection = handshake.finish(Time(0)).unwrap().connection;
        Peer {
            socket: theirs,
            connection,
            inbox: Inbox::with_capacity(64 * 1024),
            outbox: Outbox::with_capacity(64 * 1024),
            events: Vec::new(),
            ended: false,
        }
    }

    /// A plain connection to `destination` for the first worker, judged already; the client's end.
    pub(super) fn plain(&mut self, destination: SocketAddr) -> TcpStream {
        let (fresh, theirs) = self.judged_plain(destination);
        self.handles[0].post(Message::Fresh(Box::new(fresh)));
        theirs
    }

    /// A plain connection that was judged, and is on its way to the worker that will keep it.
    pub(super) fn judged_plain(&mut self, destination: SocketAddr) -> (Fresh, TcpStream) {
        let (stream, theirs) = sockets();
        let source = theirs.local_addr().unwrap();
        let workload = self.shared.local_workload(&self.pod).unwrap();
        let Plan::Direct { to, from, facts } =
            inbound::plan_plain(&self.shared, &self.pod, &workload, source, destination)
        else {
            panic!("it is not let in");
        };
        let origin = self.origin(source, Listening::Passthrough);
        origin.tracked.set_facts(*facts);
        let observation = Observation::open(&self.shared.telemetry, origin.tracked);
        let stream = Adrift::new(stream, self.pod.clone());
        (Fresh::Plain { stream, onward: Onward { to, from }, observation }, theirs)
    }

    /// A connection of the local workload, or to it, that the first worker has just accepted; the client's end.
    pub(super) fn user(&mut self, listener: Listening, destination: SocketAddr) -> (usize, TcpStream) {
        let (stream, theirs) = sockets();
        let origin = self.origin(theirs.local_addr().unwrap(), listener);
        let stage = Stage::AwaitWorkload { destination, origin };
        let key = self.workers[0].insert_user(Adrift::new(stream, self.pod.clone()), stage).unwrap();
        self.workers[0].drive_user(key);
        (key, theirs)
    }

    /// A SOCKS5 client of the first worker that hasn't said anything; its end.
    pub(super) fn greeting(&mut self) -> TcpStream {
        let (stream, theirs) = sockets();
        let origin = self.origin(theirs.local_addr().unwrap(), Listening::Socks5);
        let stage = Stage::Greeting { buffer: Vec::new(), agreed: false, origin };
        self.workers[0].insert_user(Adrift::new(stream, self.pod.clone()), stage).unwrap();
        theirs
    }

    fn origin(&self, source: SocketAddr, listener: Listening) -> Origin {
        let facts = super::accept::socket_facts(listener, source);
        let tracked = self.shared.registry.track(0, drain::Kind::Setup, facts, 0);
        Origin { source, listener, tracked }
    }

    /// Takes a tunnel out of the first worker, asks `meanwhile`, and gives it to the last one.
    pub(super) fn move_tunnel(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        let frozen = self.frozen();
        meanwhile(self);
        self.thaw(frozen).unwrap();
    }

    /// Takes the one connection that there is out of the first worker. What its old owner keeps is let go of at once.
    pub(super) fn frozen(&mut self) -> FrozenConnection {
        let mut given = self.give(usize::MAX, usize::MAX, false);
        assert_eq!(given.len(), 1);
        let (frozen, kept) = given.pop().unwrap();
        kept.released();
        frozen
    }

    /// What the first worker gives away.
    pub(super) fn give(&mut self, most: usize, descriptors: usize, canary: bool) -> Vec<Given> {
        let (send, given) = mpsc::channel();
        let reply = Box::new(move |connections| send.send(connections).unwrap());
        self.handles[0].post(Message::GiveConnections {
            most,
            descriptors,
            canary,
            but: Arc::default(),
            reply,
        });
        self.turn();
        given.recv().unwrap()
    }

    /// Gives a connection to the last worker, as another process would get it.
    pub(super) fn thaw(&mut self, frozen: FrozenConnection) -> Result<Taken, MoveError> {
        let prepared = self.prepare(&frozen.record, frozen.sockets)?;
        let news = self.take(prepared, frozen.secrets);
        self.until("it runs", |_| news.taken.try_recv().ok())
    }

    pub(super) fn prepare(
        &self,
        record: &[u8],
        sockets: Vec<OwnedFd>,
    ) -> Result<PreparedConnection, MoveError> {
        let frozen_at = crate::clock::monotonic_ns();
        PreparedConnection::read(record, sockets, frozen_at, &self.shared.pods, self.shared.clock.now())
    }

    /// Has the last worker run a connection, and prove it; what it says of that.
    pub(super) fn take(&mut self, prepared: PreparedConnection, secrets: Option<Secrets>) -> News {
        let (send, taken) = mpsc::channel();
        let (prove, proved) = mpsc::channel();
        self.handles.last().unwrap().post(Message::TakeConnection {
            prepared: Box::new(prepared),
            secrets,
            // A test need not listen.
            taken: Box::new(move |result| drop(send.send(result))),
            proved: Some(Box::new(move |result| drop(prove.send(result)))),
        });
        News { taken, proved }
    }
}

/// What a worker says of a connection that it was given.
pub(super) struct News {
    pub(super) taken: mpsc::Receiver<Result<Taken, MoveError>>,
    pub(super) proved: mpsc::Receiver<Result<(), String>>,
}

/// An application of the local workload, and the connections that it has accepted.
pub(super) struct Application {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    /// Fills the backlog of one that doesn't accept.
    _filler: Option<TcpStream>,
}

impl Application {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { address: listener.local_addr().unwrap(), listener, _filler: None }
    }

    /// One whose backlog is full: connecting to it neither succeeds nor fails.
    pub(super) fn stuck() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        Self { listener, address, _filler: Some(TcpStream::connect(address).unwrap()) }
    }

    pub(super) fn accept(&self) -> Option<TcpStream> {
        let (socket, _) = self.listener.accept().ok()?;
        socket.set_nonblocking(true).unwrap();
        Some(socket)
    }
}

/// What a socket says without waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    Bytes(Vec<u8>),
    Reset,
    End,
}

pub(super) fn hear(mut socket: &TcpStream) -> Heard {
    let mut bytes = [0; 1024];
    match socket.read(&mut bytes) {
        Ok(0) => Heard::End,
        Ok(n) => Heard::Bytes(bytes[..n].to_vec()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Heard::Nothing,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            Heard::Reset
        }
    }
}

/// The other end of a tunnel.
pub(super) struct Peer {
    pub(super) socket: TcpStream,
    connection: Connection,
    inbox: Inbox,
    outbox: Outbox,
    events: Vec<Event>,
    /// The tunnel is over.
    pub(super) ended: bool,
}

impl Peer {
    pub(super) fn connect(&mut self, to: SocketAddr) -> StreamId {
        let stream = self.connection.connect(&ConnectRequest::connect(to.to_string(), Vec::new())).unwrap();
        self.exchange();
        stream
    }

    pub(super) fn send(&mut self, stream: StreamId, bytes: &[u8]) {
        self.exchange();
        assert_eq!(self.connection.send(stream, bytes, &mut self.outbox).unwrap(), bytes.len());
        self.exchange();
    }

    /// Writes and reads what there is, and returns what has happened to the streams.
    pub(super) fn exchange(&mut self) -> Vec<Event> {
        while !self.connection.unsent().is_empty() {
            let n = self.socket.write(self.connection.unsent()).unwrap();
            self.connection.advance(n);
        }
        self.connection.flush(&mut self.outbox).unwrap();
        let n = if self.outbox.is_empty() { 0 } else { self.socket.write(self.outbox.sealed()).unwrap_or(0) };
        self.connection.written(&mut self.outbox, n);
        match self.socket.read(self.inbox.space(&self.connection)) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                let read = self.connection.receive(Time(0), &mut self.inbox, n, &mut self.events);
                self.ended |= read.is_err() || self.connection.is_done();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
        std::mem::take(&mut self.events)
    }
}

/// The log of a test. Each that uses a [`Bench`] has one: the place of a log call that a thread without one comes to
/// first may stay silent for the others.
pub(super) fn played(scene: impl FnOnce()) -> Vec<String> {
    logged("info", LogFormat::Plain, scene)
}

/// Two ends of a TCP connection, neither of which blocks.
fn sockets() -> (mio::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
    }
    (mio::net::TcpStream::from_std(ours), theirs)
}

/// The manager of certificates runs on a thread of its own.
fn certificates(telemetry: &Telemetry) -> Certificates {
    let metrics = telemetry.control_plane().clone();
    let (certificates, manager) = identity::start(identity::testing::fake_authority(), metrics);
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(manager);
    });
    certificates
}

fn credentials(certificates: &Certificates, identity: &str) -> Arc<Credentials> {
    let identity = identity.parse().unwrap();
    let (send, come) = mpsc::channel();
    certificates.request(&identity, Box::new(move || send.send(()).unwrap()));
    come.recv_timeout(PATIENCE).unwrap();
    match certificates.lookup(&identity) {
        Lookup::Ready(credentials) => credentials,
        other => panic!("{other:?}", other = other.is_pending()),
    }
}
