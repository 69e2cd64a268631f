//! Applications in network namespaces, unaware of the proxies that take their connections: what istio-cni makes of pods.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use demo::mesh::{Mesh, Workload};
use demo::netns::PACKET_MARK;
use demo::node::{Control, Node, NodeConfig, Proxy, Serves};
use demo::place::Place;
use demo::traffic::conversation::{ConversationError, Head, Pattern, Receiver, Sender};
use demo::traffic::pattern::{Cursor, Direction};
use demo::traffic::{Server, Tally};
use tempfile::TempDir;
use tests::pods::{Pod, Pods};
use tests::wait::{self, PATIENCE};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[test]
fn two_hundred_connections_of_unaware_applications() {
    let Some(scene) = Scene::new(&[]) else { return };
    // The long form: 1 GiB.
    let total: u64 = if std::env::var("NETNS_LONG").is_ok() { 1 << 30 } else { 100 << 20 };
    let each_way = total / u64::from(CONNECTIONS) / 2;
    let server = SocketAddr::new(Pod::Server.address(), APPLICATION);
    let application = Server::start(&scene.place(Pod::Server), server).expect("the application listens");
    let begun = Instant::now();
    let failures =
        scene.place(Pod::Client).run(|| converse(server, each_way)).expect("the namespace is there");
    let took = begun.elapsed();
    assert!(failures.is_empty(), "{failures:?}\n{}", scene.logs());
    // The applications' servers may still be at the ends that their clients have seen.
    wait::until_blocking("every connection ends at the server, too", || {
        let counts = application.tally().counts();
        counts.closed + counts.failed == u64::from(CONNECTIONS)
    });
    let counts = application.tally().counts();
    assert_eq!(
        (counts.closed, counts.failed),
        (CONNECTIONS.into(), 0),
        "{:?}\n{}",
        counts.failures,
        scene.logs()
    );
    assert_eq!([counts.checked, counts.sent], [each_way * u64::from(CONNECTIONS); 2]);
    println!("{CONNECTIONS} connections, {} MiB in {} ms", total >> 20, took.as_millis());

    // They went through both proxies and nowhere else.
    for (node, reporter) in [(&scene.client, "source"), (&scene.server, "destination")] {
        let metrics = node.metrics().expect("metrics");
        let labels = [("reporter", reporter), ("connection_security_policy", "mutual_tls")];
        let opened = metrics.sum("istio_tcp_connections_opened_total", &labels);
        assert_eq!(opened, f64::from(CONNECTIONS), "of {reporter}\n{}", scene.logs());
        assert_eq!(metrics.sum("ztunnel_worker_panics_total", &[]), 0.0);
    }
}

#[test]
fn the_source_is_the_applications_own_and_policies_judge_by_it() {
    // The first port is for the client pod, the second for whoever comes without a proxy.
    let policies = [
        allow(
            "client",
            CLIENTS_PORT,
            &format!(r#""principals":[{{"Exact":"{CLIENT_PRINCIPAL}"}}],"sourceIps":["10.78.0.1/32"]"#),
        ),
        allow("plain", PLAIN_PORT, r#""sourceIps":["10.78.0.3/32"]"#),
    ];
    let Some(scene) = Scene::new(&policies) else { return };
    let clients = scene.listen(Pod::Server, CLIENTS_PORT);
    let plains = scene.listen(Pod::Server, PLAIN_PORT);

    // Through the tunnel, and in plain text through 15006: the application sees who it was.
    let from_client = scene.visit(Pod::Client, Pod::Server, &clients);
    assert_eq!(from_client, Visit::From(Pod::Client.address()), "{}", scene.logs());
    let from_plain = scene.visit(Pod::Plain, Pod::Server, &plains);
    assert_eq!(from_plain, Visit::From(Pod::Plain.address()), "{}", scene.logs());

    // And each is kept from the other's port.
    assert_eq!(scene.visit(Pod::Client, Pod::Server, &plains), Visit::Refused, "{}", scene.logs());
    assert_eq!(scene.visit(Pod::Plain, Pod::Server, &clients), Visit::Refused, "{}", scene.logs());

    for (security, flags) in
        [("mutual_tls", "-"), ("unknown", "-"), ("mutual_tls", "DENY"), ("unknown", "DENY")]
    {
        let labels = [
            ("reporter", "destination"),
            ("connection_security_policy", security),
            ("response_flags", flags),
        ];
        wait::until_blocking(format!("one connection is closed with {labels:?}"), || {
            let metrics = scene.server.metrics().expect("metrics");
            metrics.sum("istio_tcp_connections_closed_total", &labels) == 1.0
        });
    }
}

#[test]
fn what_the_mesh_does_not_know_is_passed_through() {
    let Some(scene) = Scene::new(&[]) else { return };
    let application = scene.listen(Pod::Plain, APPLICATION);
    let visit = scene.visit(Pod::Client, Pod::Plain, &application);
    assert_eq!(visit, Visit::From(Pod::Client.address()), "{}", scene.logs());
    // It did go by way of the proxy.
    let metrics = scene.client.metrics().expect("metrics");
    let labels = [("reporter", "source"), ("connection_security_policy", "unknown")];
    assert_eq!(metrics.sum("istio_tcp_connections_opened_total", &labels), 1.0, "{}", scene.logs());
    // Nobody listens there: the application learns it.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    silent.set_nonblocking(true).expect("a socket option");
    assert_eq!(scene.visit(Pod::Client, Pod::Plain, &silent), Visit::Refused, "{}", scene.logs());
}

/// Pods, with a node in two of them. The pod without one is no workload of the mesh.
struct Scene {
    client: Node,
    server: Node,
    _directory: TempDir,
    // Last: it has to outlive the processes in it.
    pods: Pods,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    /// It arrived, from this address as the application sees it, and all bytes were right in both directions.
    From(IpAddr),
    /// It was closed.
    Refused,
}

impl Scene {
    fn new(policies: &[String]) -> Option<Self> {
        let pods = Pods::create()?;
        let directory = tempfile::tempdir().expect("a directory");
        let workload = |pod: Pod| Workload::new(pod.name(), &format!("node-{}", pod.name()), pod.address());
        let workloads = vec![workload(Pod::Client), workload(Pod::Server)];
        let mesh = Mesh { workloads: workloads.clone(), services: Vec::new(), policies: policies.to_vec() };
        let node = |workload: &Workload, pod| {
            let set = |name: &str, value: String| (name.to_owned(), value);
            let config = NodeConfig {
                name: workload.node.clone(),
                serves: Serves::Workload { info: workload.proxy_workload_info(), bind: None },
                control: Control::File { mesh: mesh.to_string() },
                place: pods.place(pod),
                workers: 2,
                move_interval: None,
                handover: None,
                environment: vec![
                    set("ENABLE_ORIG_SRC", "true".to_owned()),
                    set("PACKET_MARK", PACKET_MARK.to_string()),
                ],
                directory: directory.path().to_owned(),
            };
            let proxy = Proxy::at(Path::new(env!("CARGO_BIN_EXE_node")));
            let mut node = Node::start(&proxy, &config).expect("the node starts");
            node.wait_ready(PATIENCE).expect("the node becomes ready");
            node
        };
        let client = node(&workloads[0], Pod::Client);
        let server = node(&workloads[1], Pod::Server);
        Some(Self { client, server, _directory: directory, pods })
    }

    fn place(&self, pod: Pod) -> Place {
        self.pods.place(pod)
    }

    fn listen(&self, pod: Pod, port: u16) -> TcpListener {
        let listener = self.place(pod).run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.expect("the namespace is there").expect("its ports are free");
        listener.set_nonblocking(true).expect("a socket option");
        listener
    }

    /// Connects an application in `from` to the real address of `to`, where `application` listens.
    fn visit(&self, from: Pod, to: Pod, application: &TcpListener) -> Visit {
        let port = application.local_addr().expect("it listens").port();
        let address = SocketAddr::new(to.address(), port);
        let connected = self.place(from).run(|| std::net::TcpStream::connect_timeout(&address, PATIENCE));
        let mut client = match connected.expect("the namespace is there") {
            Ok(client) => client,
            // A proxy takes the connection, and may have aborted it before this side has looked.
            Err(error) if refused(&error) => return Visit::Refused,
            Err(error) => panic!("{address}: {error}"),
        };
        client.set_nonblocking(true).expect("a socket option");
        let begun = Instant::now();
        let (mut arrived, source) = loop {
            if let Ok(arrived) = application.accept() {
                break arrived;
            }
            match client.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if refused(&error) => return Visit::Refused,
                Ok(0) => return Visit::Refused,
                other => panic!("{address}: {other:?} before anything was sent"),
            }
            assert!(begun.elapsed() < PATIENCE, "nothing arrives at {address}\n{}", self.logs());
            thread::sleep(Duration::from_millis(1));
        };
        for stream in [&client, &arrived] {
            stream.set_nonblocking(false).expect("a socket option");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        }
        carry(&mut client, &mut arrived, Direction::Upload);
        carry(&mut arrived, &mut client, Direction::Download);
        drop(client);
        assert_eq!(arrived.read(&mut [0]).expect("an end"), 0, "the end arrives, too");
        Visit::From(source.ip())
    }

    fn logs(&self) -> String {
        let read = |node: &Node| {
            let log = std::fs::read_to_string(node.log()).unwrap_or_default();
            let bad = log.lines().filter(|line| line.contains("\twarn\t") || line.contains("\terror\t"));
            bad.collect::<Vec<_>>().join("\n")
        };
        format!("client's node:\n{}\nserver's node:\n{}", read(&self.client), read(&self.server))
    }
}

fn refused(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
}

/// Sends what fits into any socket's buffers one way and checks it at the other end.
fn carry(from: &mut std::net::TcpStream, to: &mut std::net::TcpStream, direction: Direction) {
    let sent = Cursor::new(1, direction).next(SHORT);
    from.write_all(sent).expect("the connection is open");
    let mut arrived = vec![0; SHORT];
    to.read_exact(&mut arrived).expect("the connection is open");
    Cursor::new(1, direction).check(&arrived).expect("the bytes that were sent");
}

/// All connections at once; half of them end the client's direction first, the others the server's. What went wrong.
fn converse(server: SocketAddr, length: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        for number in 0..u64::from(CONNECTIONS) {
            connections.spawn(connection(server, number, length));
        }
        let results = connections.join_all().await;
        results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect()
    })
}

async fn connection(server: SocketAddr, connection: u64, length: u64) -> Result<(), ConversationError> {
    let refused = |source| ConversationError::Connect { connection, source };
    let mut stream = TcpStream::connect(server).await.map_err(refused)?;
    let client_first = connection.is_multiple_of(2);
    let pattern = if client_first { Pattern::HalfCloseClientFirst } else { Pattern::HalfCloseServerFirst };
    let (reader, writer) = stream.split();
    let tally = Tally::new();
    let mut from = Receiver::new(reader, connection, Direction::Download, &tally);
    let mut to = Sender::new(writer, connection, Direction::Upload, &tally);
    to.control(&Head { pattern, connection, length }.encode()).await?;
    if client_first {
        to.all_of(length).await?;
        from.all_of(length).await
    } else {
        from.all_of(length).await?;
        to.all_of(length).await
    }
}

/// A policy for the whole mesh: connections to `port` that are as `condition` says are allowed.
fn allow(name: &str, port: u16, condition: &str) -> String {
    format!(
        r#"{{"name":"{name}","namespace":"istio-system","scope":"Global","action":"Allow","rules":[[[{{"destinationPorts":[{port}],{condition}}}]]]}}"#
    )
}

const CLIENT_PRINCIPAL: &str = "cluster.local/ns/demo/sa/client";
const APPLICATION: u16 = 8_080;
const CLIENTS_PORT: u16 = 9_001;
const PLAIN_PORT: u16 = 9_002;
const CONNECTIONS: u32 = 200;
const SHORT: usize = 32 << 10;
