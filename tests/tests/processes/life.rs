//! What operators see of a connection and of a process, from begin to end.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demo::node::metrics::Metrics;
use demo::node::{ADMIN_PORT, Node, READINESS_PORT, Stopped};
use demo::traffic::{Dial, Plan, socks5};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::stock::{HBONE_PORT, LARGE_FRAMES};
use tests::traffic::{Traffic, all_whole, bulk};
use tests::wait;
use tests::world::{APPLICATION, Host, SERVICE, Variant, World, identity, log, log_line};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::NODE;

in_both_variants! {
    a_connection_is_told_once_by_each_side
    an_open_connection_is_shown
    a_process_that_is_told_to_end_lets_connections_end
    who_may_have_a_successor_goes_on_accepting
    what_outlasts_the_deadline_is_cut_and_told
}

async fn a_connection_is_told_once_by_each_side(variant: Variant) {
    let world = World::new(NODE, variant);
    let (client, server) = (world.node(Host::Client, &[]), world.node(Host::Server, &[]));
    let target = world.at(Host::Server, APPLICATION);
    let listener = TcpListener::bind(target).await.expect("a free port");
    let service = world.at(Host::Service, SERVICE);
    let (mut near, mut far) = joined(&client, service, &listener).await;
    let source = near.local_addr().expect("an open socket");
    near.write_all(&[1; 84]).await.expect("an open connection");
    near.shutdown().await.expect("an open connection");
    far.read_exact(&mut [0; 84]).await.expect("an open connection");
    assert_eq!(far.read(&mut [0; 1]).await.expect("an end"), 0);
    far.write_all(&[2; 239]).await.expect("an open connection");
    drop(far);
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.expect("an end");
    assert_eq!(answer.len(), 239);

    let complete = ["connection complete"];
    let outbound = masked(&log_line(&client, &complete).await, "src.addr=127.");
    let inbound = masked(&log_line(&server, &complete).await, "src.addr=127.");
    let node = world.at(Host::Server, HBONE_PORT);
    let party = |end, name| {
        let identity = identity(name);
        format!(
            "{end}.workload=\"{name}\" {end}.namespace=\"demo\" {end}.identity=\"{identity}\" {end}.cluster=\"Kubernetes\""
        )
    };
    let expected = |source: IpAddr, direction, sent, received| {
        format!(
            "info\taccess\tconnection complete\tsrc.addr={source}:N {} dst.addr={node} dst.hbone_addr={target} \
             dst.service=\"server.demo.svc.cluster.local\" {} direction=\"{direction}\" bytes_sent={sent} \
             bytes_recv={received} duration=\"Nms\"",
            party("src", "client"),
            party("dst", "server"),
        )
    };
    assert!(log(&client).contains(&format!("src.addr={source} ")));
    assert_eq!(outbound, expected(source.ip(), "outbound", 84, 239));
    assert_eq!(inbound, expected(world.ip(Host::Client), "inbound", 239, 84));
    for (node, reporter) in [(&client, "source"), (&server, "destination")] {
        let metrics = node.metrics().expect("metrics");
        assert_eq!(traffic_of(&metrics, reporter), [1.0, 1.0, 0.0, 84.0, 239.0], "{reporter}");
        let open = || node.metrics().expect("metrics").sum("istio_tcp_sockets_open", &[]);
        wait::until("no socket is counted as open", || open() == 0.0).await;
    }

    let nobody = world.at(Host::Server, APPLICATION + 1);
    let mut refused = socks5::connect(client.socks5(), nobody).await.expect("a SOCKS5 server");
    let seen = refused.read(&mut [0; 1]).await;
    assert!(matches!(seen, Ok(0) | Err(_)), "{seen:?}");
    let who = format!("dst.hbone_addr={nobody}");
    log_line(&client, &["error\taccess\tconnection complete", &who, "error=\"http status: 503\""]).await;
    log_line(
        &server,
        &["error\taccess\tconnection complete", &who, &identity("client"), "Connection refused"],
    )
    .await;
    let metrics = client.metrics().expect("metrics");
    assert_eq!(traffic_of(&metrics, "source"), [2.0, 2.0, 1.0, 84.0, 239.0]);
    world.check(&client);
    world.check(&server);
}

/// An application's connection to `target` and its other end.
async fn joined(node: &Node, target: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (near, far) = tokio::join!(socks5::connect(node.socks5(), target), listener.accept());
    (near.expect("a SOCKS5 server"), far.expect("a connection").0)
}

/// The line without its time, and with `N` for its duration and for the port of the address that begins with `address`.
fn masked(line: &str, address: &str) -> String {
    let (_, line) = line.split_once('\t').expect("a line begins with its time");
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut masked = line.to_owned();
    for before in [address, "duration=\""] {
        let place = masked.find(before).expect("every line has it") + before.len();
        let place = if before == address {
            place + masked[place..].find(':').expect("an address has a port") + 1
        } else {
            place
        };
        let end = place + digits(&masked[place..]);
        masked.replace_range(place..end, "N");
    }
    masked
}

/// Opened, closed, failed, received, sent.
fn traffic_of(metrics: &Metrics, reporter: &str) -> [f64; 5] {
    ["connections_opened", "connections_closed", "connections_failed", "received_bytes", "sent_bytes"]
        .map(|name| metrics.sum(&format!("istio_tcp_{name}_total"), &[("reporter", reporter)]))
}

async fn an_open_connection_is_shown(variant: Variant) {
    let world = World::new(NODE, variant);
    let (client, server) = (world.node(Host::Client, &[]), world.node(Host::Server, &[]));
    let target = world.at(Host::Server, APPLICATION);
    let listener = TcpListener::bind(target).await.expect("a free port");
    let (mut near, mut far) = joined(&client, target, &listener).await;
    near.write_all(b"hello").await.expect("an open connection");
    far.read_exact(&mut [0; 5]).await.expect("an open connection");
    for (node, direction) in [(&client, "outbound"), (&server, "inbound")] {
        // A tunnel is shown by nobody for the moment that it moves.
        let mut shown = Vec::new();
        // Bytes are counted once they are written, so the application may have them first.
        wait::until("stream and tunnel are shown, and the bytes", || {
            shown = list(node);
            shown.len() == 2 && shown.iter().any(|entry| entry["bytesReceived"] == 5)
        })
        .await;
        let stream = shown.iter().find(|entry| {
            entry["hbone_destination"] != Value::Null || entry["hboneDestination"] != Value::Null
        });
        let stream = stream.expect("a stream");
        assert_eq!(stream["direction"], direction);
        assert_eq!(stream["hboneDestination"], target.to_string());
        assert_eq!(stream["source"]["identity"], identity("client"));
        assert_eq!(stream["destination"]["workload"], "server");
        assert_eq!(stream["bytesReceived"], 5);
    }
    let dump = client.page(ADMIN_PORT, "/config_dump").expect("a page");
    assert!(!dump.body.contains("PRIVATE"), "a key is shown");
    let dump: Value = serde_json::from_str(&dump.body).expect("JSON");
    assert_eq!(dump["workloads"].as_array().map(Vec::len), Some(4));
    assert_eq!(dump["services"][0]["hostname"], "server.demo.svc.cluster.local");
    assert_eq!(dump["certificates"][0]["identity"], identity("client"));
    assert_eq!(client.page(READINESS_PORT, "/healthz/ready").expect("a page").status, 200);
    drop((near, far));
    wait::until("the stream is gone", || list(&client).len() <= 1).await;
    world.check(&client);
}

fn list(node: &Node) -> Vec<Value> {
    let shown: Value = serde_json::from_str(&node.connections().expect("a page")).expect("JSON");
    shown["connections"].as_array().cloned().expect("a list")
}

async fn a_process_that_is_told_to_end_lets_connections_end(variant: Variant) {
    let world = World::new(NODE, variant);
    let patient = [("CONNECTION_TERMINATION_DEADLINE", "60s")];
    let (client, server) = (world.node(Host::Client, &[]), world.node(Host::Server, &patient));
    let application = world.application(Host::Server);
    let traffic = Traffic::start(
        Dial::Socks5(client.socks5()),
        vec![application.address()],
        Plan { idle: 3, ..bulk() },
    );
    traffic.progress().await;
    let stock = world.stock_tunnel(LARGE_FRAMES).await;

    terminate(&server);
    wait::until("it says that it is not ready", || {
        server.page(READINESS_PORT, "/healthz/ready").is_ok_and(|answer| answer.status == 500)
    })
    .await;
    wait::until("nothing new is accepted", || {
        std::net::TcpStream::connect(world.at(Host::Server, HBONE_PORT)).is_err()
    })
    .await;
    // A stream that comes before the peer has seen GOAWAY is served, and may be broken off by the peer when it has: the
    // application is left out of that.
    let authority = world.at(Host::Server, APPLICATION + 1).to_string();
    let mut told = false;
    for _ in 0..1_000 {
        told = stock.open(&authority).await.is_err_and(|error| error.is_go_away() || error.is_io());
        if told {
            break;
        }
    }
    assert!(told, "peers are told");
    traffic.progress().await;
    assert_eq!(traffic.counts().opened, 4, "connections were lost and replaced");
    world.check(&server);
    traffic.finish();
    all_whole(application.tally()).await;
    drop(stock);
    assert_eq!(exit_code(server), Some(0));
    world.check(&client);
}

async fn who_may_have_a_successor_goes_on_accepting(variant: Variant) {
    let world = World::new(NODE, variant);
    let patient = [("CONNECTION_TERMINATION_DEADLINE", "120s"), ("DRAIN_ACCEPT_WINDOW", "100s")];
    let (client, server) = (world.node(Host::Client, &[]), world.node(Host::Server, &patient));
    let target = world.at(Host::Server, APPLICATION);
    let listener = TcpListener::bind(target).await.expect("a free port");
    let before = joined(&client, target, &listener).await;

    terminate(&server);
    log_line(&server, &["info", "waiting for a successor", "streams=1", "accepts_for=", "time_left="]).await;
    assert_eq!(server.page(READINESS_PORT, "/healthz/ready").expect("a page").status, 500);
    // Also on a tunnel of its own, which a direct one is.
    let stock = world.stock_tunnel(LARGE_FRAMES).await;
    let after = joined(&client, target, &listener).await;
    for (mut near, mut far) in [before, after] {
        near.write_all(b"hello").await.expect("an open connection");
        far.read_exact(&mut [0; 5]).await.expect("an open connection");
    }
    // Without connections it waits all the same, but not for who asks twice.
    wait::until("they are gone", || list(&server).iter().all(|one| one["kind"] != "stream")).await;
    drop(stock);
    world.check(&server);
    send(&server, Signal::INT);
    log_line(&server, &["info", "drained: the process ends", "ended=2", "cut=0"]).await;
    assert_eq!(exit_code(server), Some(0));
    world.check(&client);
}

async fn what_outlasts_the_deadline_is_cut_and_told(variant: Variant) {
    let world = World::new(NODE, variant);
    let hasty = [("CONNECTION_TERMINATION_DEADLINE", "300ms")];
    let (client, server) = (world.node(Host::Client, &[]), world.node(Host::Server, &hasty));
    let target = world.at(Host::Server, APPLICATION);
    let listener = TcpListener::bind(target).await.expect("a free port");
    let (mut near, mut far) = joined(&client, target, &listener).await;
    near.write_all(b"hello").await.expect("an open connection");
    far.read_exact(&mut [0; 5]).await.expect("an open connection");

    terminate(&server);
    for end in [&mut near, &mut far] {
        let seen = end.read(&mut [0; 1]).await;
        assert!(seen.is_err(), "a cut connection looks like a whole one: {seen:?}");
    }
    log_line(&server, &["the drain deadline has come", "connections="]).await;
    let identities = [identity("client"), identity("server")];
    let [source, destination] = ["src", "dst"].map(|end| format!("{end}.identity="));
    let parts = [
        "warn",
        "cut",
        "kind=\"stream\"",
        "bytes_recv=5",
        &source,
        &identities[0],
        &destination,
        &identities[1],
    ];
    log_line(&server, &parts).await;
    log_line(&server, &["info", "drained: the process ends", "ended=0", "left=0"]).await;
    let parts =
        ["error\taccess\tconnection complete", "connection closed due to connection drain", "bytes_recv=5"];
    log_line(&server, &parts).await;
    assert_eq!(exit_code(server), Some(0));
    log_line(&client, &["error\taccess\tconnection complete", &identity("server")]).await;
    world.check(&client);
}

fn terminate(node: &Node) {
    send(node, Signal::TERM);
}

fn send(node: &Node, signal: Signal) {
    let id = i32::try_from(node.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(id, signal).expect("our own child");
}

fn exit_code(node: Node) -> Option<i32> {
    match node.stop(Duration::from_secs(20)).expect("our own child") {
        Stopped::Itself(status) => status.code(),
        Stopped::Killed => None,
    }
}
