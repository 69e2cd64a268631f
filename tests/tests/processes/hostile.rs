//! Peers that do what they must not. Each is refused and told apart in the log and in the metrics, and a transfer that
//! runs at the same time never notices.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use demo::node::Node;
use demo::traffic::{Dial, Server, socks5};
use rustls::ClientConfig;
use tests::certificates::{Credentials, Root};
use tests::stock::{
    self, Frame, HBONE_PORT, LARGE_FRAMES, Scripted, ServerConfig, client_config, connect_tls,
};
use tests::traffic::{Traffic, all_whole, bulk, idle};
use tests::wait;
use tests::world::{APPLICATION, Host, Variant, World, identity, log_line};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::NODE;

in_both_variants! {
    bad_clients_are_refused
    bad_servers_are_refused
}

/// Two nodes and a transfer between them that must not be disturbed.
struct Bystander {
    world: World,
    client: Node,
    server: Node,
    application: Server,
    traffic: Traffic,
}

impl Bystander {
    async fn new(variant: Variant, plan: demo::traffic::Plan) -> Self {
        let world = World::new(NODE, variant);
        // What becomes of tunnels is told at debug.
        let debug = [("RUST_LOG", "debug")];
        let (client, server) = (world.node(Host::Client, &debug), world.node(Host::Server, &debug));
        let application = world.application(Host::Server);
        let traffic = Traffic::start(Dial::Socks5(client.socks5()), vec![application.address()], plan);
        traffic.progress().await;
        Self { world, client, server, application, traffic }
    }

    /// It has gone on all the time, on the connections that it began with.
    async fn finish(self) {
        self.traffic.progress().await;
        let counts = self.traffic.counts();
        assert_eq!(counts.opened, counts.open(), "a connection was lost and replaced");
        self.traffic.finish();
        all_whole(self.application.tally()).await;
        self.world.check(&self.client);
        self.world.check(&self.server);
    }
}

async fn bad_clients_are_refused(variant: Variant) {
    let bystander = Bystander::new(variant, bulk()).await;
    let Bystander { world, server: node, .. } = &bystander;
    let to = world.at(Host::Server, HBONE_PORT);
    let failures = || failed_handshakes(node, "server");

    for (number, bytes) in [&[0x5a; 300][..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].into_iter().enumerate() {
        let mut connection = TcpStream::connect(to).await.expect("the node listens");
        let source = connection.local_addr().expect("an open socket");
        connection.write_all(bytes).await.expect("an open socket");
        assert_ends(&mut connection).await;
        log_line(node, &["connection failed", &format!("src.addr={source} "), "tls handshake"]).await;
        wait::until("the failure is counted", || failures() == 1.0 + number as f64).await;
    }

    let trusting = |credentials| Credentials { roots: world.credentials("stock").roots, ..credentials };
    let foreign_root = trusting(Root::new("a foreign root").certify(&identity("stock")));
    let foreign_domain = "spiffe://other.example/ns/demo/sa/stock";
    let table = [
        (client_config(world.credentials("stock"), &identity("server"), false), "certificate"),
        (client_config(foreign_root, &identity("server"), true), "UnknownIssuer"),
        (client_config(world.certify(foreign_domain), &identity("server"), true), foreign_domain),
    ];
    for (number, (config, reason)) in table.into_iter().enumerate() {
        assert_refused(world, to, config).await;
        let source = format!("src.addr={}:", world.ip(Host::Stock));
        log_line(node, &["connection failed", &source, "tls handshake", reason]).await;
        wait::until("the failure is counted", || failures() == 3.0 + number as f64).await;
    }

    // Somebody whom we know, and who does not speak HTTP/2.
    let mut tls = connect_tls(world.ip(Host::Stock), to, world.stock_tls()).await.expect("a handshake");
    tls.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("an open socket");
    assert_ends(&mut tls).await;
    log_line(node, &["tunnel lost", &format!("peer={}:", world.ip(Host::Stock)), &identity("stock")]).await;

    // And after all that a good one.
    let good = world.stock_tunnel(LARGE_FRAMES).await;
    assert_eq!(good.open(&bystander.application.address().to_string()).await.expect("an answer").status, 200);
    drop(good);
    bystander.traffic.progress().await;
    bystander.finish_after_stranger().await;
}

impl Bystander {
    /// As `finish`, when a stranger has opened a connection to the application and said nothing.
    async fn finish_after_stranger(self) {
        self.traffic.progress().await;
        let counts = self.traffic.finish();
        assert_eq!(counts.opened, 1, "the connection was lost and replaced");
        self.world.check(&self.client);
        self.world.check(&self.server);
    }
}

async fn bad_servers_are_refused(variant: Variant) {
    let bystander = Bystander::new(variant, bulk()).await;
    let Bystander { world, client: node, .. } = &bystander;
    let target = world.at(Host::Stock, APPLICATION);
    let address = world.at(Host::Stock, HBONE_PORT);
    let imposter = || world.credentials("client");
    let stranger = || Credentials {
        roots: world.credentials("stock").roots,
        ..Root::new("a foreign root").certify(&identity("stock"))
    };
    let cases: [(Credentials, &[&str]); 2] = [
        (imposter(), &["the server presented", "sa/client", "expected", "sa/stock"]),
        (stranger(), &["UnknownIssuer"]),
    ];
    for (number, (credentials, reasons)) in cases.into_iter().enumerate() {
        let server =
            stock::Server::start(address, credentials, ServerConfig::default()).await.expect("a free port");
        let mut user = socks5::connect(node.socks5(), target).await.expect("a SOCKS5 server");
        assert_ends(&mut user).await;
        let mut parts =
            vec!["connection complete", "src.workload=\"client\"", "dst.workload=\"stock\"", "error="];
        parts.extend(reasons);
        log_line(node, &parts).await;
        let metrics = node.metrics().expect("metrics");
        let labels = [("response_flags", "TLS_FAILURE"), ("destination_workload", "stock")];
        let failed = metrics.sum("istio_tcp_connections_failed_total", &labels);
        assert_eq!(failed, 1.0 + number as f64);
        assert_eq!(failed_handshakes(node, "client"), 1.0 + number as f64);
        server.kill().await;
    }
    bystander.finish().await;
}

/// Real time: 10 s for a handshake, 10 s until a PING and 20 s for its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn silence_has_its_limits() {
    let bystander = Bystander::new(Variant::Moving, idle(3)).await;
    let Bystander { world, client, server, .. } = &bystander;
    let begun = Instant::now();
    let mut half = half_a_hello(world).await.expect("the node listens");
    let mut mute = TcpStream::connect(world.at(Host::Server, HBONE_PORT)).await.expect("the node listens");

    let listener = TcpListener::bind(world.at(Host::Stock, HBONE_PORT)).await.expect("a free port");
    let (user, tunnel) = tokio::join!(
        socks5::connect(client.socks5(), world.at(Host::Stock, APPLICATION)),
        Scripted::accept(&listener, world.credentials("stock")),
    );
    let (mut user, mut tunnel) = (user.expect("a SOCKS5 server"), tunnel.expect("a tunnel"));
    let request = tunnel.next(Frame::HEADERS).await.expect("a request");
    tunnel.send(&Frame::ok(request.stream)).await.expect("a peer");

    assert_ends(&mut half).await;
    assert_ends(&mut mute).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?} for a handshake", begun.elapsed());
    wait::until("both are counted", || failed_handshakes(server, "server") == 2.0).await;
    log_line(server, &["connection failed", "timed out: tls handshake"]).await;

    let swallowed = tokio::spawn(tunnel.swallow());
    let seen = user.read(&mut [0; 16]).await;
    assert!(seen.is_err(), "a cut connection looks like a whole one: {seen:?}");
    let lasted = begun.elapsed();
    assert!(
        lasted > Duration::from_secs(25) && lasted < Duration::from_secs(40),
        "{lasted:?} for a silent peer"
    );
    log_line(client, &["connection complete", "dst.workload=\"stock\"", "error=", "PING"]).await;
    swallowed.await.expect("no panic").ok();
    bystander.finish().await;
}

/// The first part of a genuine ClientHello.
async fn half_a_hello(world: &World) -> io::Result<TcpStream> {
    let name = rustls::pki_types::ServerName::IpAddress(world.ip(Host::Server).into());
    let mut hello = Vec::new();
    let mut connection = rustls::ClientConnection::new(world.stock_tls(), name).map_err(io::Error::other)?;
    connection.write_tls(&mut hello)?;
    let mut socket = TcpStream::connect(world.at(Host::Server, HBONE_PORT)).await?;
    socket.write_all(&hello[..hello.len() / 2]).await?;
    Ok(socket)
}

/// With TLS 1.3 a client learns that it is refused only from what follows its own last flight.
async fn assert_refused(world: &World, to: SocketAddr, config: Arc<ClientConfig>) {
    if let Ok(mut tls) = connect_tls(world.ip(Host::Stock), to, config).await {
        let seen = tls.read(&mut [0; 64]).await;
        assert!(seen.is_err(), "no alert: {seen:?}");
    }
}

/// Whatever comes, it comes to an end.
async fn assert_ends(connection: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(wait::PATIENCE, connection.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is still open");
}

fn failed_handshakes(node: &Node, role: &str) -> f64 {
    node.metrics().expect("metrics").sum("ztunnel_tunnels_failed_total", &[("role", role)])
}
