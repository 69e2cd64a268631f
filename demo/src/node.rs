//! A node: one proxy process, started, asked and stopped.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::addresses::alone;
use crate::place::{Place, PlaceError};

mod environment;
pub mod http;
pub mod metrics;
mod serves;

use environment::environment;
use http::{Answer, HttpError};
use metrics::Metrics;
pub use serves::{OwnPod, Serves};

/// The port of the admin pages.
pub const ADMIN_PORT: u16 = 15_000;
/// The port that captured outbound connections are redirected to.
pub const OUTBOUND_PORT: u16 = 15_001;
/// The port that captured inbound plaintext connections are redirected to.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15_006;
/// The port of tunnels (HBONE).
pub const TUNNEL_PORT: u16 = 15_008;
/// The port of the metrics.
pub const METRICS_PORT: u16 = 15_020;
/// The port that says whether the node is ready.
pub const READINESS_PORT: u16 = 15_021;
/// The port of the SOCKS5 server.
pub const SOCKS5_PORT: u16 = 15_080;

/// Every TCP port that a node listens on.
pub const PORTS: [u16; 7] = [
    ADMIN_PORT,
    OUTBOUND_PORT,
    INBOUND_PLAINTEXT_PORT,
    TUNNEL_PORT,
    METRICS_PORT,
    READINESS_PORT,
    SOCKS5_PORT,
];

/// If set to `true`, the proxy of this package's binary ends when its standard input does: it cannot outlive whoever
/// started it.
pub const STOP_WITH_STDIN: &str = "DEMO_STOP_WITH_STDIN";

/// Which program is the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The program file.
    pub program: PathBuf,
    /// What is said to it on the command line.
    pub arguments: Vec<String>,
}

impl Proxy {
    /// The running program itself, which has to be the `demo` binary.
    ///
    /// # Errors
    /// The system does not tell where the program is.
    pub fn own() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self { program, arguments: vec!["ztunnel".to_owned(), "proxy".to_owned()] })
    }

    /// A `ztunnel` binary: this project's, or another build to compare with.
    pub fn at(program: &Path) -> Self {
        Self { program: program.to_owned(), arguments: vec!["proxy".to_owned()] }
    }
}

/// Who tells a node about the cluster, and who signs its certificates.
#[derive(Debug, Clone)]
pub enum Control {
    /// A file, and the node itself (`FAKE_CA`).
    File {
        /// The cluster: YAML, see [`Mesh`](crate::mesh::Mesh).
        mesh: String,
    },
    /// A control plane, such as [a replica](crate::control_plane::Replica).
    ControlPlane {
        /// Its URL, for mesh state and certificates.
        address: String,
        /// The file with the roots that its certificate has to chain to.
        root: PathBuf,
        /// The file with the token that the node shows.
        token: PathBuf,
    },
}

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The node's name for messages and files.
    pub name: String,
    /// Whom it serves.
    pub serves: Serves,
    /// Where it learns of the cluster and gets its certificates.
    pub control: Control,
    /// The network namespace.
    pub place: Place,
    /// Data-plane threads.
    pub workers: usize,
    /// How often every tunnel moves to the next worker; `None` is never.
    pub move_interval: Option<Duration>,
    /// The socket by which proxies of this node take each other's place; `None` if each is alone.
    pub handover: Option<PathBuf>,
    /// More environment variables; they win over those that follow from the rest.
    pub environment: Vec<(String, String)>,
    /// Where its log goes, and the mesh file if there is one.
    pub directory: PathBuf,
}

/// Something went wrong with a node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port that the node needs is taken.
    #[error("{node} needs {address}, but it is taken: {source}. Is another proxy running there?")]
    PortBusy {
        /// Its name.
        node: String,
        /// What it needs.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy program could not be started.
    #[error("{node}: the proxy {} cannot be started: {source}", program.display())]
    Start {
        /// Its name.
        node: String,
        /// The program file.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the node could not be written.
    #[error("{node}: {} cannot be written: {source}", path.display())]
    File {
        /// Its name.
        node: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process ended, unasked.
    #[error("{node} ended by itself ({status}). Its last words:\n{last_words}")]
    Died {
        /// Its name.
        node: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        last_words: String,
    },
    /// The process runs but did not become ready in time.
    #[error("{node} is not ready after {} s: {answer}. Its last words:\n{last_words}", waited.as_secs())]
    NotReady {
        /// Its name.
        node: String,
        /// How long it was given.
        waited: Duration,
        /// What its readiness page said last.
        answer: String,
        /// The end of its log.
        last_words: String,
    },
    /// A page of the node could not be fetched.
    #[error("{node} does not answer on {address}{path}: {source}")]
    Page {
        /// Its name.
        node: String,
        /// The listener.
        address: SocketAddr,
        /// The page.
        path: String,
        /// Why.
        source: HttpError,
    },
    /// A page answered with an error.
    #[error("{node} answers {status} on {address}{path}: {body}")]
    Status {
        /// Its name.
        node: String,
        /// The listener.
        address: SocketAddr,
        /// The page.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What came with it.
        body: String,
    },
    /// The process could not be waited for or signalled.
    #[error("{node}: {source}")]
    Process {
        /// Its name.
        node: String,
        /// What the system said.
        source: io::Error,
    },
    /// The network namespace is not there.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// How a node ended that was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// By itself, after SIGTERM.
    Itself(ExitStatus),
    /// It did not end in time and was killed.
    Killed,
}

/// A running proxy process. Dropping it kills the process: none is left behind.
#[derive(Debug)]
pub struct Node {
    name: String,
    child: Child,
    place: Place,
    pages: IpAddr,
    log: PathBuf,
}

impl Node {
    /// Starts the process. It may not be ready yet: see [`Node::wait_ready`].
    ///
    /// # Errors
    /// A port is busy (unless another proxy may be there to be replaced), the program cannot be started, a file cannot be written.
    pub fn start(proxy: &Proxy, config: &NodeConfig) -> Result<Self, NodeError> {
        let name = config.name.clone();
        if config.handover.is_none() {
            config.place.run(|| check_ports(config))??;
        }
        let log = config.directory.join(format!("{name}.log"));
        let file_error = |path: &Path| {
            let (node, path) = (name.clone(), path.to_owned());
            move |source| NodeError::File { node, path, source }
        };
        if let Control::File { mesh } = &config.control {
            let path = mesh_file(config);
            fs::write(&path, mesh).map_err(file_error(&path))?;
        }
        let output = File::create(&log).map_err(file_error(&log))?;
        let errors = output.try_clone().map_err(file_error(&log))?;

        let mut command = Command::new(&proxy.program);
        command
            .args(&proxy.arguments)
            .env_clear()
            .envs(environment(config))
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors);
        // Ctrl-C goes to a terminal's whole process group; nodes are stopped in order instead.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = config
            .place
            .run(|| {
                let _alone = alone();
                command.spawn()
            })?
            .map_err(|source| NodeError::Start {
                node: name.clone(),
                program: proxy.program.clone(),
                source,
            })?;
        let pages = config.serves.bind().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Self { name, child, place: config.place.clone(), pages, log })
    }

    /// Waits until the node says that it is ready.
    ///
    /// # Errors
    /// The process ended, or it is not ready within `patience`.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<(), NodeError> {
        let begun = Instant::now();
        loop {
            self.check_alive()?;
            let answer = match self.page(READINESS_PORT, "/healthz/ready") {
                Ok(Answer { status: 200, .. }) => return Ok(()),
                Ok(Answer { status, body }) => format!("it says {status} {}", body.trim()),
                Err(error) => error.to_string(),
            };
            if begun.elapsed() >= patience {
                let (node, last_words) = (self.name.clone(), self.last_words());
                return Err(NodeError::NotReady { node, waited: patience, answer, last_words });
            }
            thread::sleep(POLL);
        }
    }

    /// An error if the process has ended.
    ///
    /// # Errors
    /// [`NodeError::Died`] with the end of its log.
    pub fn check_alive(&mut self) -> Result<(), NodeError> {
        let Some(status) = self.ended()? else { return Ok(()) };
        let (node, last_words) = (self.name.clone(), self.last_words());
        Err(NodeError::Died { node, status, last_words })
    }

    /// How the process has ended, if it has.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, NodeError> {
        self.child.try_wait().map_err(|source| NodeError::Process { node: self.name.clone(), source })
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// It has ended.
    pub fn send(&self, signal: Signal) -> Result<(), NodeError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|errno| NodeError::Process { node: self.name.clone(), source: errno.into() })
    }

    /// The node's metrics.
    ///
    /// # Errors
    /// The page cannot be fetched.
    pub fn metrics(&self) -> Result<Metrics, NodeError> {
        self.ok_page(METRICS_PORT, "/metrics").map(|text| Metrics::parse(&text))
    }

    /// The node's live connections: JSON, a list.
    ///
    /// # Errors
    /// The page cannot be fetched.
    pub fn connections(&self) -> Result<String, NodeError> {
        self.ok_page(ADMIN_PORT, "/connections")
    }

    /// Any page of the node, whatever its status.
    ///
    /// # Errors
    /// There is no answer.
    pub fn page(&self, port: u16, path: &str) -> Result<Answer, NodeError> {
        self.page_within(http::TIMEOUT, port, path)
    }

    /// As [`Node::page`], but without patience for more than `limit` of silence.
    ///
    /// # Errors
    /// There is no answer.
    pub fn page_within(&self, limit: Duration, port: u16, path: &str) -> Result<Answer, NodeError> {
        let address = SocketAddr::new(self.pages, port);
        let answer = self.place.run(|| http::get_within(limit, address, path))?;
        answer.map_err(|source| NodeError::Page {
            node: self.name.clone(),
            address,
            path: path.to_owned(),
            source,
        })
    }

    /// The process id, for tests that measure or end it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its SOCKS5 server listens.
    pub fn socks5(&self) -> SocketAddr {
        SocketAddr::new(self.pages, SOCKS5_PORT)
    }

    /// The file with its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Tells the process to end (SIGTERM), waits for at most `grace`, then kills it.
    ///
    /// # Errors
    /// The process cannot be signalled or waited for.
    pub fn stop(mut self, grace: Duration) -> Result<Stopped, NodeError> {
        if self.ended()?.is_none() {
            self.send(Signal::TERM)?;
        }
        let begun = Instant::now();
        while begun.elapsed() < grace {
            if let Some(status) = self.ended()? {
                return Ok(Stopped::Itself(status));
            }
            thread::sleep(POLL);
        }
        let error = |source| NodeError::Process { node: self.name.clone(), source };
        self.child.kill().map_err(error)?;
        self.child.wait().map_err(error)?;
        Ok(Stopped::Killed)
    }

    fn ok_page(&self, port: u16, path: &str) -> Result<String, NodeError> {
        let Answer { status, body } = self.page(port, path)?;
        if status == 200 {
            return Ok(body);
        }
        let address = SocketAddr::new(self.pages, port);
        Err(NodeError::Status { node: self.name.clone(), address, path: path.to_owned(), status, body })
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        if lines.is_empty() {
            return "  (it said nothing)".to_owned();
        }
        let last = lines.len().saturating_sub(LAST_WORDS);
        lines[last..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const POLL: Duration = Duration::from_millis(20);
const LAST_WORDS: usize = 12;

fn check_ports(config: &NodeConfig) -> Result<(), NodeError> {
    let _alone = alone();
    let ip = config.serves.bind().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    for &port in config.serves.ports() {
        let address = SocketAddr::new(ip, port);
        TcpListener::bind(address).map_err(|source| NodeError::PortBusy {
            node: config.name.clone(),
            address,
            source,
        })?;
    }
    Ok(())
}

fn mesh_file(config: &NodeConfig) -> PathBuf {
    config.directory.join(format!("{}.yaml", config.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path, bind: IpAddr) -> NodeConfig {
        NodeConfig {
            name: "node-test".to_owned(),
            serves: Serves::Workload { info: "demo/test/test".to_owned(), bind: Some(bind) },
            control: Control::File { mesh: "workloads: []\n".to_owned() },
            place: Place::Here,
            workers: 2,
            move_interval: Some(Duration::from_millis(50)),
            handover: None,
            environment: Vec::new(),
            directory: directory.to_owned(),
        }
    }

    fn shell(script: &str) -> Proxy {
        Proxy { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script.to_owned()] }
    }

    #[test]
    fn a_node_that_dies_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let addresses = crate::addresses::LoopbackAddresses::claim(&PORTS).expect("addresses");
        let script = "echo \"I am $PROXY_WORKLOAD_INFO, moving every $TUNNEL_MOVE_INTERVAL\"; exit 3";
        let mut node =
            Node::start(&shell(script), &config(directory.path(), addresses.client)).expect("a shell");
        let error = node.wait_ready(Duration::from_secs(20)).expect_err("it has ended");
        let text = error.to_string();
        assert!(text.contains("node-test ended by itself (exit status: 3)"), "{text}");
        assert!(text.contains("I am demo/test/test, moving every 50ms"), "{text}");
    }

    #[test]
    fn a_node_that_never_becomes_ready_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let addresses = crate::addresses::LoopbackAddresses::claim(&PORTS).expect("addresses");
        let idle = shell("echo thinking; read line");
        let mut node = Node::start(&idle, &config(directory.path(), addresses.client)).expect("a shell");
        let text = node.wait_ready(Duration::from_millis(300)).expect_err("nobody listens").to_string();
        assert!(text.starts_with("node-test is not ready after 0 s: node-test does not answer on"), "{text}");
        assert!(text.contains("/healthz/ready"), "{text}");
    }

    #[test]
    fn a_busy_port_and_a_missing_program_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let addresses = crate::addresses::LoopbackAddresses::claim(&PORTS).expect("addresses");
        let config = config(directory.path(), addresses.client);
        let missing = Proxy::at(Path::new("/nonexistent/ztunnel"));
        let error = Node::start(&missing, &config).expect_err("no such program");
        assert!(error.to_string().contains("/nonexistent/ztunnel cannot be started"), "{error}");

        let busy = TcpListener::bind((addresses.client, TUNNEL_PORT)).expect("a free port");
        let error = Node::start(&shell("true"), &config).expect_err("a busy port");
        let expected = format!("node-test needs {}:15008, but it is taken", addresses.client);
        assert!(error.to_string().starts_with(&expected), "{error}");
        drop(busy);
    }

    #[test]
    fn a_node_that_ignores_the_request_to_stop_is_killed() {
        let directory = tempfile::tempdir().expect("a directory");
        let addresses = crate::addresses::LoopbackAddresses::claim(&PORTS).expect("addresses");
        let config = config(directory.path(), addresses.client);
        let start = |script| {
            let node = Node::start(&shell(script), &config).expect("a shell");
            let begun = Instant::now();
            while fs::read_to_string(node.log()).unwrap_or_default().is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(20), "the shell says nothing");
                thread::yield_now();
            }
            node
        };
        let stubborn = start("trap '' TERM; echo here; while :; do read line; done; sleep 100");
        assert_eq!(stubborn.stop(Duration::from_millis(100)).ok(), Some(Stopped::Killed));
        let polite = start("trap 'exit 7' TERM; echo here; while :; do sleep 0.01; done");
        let stopped = polite.stop(Duration::from_secs(20)).expect("it ends");
        assert!(matches!(stopped, Stopped::Itself(status) if status.code() == Some(7)), "{stopped:?}");
    }
}
