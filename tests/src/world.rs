//! The world of one test: addresses of its own, a mesh, a root certificate, and nodes in it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use demo::addresses::LoopbackAddresses;
use demo::mesh::{Mesh, Service, Workload};
use demo::node::{Control, Node, NodeConfig, PORTS, Proxy, Serves};
use demo::place::Place;
use demo::traffic::Server;
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::certificates::{Credentials, Root};
use crate::stock::{self, HBONE_PORT, Tunnel};
use crate::wait;

/// How the nodes are set. Every test of traffic runs in both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// One worker; tunnels stay where they are.
    Still,
    /// Two workers, and every tunnel goes to the other one every 5 ms.
    Moving,
}

impl Variant {
    /// The number of workers, and how often every tunnel moves.
    pub fn workers(self) -> (usize, Option<Duration>) {
        match self {
            Self::Still => (1, None),
            Self::Moving => (2, Some(Duration::from_millis(5))),
        }
    }
}

/// Makes a test of each function for each [`Variant`]: `name::still` and `name::moving`.
#[macro_export]
macro_rules! in_both_variants {
    ($($name:ident)*) => {$(
        mod $name {
            use $crate::world::Variant;

            #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn still() {
                super::$name(Variant::Still).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn moving() {
                super::$name(Variant::Moving).await;
            }
        }
    )*};
}

/// The last number of an address in the world: who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Our node of the workload `client`.
    Client = 1,
    /// Our node of the workload `server`.
    Server = 2,
    /// The service that `server` is the endpoint of; nothing listens there.
    Service = 3,
    /// A stock node and its workload `stock`.
    Stock = 10,
    /// The workload `plain`, which has no proxy.
    Plain = 20,
    /// Nobody that the mesh knows.
    Stranger = 30,
    /// A replica of istiod.
    Istiod = 40,
    /// Another replica.
    Istiod1 = 41,
    /// Another one.
    Istiod2 = 42,
    /// Another one.
    Istiod3 = 43,
    /// What stands between nodes and istiod.
    Relay = 50,
}

/// The port of applications.
pub const APPLICATION: u16 = 8_080;
/// The port of the service, which leads to [`APPLICATION`].
pub const SERVICE: u16 = 80;

/// See the module.
#[derive(Debug)]
pub struct World {
    program: PathBuf,
    variant: Variant,
    addresses: LoopbackAddresses,
    directory: TempDir,
    root: Root,
    root_files: [PathBuf; 2],
    mesh: Mesh,
}

impl World {
    /// A new world; `program` is the proxy.
    ///
    /// # Panics
    /// There are no addresses or no directory.
    pub fn new(program: &str, variant: Variant) -> Self {
        let mut ports = PORTS.to_vec();
        ports.push(APPLICATION);
        let addresses = LoopbackAddresses::claim(&ports).expect("free addresses");
        let directory = tempfile::tempdir().expect("a directory");
        let root = Root::new("the root of a test");
        let root_files = root.write(directory.path());
        let mut world = Self {
            program: program.into(),
            variant,
            addresses,
            directory,
            root,
            root_files,
            mesh: Mesh::default(),
        };
        let service = Service::new("server", world.ip(Host::Service), SERVICE, APPLICATION);
        let workload = |name, host| Workload::new(name, &format!("node-{name}"), world.ip(host));
        let workloads = vec![
            workload("client", Host::Client),
            workload("server", Host::Server).serving(&service, SERVICE, APPLICATION),
            workload("stock", Host::Stock),
            workload("plain", Host::Plain).plain(),
        ];
        world.mesh = Mesh { workloads, services: vec![service], policies: Vec::new() };
        world
    }

    /// Adds a policy: an item of the mesh file's `policies`, in JSON. Nodes that start later know it.
    pub fn add_policy(&mut self, policy: &str) {
        self.mesh.policies.push(policy.to_owned());
    }

    /// The address of `host`.
    ///
    /// # Panics
    /// The world's addresses are IPv4.
    pub fn ip(&self, host: Host) -> IpAddr {
        let IpAddr::V4(first) = self.addresses.client else { panic!("the addresses are IPv4") };
        let [a, b, c, _] = first.octets();
        Ipv4Addr::new(a, b, c, host as u8).into()
    }

    /// A port of `host`.
    pub fn at(&self, host: Host, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host), port)
    }

    /// Everything that nodes are told.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The workload at `host`.
    ///
    /// # Panics
    /// There is none.
    pub fn workload(&self, host: Host) -> &Workload {
        let address = self.ip(host);
        let mut workloads = self.mesh.workloads.iter();
        workloads.find(|workload| workload.addresses.contains(&address)).expect("a workload of the mesh")
    }

    /// The proxy as it is started.
    pub fn proxy(&self) -> Proxy {
        Proxy::at(&self.program)
    }

    /// Where files of the test may go.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the node of `client` or `server`, with more environment variables, and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn node(&self, host: Host, environment: &[(&str, &str)]) -> Node {
        self.node_by(&self.proxy(), host, environment)
    }

    /// As [`World::node`], by a shell that runs `before` first: to set limits.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn node_after(&self, before: &str, host: Host, environment: &[(&str, &str)]) -> Node {
        let script = format!("{before}; exec {} proxy", self.program.display());
        let shell = Proxy { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script] };
        self.node_by(&shell, host, environment)
    }

    fn node_by(&self, proxy: &Proxy, host: Host, environment: &[(&str, &str)]) -> Node {
        let config = self.config(host, Control::File { mesh: self.mesh.to_string() }, environment);
        started(proxy, &config)
    }

    /// What a node of the workload at `host` is started with that learns of the mesh by `control`.
    ///
    /// # Panics
    /// There is no such workload.
    pub fn config(&self, host: Host, control: Control, environment: &[(&str, &str)]) -> NodeConfig {
        let workload = self.workload(host);
        let [certificate, key] = &self.root_files;
        let own = [("FAKE_CA_ROOT_CERT", certificate), ("FAKE_CA_ROOT_KEY", key)]
            .map(|(name, path)| (name.to_owned(), path.display().to_string()));
        let more = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (workers, move_interval) = self.variant.workers();
        NodeConfig {
            name: workload.node.clone(),
            serves: Serves::Workload { info: workload.proxy_workload_info(), bind: Some(self.ip(host)) },
            control,
            place: Place::Here,
            workers,
            move_interval,
            handover: None,
            environment: own.into_iter().chain(more).collect(),
            directory: self.directory.path().to_owned(),
        }
    }

    /// Starts the application of `host`.
    ///
    /// # Panics
    /// It cannot listen.
    pub fn application(&self, host: Host) -> Server {
        Server::start(&Place::Here, self.at(host, APPLICATION)).expect("the application listens")
    }

    /// Certificate and key of a workload of the mesh.
    pub fn credentials(&self, workload: &str) -> Credentials {
        self.certify(&identity(workload))
    }

    /// A certificate of the world's root for any identity.
    pub fn certify(&self, identity: &str) -> Credentials {
        self.root.certify(identity)
    }

    /// What the stock node dials with: it expects the workload `server`.
    pub fn stock_tls(&self) -> Arc<ClientConfig> {
        stock::client_config(self.credentials("stock"), &identity("server"), true)
    }

    /// A tunnel from the stock node to the node of `server`.
    ///
    /// # Panics
    /// It does not come up.
    pub async fn stock_tunnel(&self, frame: u32) -> Arc<Tunnel> {
        let (from, to) = (self.ip(Host::Stock), self.at(Host::Server, HBONE_PORT));
        Arc::new(Tunnel::connect(from, to, self.stock_tls(), frame).await.expect("a tunnel"))
    }

    /// The stock node, as a server.
    ///
    /// # Panics
    /// It cannot listen.
    pub async fn stock_server(&self, config: stock::ServerConfig) -> stock::Server {
        let address = self.at(Host::Stock, HBONE_PORT);
        stock::Server::start(address, self.credentials("stock"), config).await.expect("the server listens")
    }

    /// As [`check`].
    ///
    /// # Panics
    /// It is not.
    pub fn check(&self, node: &Node) {
        check(self.variant, node);
    }
}

impl Drop for World {
    /// The logs of a failed test stay.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("the nodes' logs are in {}", self.directory.path().display());
        }
    }
}

/// Checks what must be true of a node at the end of every test: nothing panicked, no tunnel was lost in a move, and
/// in the moving variant tunnels did move, if there were more than a few connections.
///
/// # Panics
/// It is not.
pub fn check(variant: Variant, node: &Node) {
    let metrics = node.metrics().expect("metrics");
    assert_eq!(metrics.sum("ztunnel_worker_panics_total", &[]), 0.0, "panics\n{}", log(node));
    let lost = metrics.sum("ztunnel_tunnel_moves_total", &[("result", "lost")]);
    assert_eq!(lost, 0.0, "tunnels lost in moves\n{}", log(node));
    let moved = metrics.sum("ztunnel_tunnel_moves_total", &[("result", "moved")]);
    let connections =
        metrics.sum("istio_tcp_connections_opened_total", &[("connection_security_policy", "mutual_tls")]);
    match variant {
        Variant::Still => assert_eq!(moved, 0.0, "nothing was to move"),
        Variant::Moving => assert!(moved > 0.0 || connections < 10.0, "no tunnel moved"),
    }
}

/// Starts a node and waits until it is ready.
///
/// # Panics
/// It does not become ready.
pub fn started(proxy: &Proxy, config: &NodeConfig) -> Node {
    let mut node = Node::start(proxy, config).expect("the node starts");
    if let Err(error) = node.wait_ready(wait::PATIENCE) {
        panic!("{error}");
    }
    node
}

/// The SPIFFE identity of a workload of the mesh.
pub fn identity(workload: &str) -> String {
    format!("spiffe://{}/ns/{}/sa/{workload}", demo::mesh::TRUST_DOMAIN, demo::mesh::NAMESPACE)
}

/// What a node has logged so far.
///
/// # Panics
/// The file is gone.
pub fn log(node: &Node) -> String {
    let bytes = std::fs::read(node.log()).expect("a node has a log");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until a line of the node's log holds all of `parts`; returns it.
///
/// # Panics
/// No such line comes.
pub async fn log_line(node: &Node, parts: &[&str]) -> String {
    let find = || {
        let log = log(node);
        log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(ToOwned::to_owned)
    };
    let begun = std::time::Instant::now();
    while find().is_none() && begun.elapsed() < wait::PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    find().unwrap_or_else(|| panic!("no line of the log has all of {parts:?}\n{}", log(node)))
}
